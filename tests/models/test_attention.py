"""Attention: where cuDNN has a kernel, and that all ways agree."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.models import attention


@pytest.mark.parametrize(
  ("dtype", "width", "capability", "fits"),
  [
    (jnp.bfloat16, 64, "9.0", True),
    (jnp.float16, 128, "8.0", True),
    (jnp.float32, 64, "9.0", False),  # exact, for parity
    (jnp.bfloat16, 60, "9.0", False),
    (jnp.bfloat16, 160, "9.0", True),  # from Hopper on
    (jnp.bfloat16, 160, "8.9", False),
    (jnp.bfloat16, 264, "9.0", False),
    (jnp.bfloat16, 64, "7.5", False),
    (jnp.bfloat16, 64, "gfx90a", False),  # of AMD
    (jnp.bfloat16, 64, None, False),  # a CPU or a TPU
  ],
)
def test_cudnn_attends_only_where_it_can(dtype, width, capability, fits):
  device = SimpleNamespace(compute_capability=capability)
  if capability is None:
    device = SimpleNamespace()
  assert attention.has_kernel(jnp.dtype(dtype), width, device) is fits


def draw(lengths, dtype):
  """Draws queries, keys and values of 6 heads of width 64."""
  rngs = jax.random.split(jax.random.key(0), 3)
  return [
    jax.random.normal(rng, (2, length, 6, 64), dtype)
    for rng, length in zip(rngs, lengths, strict=True)
  ]


def weighted_sum(q, k, v):
  out = attention.attend(q, k, v)
  return jnp.sum(out * jnp.arange(out.shape[1])[:, None])


@pytest.mark.parametrize("lengths", [(8, 8, 8), (7, 7, 7), (8, 5, 5)])
def test_odd_lengths_are_padded_with_what_nothing_attends_to(
  monkeypatch, lengths
):
  """JAX's own attention stands in for cuDNN, and gets even lengths alone."""
  arrays = draw(lengths, jnp.float32)
  grad = lambda: jax.jit(jax.value_and_grad(weighted_sum, (0, 1, 2)))(*arrays)
  want = grad()
  real = jax.nn.dot_product_attention

  def stand_in(q, k, v, *, implementation, **lengths):
    assert implementation == "cudnn"
    assert q.shape[1] % 2 == k.shape[1] % 2 == v.shape[1] % 2 == 0
    return real(q, k, v, implementation="xla", **lengths)

  monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
  monkeypatch.setattr(attention, "has_kernel", lambda *_: True)
  got = grad()
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
    got,
    want,
  )


@pytest.mark.gpu
@pytest.mark.parametrize("length", [64, 197, 256, 1024])
def test_cudnn_attends_as_plain_jax_does(length):
  """With 128 places of text before those of the image, as in the base."""
  q, k, v = draw((length, length + 128, length + 128), jnp.bfloat16)
  if not attention.has_kernel(q.dtype, q.shape[-1], jax.devices()[0]):
    pytest.skip("the GPU is older than cuDNN's attention, or not NVIDIA's")
  got = attention.attend(q, k, v).astype(jnp.float32)
  exact = (x.astype(jnp.float32) for x in (q, k, v))
  np.testing.assert_allclose(got, attention.attend(*exact), atol=0.02)
