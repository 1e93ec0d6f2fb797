"""Vectors of length 1."""

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.unit import unit


def test_a_dead_row_has_no_direction_and_no_gradient():
  """All hidden units may be off for an image: its output is the bias, 0."""
  x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
  grad = jax.grad(lambda x: (unit(x) * jnp.array([1.0, 2.0])).sum())(x)
  assert np.isfinite(grad).all()
  # Of u = x / |x|: (v - u (u v)) / |x|, with u v = 2.2.
  np.testing.assert_allclose(
    grad[0], [(1 - 1.32) / 5, (2 - 1.76) / 5], rtol=1e-4
  )
