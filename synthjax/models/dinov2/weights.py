"""Converts DINOv2's weights, by the authors' names or by Hugging Face's.

Either is converted to what its own code computes: at 224 px the two resize the
positions a little differently (`dinov2.model.OFFSET`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.models.dinov2 import model as dinov2
from synthjax.models.vit import weights as vit_weights
from synthjax.weights import rules
from synthjax.weights.rules import Rule


class Names(NamedTuple):
  """The names in a layout: those of a ViT, and those of DINOv2 alone."""

  vit: vit_weights.Names
  mask_token: str
  scale: str  # of branch {j}, in a block
  offset: float  # of the positions, in the layout's own code


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
  """Returns the `params` of a DINOv2, and their description.

  Args:
    weights: by the names of dinov2_vit*14_pretrain.pth, or of Dinov2Model.
    heads: of the attention, which the weights do not show; None takes width /
      64.

  Raises:
    UserError: listing what is missing, unused or misshapen.
  """
  weights = rules.join_thirds(weights, *vit_weights.THIRDS)
  names = LAYOUTS[
    rules.find_layout(
      weights,
      {layout: _decisive(names) for layout, names in LAYOUTS.items()},
      family="a DINOv2 as its authors and Hugging Face call them",
      advice="The giant one (SwiGLU) and those with registers or heads cannot "
      "be converted: take ViT-S, B or L.",
    )
  ]
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
  """Returns variables under the released names of one of LAYOUTS."""
  del description  # the names follow from the variables
  rules.check_layout("DINOv2", layout, LAYOUTS)
  released = rules.restore(variables, rules_of(LAYOUTS[layout]))
  if layout == "authors":
    return released
  return rules.split_thirds(released, *vit_weights.THIRDS)


def rules_of(names: Names) -> list[Rule]:
  """Returns the rules of a layout, with q, k and v as one matrix."""
  return [
    *vit_weights.rules_of(names.vit),
    Rule(names.mask_token, "params/mask_token"),
    Rule(f"{names.vit.block}.{names.scale}", "params/blocks_{i}/ls{j}/gamma"),
  ]


def _decisive(names: Names) -> list[str]:
  """Returns the names of the weights that show the sizes of a DINOv2."""
  scale = f"{names.vit.block}.{names.scale}".format(i=0, j=1)
  return [*vit_weights.decisive(names.vit), scale]
