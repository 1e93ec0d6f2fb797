"""The networks and the words of Stable Diffusion, from a folder or a file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.convert import files
from synthjax.convert import stable_diffusion as convert
from synthjax.diffusion import latents, schedule
from synthjax.errors import UserError
from synthjax.models.sd_text import TextEncoder
from synthjax.models.sd_unet import UNet
from synthjax.models.sd_vae import Autoencoder
from synthjax.text import clip_folder, tokenize

TOKENIZER = "tokenizer.json"  # beside a file of weights


class Networks(NamedTuple):
  """What draws, but for the weights."""

  unet: UNet
  vae: Autoencoder
  text: TextEncoder
  words: tokenize.Tokenizer
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
    tokens = self.words.clip_tokens(texts, self.text.context_length)
    return clip_folder.pad(tokens, self.words, self.pad_token)


def load_networks(
  weights: epath.PathLike, tokenizer: str | None, dtype: str
) -> tuple[Networks, dict[str, Any], dict[str, Any]]:
  """Reads everything, and puts nothing on a device.

  Args:
    weights: a folder in diffusers' layout, or a file that
      `weights.stable_diffusion.pack` has made of one.
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
  words, words_hash = _read_words(path, tokenizer)
  noise = about["schedule"]
  betas = latents.BETAS[noise["betas"]]
  networks = Networks(
    *convert.make_models(about["model"], dtype),
    words=words,
    pad_token=about["pad_token"],
    image_size=about["image_size"],
    latent_scale=about["latent_scale"],
    betas=betas(noise["first"], noise["last"], noise["num_steps"]),
    prediction=noise["prediction"],
    spacing=noise["spacing"],
    offset=noise["offset"],
    ends_clean=noise["ends_clean"],
  )
  if words.clip_vocab_size != networks.text.vocab_size:
    raise UserError(
      f"The tokenizer has {words.clip_vocab_size:,} tokens, but the text "
      f"encoder of {path} was trained with {networks.text.vocab_size:,}: give "
      "the one that came with the weights (config.generator.tokenizer)."
    )
  return networks, params, {"weights": _identify(path), "tokenizer": words_hash}


def kept_steps(
  networks: Networks, respacing: str | int, sampler: str
) -> schedule.Schedule:
  """Returns the steps that a walk of the sampler keeps.

  Args:
    networks: whose schedule it is.
    respacing: see `latents.kept_timesteps`.
    sampler: of SAMPLERS; see `latents.ending_at`.

  Raises:
    UserError: about steps that there cannot be.
  """
  kept = latents.kept_timesteps(
    respacing,
    networks.betas,
    spacing=networks.spacing,
    offset=networks.offset,
  )
  steps = schedule.keep(networks.betas, kept)
  # As in diffusers, where the other samplers always end without noise.
  if sampler == "ddim" and not networks.ends_clean:
    steps = latents.ending_at(steps, 1 - networks.betas[0])
  return steps


def check_size(networks: Networks, image_size: int) -> None:
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


def _read_words(
  weights: epath.Path, tokenizer: str | None
) -> tuple[tokenize.Tokenizer, str]:
  """Returns the tokenizer and the hash of its file."""
  if tokenizer is None and weights.is_dir():
    merges = weights / convert.MERGES
    words = clip_folder.read(weights / convert.VOCABULARY, merges)
    return words, files.sha256(merges)
  path = weights.parent / TOKENIZER
  if tokenizer is not None:
    path = tokenize.locate(tokenizer)
  return tokenize.load(path), files.sha256(path)


def _identify(path: epath.Path) -> str | Mapping[str, str]:
  """Returns the hash of a file, or of each file of a folder."""
  if not path.is_dir():
    return files.sha256(path)
  return {
    f"{file.parent.name}/{file.name}": files.sha256(file)
    for file in convert.files_of(path)
  }
