"""Stable Diffusion 1.x and 2.x as a generator, jitted whole."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.config.schema import (
  Count,
  Dtype,
  NotNegative,
  Precision,
  Range,
)
from synthjax.diffusion import guidance, latents, samplers, schedule
from synthjax.generators import Generator, batching
from synthjax.models.pixels import to_uint8, to_unit
from synthjax.models.stable_diffusion import weights as convert
from synthjax.models.stable_diffusion.text import TextEncoder
from synthjax.models.stable_diffusion.unet import UNet
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.models.stable_diffusion.weights import KIND
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe, cut_texts
from synthjax.weights import files

CONTEXT = 77  # tokens of CLIP's text encoder, which every version has
TOKENIZER = "tokenizer.json"  # beside a file of weights


def check(
  *, weights: epath.PathLike | None, respacing: int | str, **others: Any
) -> None:
  """Checks steps and weights; its arguments are those of `load`."""
  del others
  num_steps(respacing=respacing)
  _locate(weights)


def num_steps(*, respacing: int | str, **others: Any) -> int:
  """Returns how many steps are walked."""
  del others
  return len(schedule.kept_timesteps(respacing))


def reads(
  *, weights: epath.PathLike | None, tokenizer: str | None = None, **others: Any
) -> cut_texts.Reads:
  """Returns how much of a prompt it reads."""
  del others
  words, _ = _read_tokenizer(_locate(weights), tokenizer)
  return cut_texts.Reads(words.clip_ids, CONTEXT - 2)  # start and end


def _locate(weights: epath.PathLike | None) -> epath.Path:
  return files.locate(
    weights and os.fspath(weights), field="generator.weights", family=KIND
  )


def load(
  *,
  weights: epath.PathLike | None,
  sampler: Annotated[Any, samplers.SAMPLER],
  respacing: int | str,
  batch_size: Count | None = None,
  guidance_scale: NotNegative = 7.5,
  guidance_interval: Range | None = None,
  negative_prompt: str = "",
  image_size: Count | None = None,
  tokenizer: str | None = None,
  dtype: Dtype = "float32",
  precision: Precision = "default",
) -> Generator:
  """Loads all networks and compiles nothing yet.

  The weights come with what the UNet predicts (noise or velocity), its schedule
  and how its steps are spaced.

  Args:
    weights: a folder in diffusers' layout, or a file that
      `stable_diffusion.weights.pack` has made of one.
    sampler: see `samplers.SAMPLER`.
    respacing: a number of steps, spaced as the weights' scheduler has it, or
      anything else that `schedule.kept_timesteps` reads.
    batch_size: images that each device draws at once; None is as many as its
      memory holds.
    guidance_scale: without a classifier; 1 follows the prompt and no more, for
      half of the work.
    guidance_interval: the first and the last timestep, 0 to 999, that are
      guided. None guides all.
    negative_prompt: what guidance leads away from; the empty prompt by default.
    image_size: px; None is the size that the networks were trained on. Others
      are possible, but drawn less well.
    tokenizer: the tokenizer's file, or "embedded:NAME"; None is the one that
      comes with the weights.
    dtype: of the activations of UNet and text encoder. The autoencoder's, whose
      range is large, are float32.
    precision: of products of float32, such as the autoencoder's.

  Raises:
    UserError: about unfit weights, or steps, an interval or a size that there
      cannot be.
  """
  devices = batching.own_devices()
  networks, params, hashes = load_networks(_locate(weights), tokenizer, dtype)
  image_size = image_size or networks.image_size
  _check_size(networks, image_size)
  guidance.check_interval(guidance_interval, len(networks.betas))
  walk = Walk(
    image_size,
    _kept_steps(networks, respacing, sampler),
    sampler,
    guidance_scale,
    guidance_interval,
  )
  for name in params:  # one after the other: the host holds one as float32
    wide = jax.tree.map(lambda w: np.asarray(w, np.float32), params[name])
    cast = _cast(networks, name, wide)
    params[name] = jax.device_put(cast, devices.copied)
  negative = networks.tokens([negative_prompt])
  params["negative"] = jax.device_put(negative, devices.copied)

  def read(prompts, coming):
    del coming  # prompts are encoded within the walk
    return jax.device_put(networks.tokens(prompts), devices.split)

  identity = hashes | {
    "generator": KIND,
    "sampler": samplers.identify(sampler),
    "respacing": respacing,
    "guidance_scale": guidance_scale,
    "guidance_interval": guidance_interval and list(guidance_interval),
    "negative_prompt": negative_prompt,
    "image_size": image_size,
    "dtype": dtype,
  }
  return batching.make_generator(
    partial(_draw_latents, networks, walk),
    partial(_decode, networks),
    params,
    lambda batch_size: read,
    devices,
    batch_size=batch_size,
    precision=precision,
    image_size=image_size,
    reference_size=image_size,
    num_steps=len(walk.steps.timestep),
    identity=identity,
  )


# --- the networks, from a folder or a file ------------------------------------


class Networks(NamedTuple):
  """The networks and their schedule, without the weights."""

  unet: UNet
  vae: Autoencoder
  text: TextEncoder
  tokenizer: bpe.Tokenizer
  pad_token: str  # fills prompts up
  image_size: int  # px that they were trained on
  latent_scale: float  # makes latents of about unit variance
  betas: np.ndarray  # [T]
  prediction: str  # of latents.PREDICTIONS
  spacing: str  # of latents.SPACINGS
  offset: int  # of the spacing "leading"
  ends_clean: bool  # whether DDIM walks on to a latent without noise

  @property
  def factor(self) -> int:
    """How many pixels of a side are one place of a latent."""
    return 2 ** (len(self.vae.widths) - 1)

  def tokens(self, texts: Sequence[str]) -> np.ndarray:
    """Returns int32 [n, l]: start, text, end, and the pad."""
    tokens = self.tokenizer.clip_tokens(texts, self.text.context_length)
    return bpe.pad_clip(tokens, self.tokenizer, self.pad_token)


_WALKING = ("prediction", "spacing", "offset", "ends_clean")


def load_networks(
  weights: epath.PathLike, tokenizer: str | None, dtype: str
) -> tuple[Networks, dict[str, Any], dict[str, Any]]:
  """Reads everything, and puts nothing on a device.

  Args:
    weights: a folder in diffusers' layout, or a file that
      `stable_diffusion.weights.pack` has made of one.
    tokenizer: its file, or "embedded:NAME"; None is the one of the folder, or
      TOKENIZER beside the file.
    dtype: of the activations of UNet and text encoder.

  Returns:
    The networks; the parameters of "unet", "vae" and "text", of the dtypes on
    disk; and hashes of all files.

  Raises:
    UserError: about files that are missing, or that do not fit.
  """
  path = epath.Path(weights)
  params, about = _read(path)
  bpe_tokens, tokenizer_hash = _read_tokenizer(path, tokenizer)
  noise = about["schedule"]
  betas = latents.BETAS[noise["betas"]]
  networks = Networks(
    *convert.make_models(about["model"], dtype),
    tokenizer=bpe_tokens,
    pad_token=about["pad_token"],
    image_size=about["image_size"],
    latent_scale=about["latent_scale"],
    betas=betas(noise["first"], noise["last"], noise["num_steps"]),
    **{name: noise[name] for name in _WALKING},
  )
  if bpe_tokens.clip_vocab_size != networks.text.vocab_size:
    raise UserError(
      f"The tokenizer has {bpe_tokens.clip_vocab_size:,} tokens, but the text "
      f"encoder of {path} was trained with {networks.text.vocab_size:,}: give "
      "the one that came with the weights (config.generator.tokenizer)."
    )
  hashes = {"weights": _identify(path), "tokenizer": tokenizer_hash}
  return networks, params, hashes


def _cast(networks: Networks, name: str, params: Any) -> Any:
  """Casts weights of "unet" or "text" that are used in half precision alone."""
  tokens = jax.ShapeDtypeStruct((1, networks.text.context_length), jnp.int32)
  if name == "text":
    apply = partial(_apply, networks.text)
    return batching.cast_once(apply, params, tokens)
  if name != "unet":
    return params  # the autoencoder is float32
  unet, least = networks.unet, 2 ** (len(networks.unet.widths) - 1)
  latents = jax.ShapeDtypeStruct(
    (1, least, least, unet.in_channels), jnp.float32
  )
  text = jax.ShapeDtypeStruct((*tokens.shape, unet.context_dim), jnp.float32)
  time = jax.ShapeDtypeStruct((1,), jnp.int32)
  return batching.cast_once(partial(_apply, unet), params, latents, time, text)


def _kept_steps(
  networks: Networks, respacing: int | str, sampler: partial
) -> schedule.Schedule:
  """Returns the steps that a walk of the sampler keeps."""
  kept = latents.kept_timesteps(
    respacing,
    networks.betas,
    spacing=networks.spacing,
    offset=networks.offset,
  )
  steps = schedule.keep(networks.betas, kept)
  # As in diffusers, where the other samplers always end without noise.
  if sampler.func is samplers.ddim and not networks.ends_clean:
    steps = latents.ending_at(steps, 1 - networks.betas[0])
  return steps


def _check_size(networks: Networks, image_size: int) -> None:
  """Raises UserError about a size that the networks cannot draw."""
  multiple = networks.factor * 2 ** (len(networks.unet.widths) - 1)
  if image_size < 1 or image_size % multiple:
    raise UserError(
      f"config.generator.image_size={image_size}: this Stable Diffusion draws "
      f"multiples of {multiple} px, best {networks.image_size}."
    )


def _read(path: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the parameters of each network, and the description."""
  if path.is_dir():
    variables, about = convert.from_folder(path)
    return variables["params"], about
  variables, about = files.load_params(path, dtype=None)
  if about.get("kind") != convert.KIND:
    raise UserError(
      f"{path} holds {about.get('kind')!r}: config.generator.weights needs "
      "Stable Diffusion, as a folder in diffusers' layout or as a file made of "
      "one."
    )
  return variables["params"], about


def _read_tokenizer(
  weights: epath.Path, tokenizer: str | None
) -> tuple[bpe.Tokenizer, str]:
  """Returns the tokenizer and the hash of its file."""
  if tokenizer is None and weights.is_dir():
    loaded, path = convert.read_tokenizer(weights)
    return loaded, files.sha256(path)
  path = bpe.locate(tokenizer) if tokenizer else weights.parent / TOKENIZER
  return bpe.load(path), files.sha256(path)


def _identify(path: epath.Path) -> str | Mapping[str, str]:
  """Returns the hash of a file, or of each file of a folder."""
  if not path.is_dir():
    return files.sha256(path)
  return {
    f"{file.parent.name}/{file.name}": files.sha256(file)
    for file in convert.files_of(path)
  }


# --- drawing ------------------------------------------------------------------


class Walk(NamedTuple):
  """How images are drawn."""

  image_size: int  # px
  steps: schedule.Schedule
  sampler: Callable
  scale: float  # of guidance
  interval: tuple[int, int] | None  # timesteps that are guided


def _draw_latents(
  networks: Networks,
  walk: Walk,
  start_steps: int | None,
  params: Mapping[str, Any],
  tokens: jax.Array,
  rngs: jax.Array,
  references: jax.Array | None,
) -> jax.Array:
  """Draws latents [n, h', w', c].

  Tokens [n, l] hold the prompts; rngs [n]; references uint8 [n, h, w, 3] or
  None. The params hold the weights, and "negative", the tokens [1, l] that
  guidance leads away from.
  """
  rngs = jax.vmap(jax.random.split)(rngs)  # [n, 2]
  vae = partial(_apply, networks.vae, params["vae"])
  side = walk.image_size // networks.factor
  shape = (side, side, networks.vae.latent_channels)
  x, steps = samplers.start_noise(rngs[:, 1], shape), walk.steps
  if references is not None:
    # The mean of the latents: their deviation is far below the noise's.
    mean, _ = vae(to_unit(references), method="encode")
    steps = schedule.start_at(steps, start_steps)
    mean = networks.latent_scale * mean
    x = samplers.diffuse(mean, x, steps, start_steps - 1)
  predict = _predictor(networks, walk, params, tokens)
  denoise = latents.denoiser(predict, networks.betas, networks.prediction)
  noise = samplers.image_noise(rngs[:, 0], shape)
  return walk.sampler(denoise, steps, x, noise)


def _decode(
  networks: Networks,
  params: Mapping[str, Any],
  tokens: jax.Array,
  rngs: jax.Array,
  x: jax.Array,
) -> jax.Array:
  """Turns latents into uint8 images [n, h, w, 3]."""
  del tokens, rngs
  x = x / networks.latent_scale
  return to_uint8(_apply(networks.vae, params["vae"], x, method="decode"))


def _predictor(
  networks: Networks, walk: Walk, params: Mapping[str, Any], tokens: jax.Array
) -> guidance.Predictor:
  """Encodes the prompts; returns the guided UNet as a function of (x_t, t)."""
  encode = partial(_apply, networks.text, params["text"])
  context = encode(tokens)  # [n, l, d]

  def predictor(context):
    return lambda x, t: _apply(networks.unet, params["unet"], x, t, context)

  plain = predictor(context)
  if walk.scale == 1:
    return plain
  negative = jnp.broadcast_to(encode(params["negative"]), context.shape)
  both = predictor(jnp.concatenate([context, negative]))
  guided = guidance.classifier_free(both, walk.scale)
  if walk.interval is not None:
    guided = guidance.within(guided, plain, walk.interval)
  return guided


def _apply(module, params, *args, method=None):
  return module.apply({"params": params}, *args, method=method)
