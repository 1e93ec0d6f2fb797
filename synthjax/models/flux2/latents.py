"""Latents as FLUX.2's transformer reads them: 2x2 places as one, normalised.

The autoencoder is Stable Diffusion's, with 32 channels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

SIDE = 2  # places of a patch
EPSILON = 1e-4  # of the variance


def pack(z: jax.Array, statistics: Mapping[str, jax.Array]) -> jax.Array:
  """Joins patches and normalises them.

  Args:
    z: [n, h, w, c] of the autoencoder.
    statistics: "mean" and "var" [4c] over the training images.

  Returns:
    [n, h/2, w/2, 4c].
  """
  n, height, width, channels = z.shape
  z = z.reshape(n, height // SIDE, SIDE, width // SIDE, SIDE, channels)
  z = z.transpose(0, 1, 3, 5, 2, 4)  # of each channel, the places of a patch
  z = z.reshape(n, height // SIDE, width // SIDE, -1)
  return (z - statistics["mean"]) / jnp.sqrt(statistics["var"] + EPSILON)


def unpack(x: jax.Array, statistics: Mapping[str, jax.Array]) -> jax.Array:
  """Undoes `pack`."""
  x = x * jnp.sqrt(statistics["var"] + EPSILON) + statistics["mean"]
  n, height, width, channels = x.shape
  x = x.reshape(n, height, width, channels // SIDE**2, SIDE, SIDE)
  x = x.transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(n, height * SIDE, width * SIDE, -1)
