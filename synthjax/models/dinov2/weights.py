"""Names of DINOv2's weights: the authors', and Hugging Face's.

Either is converted to what its own code computes: at 224 px the two resize the
positions a little differently (`models.dinov2.OFFSET`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.models.dinov2 import model as dinov2
from synthjax.models.vit import weights as vit_weights
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights import rules
from synthjax.weights.rules import Rule


class Names(NamedTuple):
  """What a layout calls the parts that a ViT has, and those that it has not."""

  vit: vit_weights.Names
  mask_token: str
  scale: str  # of branch {j}, in a block
  offset: float  # of the positions, in the code that reads it


LAYOUTS = {
  "authors": Names(
    vit_weights.LAYOUTS["timm"], "mask_token", "ls{j}.gamma", dinov2.OFFSET
  ),
  "huggingface": Names(
    vit_weights.LAYOUTS["huggingface"]._replace(
      norm1="norm1", norm2="norm2", fc1="mlp.fc1", fc2="mlp.fc2"
    ),
    "embeddings.mask_token",
    "layer_scale{j}.lambda1",
    0.0,
  ),
}


def from_released(
  weights: Mapping[str, np.ndarray], *, heads: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the variables of a DINOv2 and what they are variables of.

  Args:
    weights: by the names of dinov2_vit*14_pretrain.pth, or of Dinov2Model.
    heads: of the attention, which the weights do not show; None takes width /
      64.

  Returns:
    `params`, and the description, whose `model` are the arguments of
    `models.dinov2.make`.

  Raises:
    UserError: listing what is missing, unused or misshapen.
  """
  weights = vit_weights.merge_qkv(weights)
  names = _layout_of(weights)
  sizes, grid = vit_weights.read_sizes(weights, names.vit, heads)
  sizes |= {"grid": grid, "offset": names.offset}
  model, size = dinov2.make(**sizes), grid * sizes["patch_size"]
  images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  like = jax.eval_shape(model.init, jax.random.key(0), images)
  variables = rules.convert(weights, rules_of(names), like)
  return variables, {"kind": "dinov2", "model": sizes, "image_size": size}


def to_released(
  variables: Mapping[str, Any],
  description: Mapping[str, Any],
  layout: str = "authors",
) -> dict[str, np.ndarray]:
  """Returns the variables under their released names: the way back.

  Args:
    variables: `params`.
    description: of `from_released`; the names need nothing of it.
    layout: one of LAYOUTS.

  Raises:
    UserError: for an unknown layout, or variables that are not a DINOv2's.
  """
  del description
  if layout not in LAYOUTS:
    raise unknown_names("layout of DINOv2's weights", [layout], LAYOUTS)
  released = rules.restore(variables, rules_of(LAYOUTS[layout]))
  return released if layout == "authors" else vit_weights.split_qkv(released)


def rules_of(names: Names) -> list[Rule]:
  """Returns the rules of a layout, with q, k and v as one matrix."""
  return [
    *vit_weights.rules_of(names.vit),
    Rule(names.mask_token, "params/mask_token"),
    Rule(f"{names.vit.block}.{names.scale}", "params/blocks_{i}/ls{j}/gamma"),
  ]


def _layout_of(weights: Mapping[str, np.ndarray]) -> Names:
  """Returns the names of the layout that holds all sizes."""
  looked_for = []
  for names in LAYOUTS.values():
    decisive = (
      names.vit.pos_embed,
      f"{names.vit.patches}.weight",
      f"{names.vit.block}.{names.scale}".format(i=0, j=1),
      f"{names.vit.block.format(i=0)}.{names.vit.fc1}.weight",
    )
    if all(name in weights for name in decisive):
      return names
    looked_for.append(", ".join(decisive))
  found = ", ".join(sorted(weights)[:5]) or "none at all"
  raise UserError(
    "These are not the weights of a DINOv2 as its authors and Hugging Face "
    f"call them. Looked for {'; or for '.join(looked_for)}. Names found: "
    f"{found}. The giant one (SwiGLU) and those with registers or heads cannot "
    "be converted: take ViT-S, B or L."
  )
