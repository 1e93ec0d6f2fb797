"""Which parameters the weight decay acts on, by name."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def everything(params: Any) -> Any:
  """Lets the weight decay act on all parameters."""
  return jax.tree.map(lambda _: True, params)


def matrices(params: Any) -> Any:
  """Lets the weight decay act on kernels and embeddings alone.

  Left out are, as in timm and DeiT, all biases, the scales of norms, and the
  class token and positions of a ViT.
  """

  def decays(path, x):
    name = str(path[-1].key)
    return jnp.ndim(x) > 1 and name not in ("bias", "cls_token", "pos_embed")

  return jax.tree_util.tree_map_with_path(decays, params)


def all_but_norms(params: Any) -> Any:
  """Spares the scales and biases of norms, as detectron2 does, alone."""

  def spare(tree):
    if not isinstance(tree, Mapping):
      return True
    # What has a scale is a norm.
    return {k: "scale" not in tree and spare(v) for k, v in tree.items()}

  return spare(params)


DECAYS = {
  "all": everything,
  "matrices": matrices,
  "all_but_norms": all_but_norms,
}
