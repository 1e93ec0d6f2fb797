"""The sizes of a CLIP, from the shapes of its weights (OpenAI's names)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from synthjax.errors import UserError
from synthjax.models.clip_resnet import REDUCTION

POSITIONS = "positional_embedding"
HEAD = 64  # numbers that a head reads, in every CLIP of OpenAI


def image_fields(
  weights: Mapping[str, np.ndarray], heads: int | None
) -> tuple[str, dict[str, Any]]:
  """Returns the kind of the image tower and its fields.

  Args:
    weights: by OpenAI's names.
    heads: None is OpenAI's rule.

  Raises:
    UserError: when the weights do not show the sizes.
  """
  if any(name.startswith("visual.layer") for name in weights):
    tower, pooled = "resnet", "visual.attnpool."
    stages = [f"visual.layer{i}." for i in (1, 2, 3, 4)]
    (width, *_), (places, _), (embed_dim, _), *_ = _shapes(
      weights,
      {
        "visual.layer1.0.conv1.weight": 4,
        f"{pooled}{POSITIONS}": 2,
        f"{pooled}c_proj.weight": 2,
      }
      | {f"{stage}0.conv1.weight": 4 for stage in stages[1:]},
    )
    layers = [_count(weights, stage) for stage in stages]
    patch, step, read = None, REDUCTION, REDUCTION * width
  else:
    tower, blocks = "vit", "visual.transformer.resblocks."
    (width, _, _, patch), (places, _), (_, embed_dim), *_ = _shapes(
      weights,
      {
        "visual.conv1.weight": 4,
        f"visual.{POSITIONS}": 2,
        "visual.proj": 2,
        f"{blocks}0.ln_1.weight": 1,
      },
    )
    layers, step, read = _count(weights, blocks), patch, width
  side = round((places - 1) ** 0.5)
  if side**2 != places - 1:
    raise UserError(
      f"This CLIP's image tower has {places} positions, which is not one more "
      "than a square: only square images are known here. Give weights of "
      "square images."
    )
  return tower, {
    "embed_dim": embed_dim,
    "image_size": step * side,
    "patch_size": patch,
    "width": width,
    "layers": layers,
    "heads": heads or _heads(read, "vision_heads"),
  }


def text_fields(
  weights: Mapping[str, np.ndarray], heads: int | None
) -> dict[str, Any]:
  """Returns the fields of CLIP that describe its text tower.

  Arguments and errors are those of `image_fields`.
  """
  blocks = "transformer.resblocks."
  (vocab_size, width), (length, _), *_ = _shapes(
    weights,
    {
      "token_embedding.weight": 2,
      POSITIONS: 2,
      f"{blocks}0.ln_1.weight": 1,
    },
  )
  return {
    "context_length": length,
    "vocab_size": vocab_size,
    "text_width": width,
    "text_layers": _count(weights, blocks),
    "text_heads": heads or _heads(width, "text_heads"),
  }


def _shapes(
  weights: Mapping[str, np.ndarray], ranks: Mapping[str, int]
) -> list[tuple[int, ...]]:
  """Returns the shapes of the weights that sizes are read from.

  Args:
    weights: by OpenAI's names.
    ranks: how many axes each of the weights must have.
  """
  lacking = [
    f"{name} with {rank} axes"
    for name, rank in ranks.items()
    if name not in weights or np.ndim(weights[name]) != rank
  ]
  if lacking:
    some = ", ".join(
      f"{name} {np.shape(weights[name])}" for name in sorted(weights)[:6]
    )
    raise UserError(
      "These are not the weights of a known CLIP. Its sizes are read from "
      f"{', '.join(ranks)} (OpenAI's names, also of other layouts); there is "
      f"no {', no '.join(lacking)}. Found {len(weights)} weights, such as "
      f"{some or 'none'}. Give the whole state dict of a CLIP, or of the image "
      "tower of one."
    )
  return [np.shape(weights[name]) for name in ranks]


def _count(weights: Mapping[str, np.ndarray], prefix: str) -> int:
  """Counts the layers whose names begin with `prefix` and a number."""
  pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
  found = [int(m[1]) for name in weights if (m := pattern.match(name))]
  return 1 + max(found)


def _heads(width: int, field: str) -> int:
  """Returns the heads of OpenAI's rule."""
  if width % HEAD:
    raise UserError(
      f"This CLIP attends with a width of {width}, which does not split into "
      f"heads of {HEAD}: OpenAI's rule does not tell how many there are. Pass "
      f"{field}=... to from_released."
    )
  return width // HEAD
