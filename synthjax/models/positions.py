"""The start of a vision transformer at another image size."""

from collections.abc import Mapping
from typing import Any

from synthjax.models import vit


def fit_positions(
  variables: Mapping[str, Any],
  description: Mapping[str, Any],
  *,
  image_size: int,
) -> dict[str, Any]:
  """Resizes the positions of a ViT from its own image size to another.

  Args:
    variables: of a classifier; those of a ResNet are returned as they are.
    description: what the weights say of themselves; of it `image_size`.
    image_size: px, to train at.
  """
  params = variables["params"]
  if "pos_embed" not in params:
    return dict(variables)
  patch = len(params["patch_embed"]["proj"]["kernel"])  # [p, p, 3, d]
  old, new = description["image_size"] // patch, image_size // patch
  return {**variables, "params": vit.resize_positions(params, old, new)}
