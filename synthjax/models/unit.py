"""Vectors of length 1, as cosines compare them."""

import jax
import jax.numpy as jnp


def unit(x: jax.Array) -> jax.Array:
  """Scales the last axis to length 1; zeros stay zeros, without a gradient.

  A plain norm has the gradient NaN at zeros, such as the features of an image
  whose hidden units are all off.
  """
  squares = jnp.sum(x**2, axis=-1, keepdims=True)
  safe = jnp.where(squares > 0, squares, 1.0)
  return x / jnp.where(squares > 0, jnp.sqrt(safe), 1.0)


def unit_features(features: jax.Array) -> jax.Array:
  """Scales features [..., d] of any type to length 1 in float32.

  Scores are stored in float16, in which squares overflow from 256 on.
  """
  return unit(jnp.asarray(features, jnp.float32))
