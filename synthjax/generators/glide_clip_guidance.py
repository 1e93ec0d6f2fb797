"""CLIP guidance of GLIDE's base: the noised CLIP, as a gradient."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.config.schema import NotNegative
from synthjax.diffusion import guidance
from synthjax.diffusion.guidance import CondFn
from synthjax.models.glide.noised_clip import (
  LOGIT_SCALE,
  ImageEncoder,
  TextEncoder,
)
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files

TOWERS = {"image": ImageEncoder, "text": TextEncoder}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipGuidance:
  """Guidance by the noised CLIP."""

  image_weights: epath.PathLike | None  # of the image tower; `files.locate`
  text_weights: epath.PathLike | None  # of the text tower
  tokenizer: epath.PathLike  # CLIP's, which is not GLIDE's
  scale: NotNegative = 3.0  # of 100 times the cosine; the authors' notebook's


class NoisedClip(NamedTuple):
  """Both towers, and how strongly they pull."""

  image: ImageEncoder
  text: TextEncoder
  tokenizer: bpe.Tokenizer
  scale: float
  identity: dict[str, Any]  # plain data that identifies weights and scale

  def tokens(self, prompts: list[str]) -> np.ndarray:
    """Reads prompts as the text tower does: int32 [n, l]."""
    return self.tokenizer.clip_tokens(prompts, self.text.context)

  def cond_fn(self, params: Mapping[str, Any], tokens: jax.Array) -> CondFn:
    """Returns the gradient towards the prompts [n, l], in traced code."""
    features = self.text.apply({"params": params["text"]}, tokens)
    encode = lambda x, t: self.image.apply({"params": params["image"]}, x, t)
    return guidance.towards(encode, features, LOGIT_SCALE * self.scale)


def check(
  guidance_scale: float | None,
  guidance_interval: tuple[int, int] | None,
  clip_guidance: ClipGuidance | None,
) -> None:
  """Checks that one kind of guidance is chosen, and what CLIP's needs.

  Args:
    guidance_scale: of classifier-free guidance.
    guidance_interval: of the same.
    clip_guidance: its block.

  Raises:
    UserError: about no guidance or two kinds, or no weights.
  """
  if clip_guidance is None and guidance_scale is None:
    raise UserError(
      "config.generator has neither guidance_scale nor clip_guidance. Set "
      "guidance_scale=3.0, as GLIDE's authors do, or 1.0 for no guidance."
    )
  if clip_guidance is not None and guidance_scale not in (None, 1):
    raise UserError(
      f"config.generator has both guidance_scale={guidance_scale} and "
      "clip_guidance. CLIP guidance takes the place of the guidance without a "
      "classifier: remove guidance_scale (or set it to 1), or remove "
      "clip_guidance."
    )
  if clip_guidance is None:
    return
  if guidance_interval is not None:
    raise UserError(
      "config.generator.guidance_interval is of guidance_scale, and "
      "clip_guidance takes its place: remove one of them."
    )
  for tower in TOWERS:
    _locate(tower, clip_guidance)


def _locate(tower: str, block: ClipGuidance) -> epath.Path:
  """Finds the file of a tower's weights; see `files.locate`."""
  weights = getattr(block, f"{tower}_weights")
  return files.locate(
    weights and os.fspath(weights),
    field=f"generator.clip_guidance.{tower}_weights",
    family="noised_clip",
  )


def load(
  block: ClipGuidance, *, image_size: int, num_timesteps: int, dtype: str
) -> tuple[NoisedClip, dict[str, Any]]:
  """Loads the noised CLIP.

  Args:
    block: which one.
    image_size: px of the images that are to be guided.
    num_timesteps: of their diffusion.
    dtype: of the activations.

  Returns:
    The towers, and their parameters by tower.

  Raises:
    UserError: about weights of something else, or that do not fit the rest.
  """
  paths = {tower: _locate(tower, block) for tower in TOWERS}
  towers, params = {}, {}
  for tower, path in paths.items():
    variables, about = files.load_params(path)
    if (about.get("kind"), about.get("tower")) != ("noised_clip", tower):
      raise UserError(
        f"{path} holds {about.get('kind')!r}, tower {about.get('tower')!r}: "
        f"config.generator.clip_guidance.{tower}_weights needs the {tower} "
        "tower of GLIDE's noised CLIP."
      )
    fields = about["model"] | {"dtype": jnp.dtype(dtype)}
    towers[tower] = TOWERS[tower](**fields)
    params[tower] = variables["params"]
  path = bpe.locate(os.fspath(block.tokenizer))
  tokenizer = bpe.load(path)
  image, text = towers["image"], towers["text"]
  problems = []
  if image.image_size != image_size:
    problems.append(
      f"it reads images of {image.image_size} px, and the base draws "
      f"{image_size} px"
    )
  if image.timesteps != num_timesteps:
    problems.append(
      f"it knows {image.timesteps} timesteps, and the base has {num_timesteps}"
    )
  if image.embed_dim != text.embed_dim:
    problems.append(
      f"its towers give {image.embed_dim} and {text.embed_dim} numbers"
    )
  if tokenizer.clip_vocab_size > text.vocab_size:
    problems.append(
      f"it knows {text.vocab_size} tokens, and {path} makes "
      f"{tokenizer.clip_vocab_size}"
    )
  if problems:
    raise UserError(
      "The noised CLIP of config.generator.clip_guidance does not fit: "
      + "; ".join(problems)
      + "."
    )
  identity = {
    "image_weights": files.sha256(paths["image"]),
    "text_weights": files.sha256(paths["text"]),
    "tokenizer": files.sha256(path),
    "scale": block.scale,
  }
  return NoisedClip(image, text, tokenizer, block.scale, identity), params
