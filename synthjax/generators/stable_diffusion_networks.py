"""Stable Diffusion's networks, from a folder or a file, for the generator."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.diffusion import guidance, latents
from synthjax.generators import batching
from synthjax.generators.batching import apply
from synthjax.models import lora
from synthjax.models.stable_diffusion import weights as convert
from synthjax.models.stable_diffusion.text import TextEncoder
from synthjax.models.stable_diffusion.unet import UNet
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.models.stable_diffusion.weights import KIND
from synthjax.runtime import hub
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files, read, snapshots

TOKENIZER = "tokenizer.json"  # beside a file of weights


def locate(
  weights: epath.PathLike | None, *, needs_unet: bool = False
) -> epath.Path:
  """Returns the folder or file; of the hub, a UNet is fetched if needed."""
  return files.locate(
    weights and os.fspath(weights),
    field="generator.weights",
    family=KIND if needs_unet else f"{KIND}_without_unet",
  )


def locate_distilled(place: str | None) -> epath.Path | None:
  """Returns the file of another UNet, here or fetched; None if not asked for.

  Raises:
    UserError: about a place that has none.
  """
  if place is None:
    return None
  if not place.startswith(hub.SCHEME) and not epath.Path(place).exists():
    raise UserError(
      f"config.generator.distilled={place}: there is no such file. Give the "
      "weights of a UNet in diffusers' layout, or hf://ORG/NAME/FILE."
    )
  return epath.Path(snapshots.find_weights(place))


class Networks(NamedTuple):
  """The networks and their schedule, without the weights."""

  unet: UNet
  vae: Autoencoder
  texts: Mapping[str, TextEncoder]  # "text", and "text_2" of XL
  tokenizer: bpe.Tokenizer
  pad_tokens: tuple[str, ...]  # fill prompts up, of each text encoder
  image_size: int  # px that they were trained on
  latent_scale: float  # makes latents of about unit variance
  betas: np.ndarray  # [T]
  prediction: str  # of latents.PREDICTIONS
  spacing: str  # of latents.SPACINGS
  offset: int  # of the spacing "leading"
  ends_clean: bool  # whether DDIM walks on to a latent without noise
  zeros_for_empty: bool  # whether an empty negative prompt is not encoded

  @property
  def factor(self) -> int:
    """How many pixels of a side are one place of a latent."""
    return 2 ** (len(self.vae.widths) - 1)

  def tokens(self, texts: Sequence[str]) -> np.ndarray:
    """Returns int32 [n, k, l] for k encoders: start, text, end, and the pad."""
    length = self.texts["text"].context_length
    tokens = self.tokenizer.clip_tokens(texts, length)
    padded = [
      bpe.pad_clip(tokens, self.tokenizer, pad) for pad in self.pad_tokens
    ]
    return np.stack(padded, axis=1)


_WALKING = ("prediction", "spacing", "offset", "ends_clean")


def load_networks(
  weights: epath.PathLike,
  tokenizer: str | None,
  dtype: str,
  *,
  vae_dtype: str = "float32",
  unet: bool = True,
  distilled: epath.PathLike | None = None,
) -> tuple[Networks, dict[str, Any], dict[str, Any]]:
  """Reads everything, and puts nothing on a device.

  Args:
    weights: a folder in diffusers' layout, or a file that
      `stable_diffusion.weights.pack` has made of one.
    tokenizer: its file, or "embedded:NAME"; None is the one of the folder, or
      TOKENIZER beside the file.
    dtype: of the activations of UNet and text encoders.
    vae_dtype: of those of the autoencoder.
    unet: whether the weights' own UNet is needed.
    distilled: the file of another one.

  Returns:
    The networks; the parameters of "vae", "text", XL's "text_2", and of "unet"
    and "distilled" as asked for, of the dtypes on disk; and hashes of all
    files.

  Raises:
    UserError: about files that are missing, or that do not fit.
  """
  path = epath.Path(weights)
  params, about = _read(path, unet)
  hashes = {"weights": _identify(path, unet)}
  if distilled:
    params["distilled"] = _read_distilled(distilled, path, about)
    parts = {part.name: files.sha256(part) for part in read.parts_of(distilled)}
    hashes["distilled"] = parts or files.sha256(distilled)
  bpe_tokens, tokenizer_hash = read_tokenizer(path, tokenizer)
  noise = about["schedule"]
  betas = latents.BETAS[noise["betas"]]
  modules = convert.make_models(about["model"], dtype, vae_dtype)
  texts = {name: m for name, m in modules.items() if name.startswith("text")}
  pads = [about[k] for k in ("pad_token", "pad_token_2") if k in about]
  networks = Networks(
    modules["unet"],
    modules["vae"],
    texts,
    tokenizer=bpe_tokens,
    pad_tokens=tuple(pads),
    image_size=about["image_size"],
    latent_scale=about["latent_scale"],
    betas=betas(noise["first"], noise["last"], noise["num_steps"]),
    zeros_for_empty=about.get("zeros_for_empty", False),
    **{name: noise[name] for name in _WALKING},
  )
  for text in texts.values():
    if bpe_tokens.clip_vocab_size != text.vocab_size:
      raise UserError(
        f"The tokenizer has {bpe_tokens.clip_vocab_size:,} tokens, but a text "
        f"encoder of {path} was trained with {text.vocab_size:,}: give the "
        "one that came with the weights (config.generator.tokenizer)."
      )
  return networks, params, hashes | {"tokenizer": tokenizer_hash}


def place(
  networks: Networks, params: Mapping[str, Any], devices: batching.Devices
) -> Callable[..., batching.Weights]:
  """Places the weights of networks; see `batching.in_turns`."""
  of_name = {"vae": networks.vae, **networks.texts}
  modules = {name: of_name.get(name, networks.unet) for name in params}
  texts = [*networks.texts]
  return batching.in_turns(modules, convert.inputs, params, devices, texts)


def _read(
  path: epath.Path, unet: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the parameters of each network, and the description."""
  if path.is_dir():
    variables, about = convert.from_folder(path, unet=unet)
    return variables["params"], about
  variables, about = files.load_params(path, dtype=None)
  if about.get("kind") != convert.KIND:
    raise UserError(
      f"{path} holds {about.get('kind')!r}: config.generator.weights needs "
      "Stable Diffusion, as a folder in diffusers' layout or as a file made of "
      "one."
    )
  params = variables["params"]
  return {k: w for k, w in params.items() if unet or k != "unet"}, about


def _read_distilled(
  path: epath.PathLike, weights: epath.Path, about: Mapping[str, Any]
) -> dict[str, Any]:
  try:
    return convert.convert_part("unet", read.read_weights(path), about)
  except UserError as error:
    raise UserError(
      f"config.generator.distilled={path} does not fit {weights}: give a whole "
      "UNet of the same sizes in diffusers' layout, no LoRA, and no checkpoint "
      f"of all networks. {error}"
    ) from None


def read_tokenizer(
  weights: epath.Path, tokenizer: str | None
) -> tuple[bpe.Tokenizer, str]:
  """Returns the tokenizer and the hash of its file."""
  if tokenizer is None and weights.is_dir():
    loaded, path = convert.read_tokenizer(weights)
    return loaded, files.sha256(path)
  path = bpe.locate(tokenizer) if tokenizer else weights.parent / TOKENIZER
  return bpe.load(path), files.sha256(path)


def _identify(path: epath.Path, unet: bool) -> str | Mapping[str, str]:
  """Returns the hash of a file, or of each file of a folder."""
  if not path.is_dir():
    return files.sha256(path)
  return files.sha256_of_each(convert.files_of(path, unet=unet), path)


# --- what they compute --------------------------------------------------------


def encode(
  networks: Networks,
  params: Mapping[str, Any],
  inputs: tuple[jax.Array, lora.Updates],
) -> list[jax.Array]:
  """Encodes tokens [n, k, l]: the vectors [n, l, d], and pooled ones of XL.

  Args:
    networks: with k text encoders.
    params: of those, at least.
    inputs: tokens, of `Networks.tokens`, and low-rank updates, as of
      `predictor`.
  """
  (tokens, updates), encoded = inputs, []
  for i, (name, module) in enumerate(networks.texts.items()):
    with nn.intercept_methods(lora.added(updates, within=f"{name}/")):
      encoded.append(apply(module, params[name], tokens[:, i]))
  context = jnp.concatenate([vectors for vectors, _ in encoded], axis=-1)
  return [context, *(pooled for _, pooled in encoded if pooled is not None)]


def predictor(
  networks: Networks,
  params: Any,
  prompts: Sequence[jax.Array],
  original_size: int,
  updates: lora.Updates,
) -> guidance.Predictor:
  """Returns the UNet that knows its prompts as a function of (x_t, t).

  Args:
    networks: of which it is the UNet.
    params: of a UNet.
    prompts: of `encode`.
    original_size: px, what XL's is told of the sizes; and of no crop.
    updates: of networks by their names, {} or of `models.lora`.
  """
  given = prompts
  if networks.unet.pooled_dim:
    sizes = jnp.zeros((len(prompts[0]), 6)).at[:, (0, 1, 4, 5)]
    given = (*prompts, sizes.set(original_size))

  def predict(x, t):
    with nn.intercept_methods(lora.added(updates, within="unet/")):
      return apply(networks.unet, params, x, t, *given)

  return predict
