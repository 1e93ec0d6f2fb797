"""The last layer of CLIP's image towers, which is linear.

A ViT has the matrix `proj`, a ResNet the output of its attention pool, which
also adds a bias. With the identity in its place, a tower returns what the layer
would have read.
"""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Projection:
  """Maps z [n, w] to features z @ kernel + bias."""

  kernel: jax.Array  # [w, d] float32
  bias: jax.Array  # [d]; zeros in a ViT

  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps [n, w] to features [n, d], not of unit length."""
    z = jnp.asarray(z, jnp.float32)
    return jnp.dot(z, self.kernel, precision="highest") + self.bias


def read(params: Mapping[str, Any]) -> Projection | None:
  """Returns the projection of an image tower's params; None if it has none."""
  if "attnpool" in params:
    dense = params["attnpool"]["c_proj"]
    return Projection(dense["kernel"], dense["bias"])
  if "proj" in params:
    kernel = params["proj"]
    return Projection(kernel, np.zeros(kernel.shape[1], np.float32))
  return None


def replace(
  params: Mapping[str, Any], projection: Projection
) -> dict[str, Any]:
  """Returns an image tower's params with another projection.

  A ViT has no place for a bias: that of the projection must be 0.
  """
  if "attnpool" in params:
    dense = {"kernel": projection.kernel, "bias": projection.bias}
    return {**params, "attnpool": {**params["attnpool"], "c_proj": dense}}
  return {**params, "proj": projection.kernel}


def identity(width: int) -> Projection:
  """Returns the projection that changes nothing."""
  return Projection(
    np.eye(width, dtype=np.float32), np.zeros(width, np.float32)
  )
