"""Rotary embeddings of places (Su et al. 2021, arXiv 2104.09864)."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np


def angles(places: np.ndarray, width: int, theta: float) -> np.ndarray:
  """Returns the angle by which each pair of numbers is turned, in float64.

  Args:
    places: [l].
    width: of what is turned, twice the number of pairs.
    theta: the wavelengths are 2 pi to 2 pi theta.

  Returns:
    [l, width / 2].
  """
  frequencies = theta ** -(np.arange(0, width, 2) / width)
  return np.asarray(places, np.float64)[:, None] * frequencies


def table(by: np.ndarray) -> jax.Array:
  """Returns cosines and sines of angles [l, d], float32 [2, l, d].

  All layers of a network share them, as they are constants of its program.
  """
  return jnp.asarray(np.stack([np.cos(by), np.sin(by)]), jnp.float32)


def turn(
  x: jax.Array, by: jax.Array, *, pairs: Literal["neighbours", "halves"]
) -> jax.Array:
  """Turns pairs of numbers, in float32.

  Args:
    x: [n, l, h, d] queries or keys.
    by: [2, l, d / 2] of `table`.
    pairs: which numbers are one: 0 and 1, 2 and 3; or 0 and d / 2, 1 and
      d / 2 + 1.

  Returns:
    [n, l, h, d] of x's dtype.
  """
  shape, axis = (*x.shape[:-1], -1, 2), -1
  if pairs == "halves":
    shape, axis = (*x.shape[:-1], 2, x.shape[-1] // 2), -2
  cos, sin = by[:, :, None]
  wide = x.astype(jnp.float32).reshape(shape)
  a, b = jnp.moveaxis(wide, axis, 0)
  turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis)
  return turned.reshape(x.shape).astype(x.dtype)
