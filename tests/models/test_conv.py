"""The convolution with a fast weight gradient against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.models.conv import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")


STRIDES = ((1, 1), (2, 2), (2, 1))
PADDINGS = ("SAME", "VALID", ((1, 1), (0, 2)))


# Nine of 27 cases, in which every two of the values meet.
@pytest.mark.parametrize(
  ("kernel", "strides", "padding"),
  [
    (kernel, STRIDES[i], PADDINGS[(i + kernel) % 3])
    for kernel in (1, 2, 3)
    for i in range(3)
  ],
)
def test_values_and_gradients_equal_the_native_ones(kernel, strides, padding):
  rngs = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(rngs[0], (2, 7, 6, 3))
  w = jax.random.normal(rngs[1], (kernel, kernel, 3, 4))

  def native(x, w):
    return jax.lax.conv_general_dilated(
      x, w, strides, padding, dimension_numbers=NHWC
    )

  def ours(x, w):
    return conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)

  weights = jax.random.normal(rngs[2], native(x, w).shape)

  @jax.jit
  def outputs(x, w):
    results = []
    for conv in (ours, native):
      value, vjp = jax.vjp(conv, x, w)
      results.append((value, *vjp(weights)))
    return results

  for got, want in zip(*outputs(x, w), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_grouped_dilated_and_large_cases_take_the_native_path():
  x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 2, 4))
  kwargs = dict(dimension_numbers=NHWC, feature_group_count=2)
  got = conv_general_dilated(x, w, (1, 1), "SAME", **kwargs)
  want = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", **kwargs)
  np.testing.assert_array_equal(got, want)
  x, w = jnp.ones((1, 80, 80, 1)), jnp.ones((3, 3, 1, 1))
  got = conv_general_dilated(x, w, (1, 1), "SAME", None, (2, 2), NHWC)
  assert got.shape == (1, 80, 80, 1) and got[0, 40, 40, 0] == 9
