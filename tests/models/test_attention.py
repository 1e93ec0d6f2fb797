"""Attention: where cuDNN has a kernel, and that all ways agree."""

from functools import partial
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulated

from synthjax.models import attention
from synthjax.runtime import mesh as meshes


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
    (jnp.bfloat16, 64, None, False),  # a CPU
  ],
)
def test_cudnn_attends_only_where_it_can(dtype, width, capability, fits):
  device = SimpleNamespace(platform="gpu", compute_capability=capability)
  if capability is None:
    device = SimpleNamespace(platform="cpu")
  kernel = attention.kernel_for(jnp.dtype(dtype), width, device)
  assert kernel == ("cudnn" if fits else None)


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
  monkeypatch.setattr(attention, "kernel_for", lambda *_: "cudnn")
  got = grad()
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
    got,
    want,
  )


def written_out(q, k, v, *, causal=False, bias=0.0, scale=64**-0.5):
  """Attends in NumPy, in float64: [n, l, h, d] to [n, m, h, d]."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  logits = np.einsum("nlhd,nmhd->nhlm", q, k) * scale + bias
  if causal:
    logits[..., np.triu(np.ones(logits.shape[2:], bool), 1)] = -np.inf
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum("nhlm,nmhd->nlhd", weights, v)
  return out.reshape(*out.shape[:2], -1)


@pytest.mark.parametrize("large_head", [1, 10**9])  # one by one, and together
@pytest.mark.parametrize("queries", [4, 8])  # in two pieces, and in one
@pytest.mark.parametrize(
  "options", [{}, {"causal": True}, {"scale": 1.0, "bias": True}]
)
def test_plain_jax_attends_as_written_out(
  monkeypatch, large_head, queries, options
):
  monkeypatch.setattr(attention, "LARGE_HEAD", large_head)
  monkeypatch.setattr(attention, "QUERIES", queries)
  q, k, v = draw((8, 5, 5), jnp.float32)
  options = dict(options)
  if "bias" in options:
    options["bias"] = np.linspace(-3, 3, 240).reshape(1, 6, 8, 5)
  got = attention.attend(q, k, v, **options)
  # Logits up to 40, of float32, are off by 2e-6.
  np.testing.assert_allclose(got, written_out(q, k, v, **options), atol=2e-5)


@pytest.mark.parametrize("hidden", [["causal"], ["bias"], ["causal", "bias"]])
def test_cudnn_hides_what_is_asked_for(monkeypatch, hidden):
  """JAX's own attention stands in for cuDNN."""
  q, k, v = draw((8, 8, 8), jnp.float32)
  bias = np.linspace(-3, 3, 384, dtype=np.float32).reshape(1, 6, 8, 8)
  options = {"causal": True, "bias": bias}
  options = {name: options[name] for name in hidden}
  want = written_out(q, k, v, **options)
  plain = partial(jax.nn.dot_product_attention, implementation="xla")
  monkeypatch.setattr(
    jax.nn,
    "dot_product_attention",
    lambda *arrays, implementation, **others: plain(*arrays, **others),
  )
  monkeypatch.setattr(attention, "kernel_for", lambda *_: "cudnn")
  np.testing.assert_allclose(
    attention.attend(q, k, v, **options), want, atol=2e-5
  )


@pytest.mark.slow
def test_the_kernel_of_tpus_attends_and_trains_on_two_devices():
  """Interpreted; XLA would not split it by itself."""
  script = "from models import test_attention as t; t.compare_with_tpus()"
  assert simulated.finish(simulated.start(script, devices=2)) == "P('data',)"


def compare_with_tpus():
  """Compares the kernel with plain JAX; prints how its result is split."""
  from jax.experimental.pallas.ops.tpu import flash_attention as flash

  q, k, v = (x[..., :1, :] for x in draw((130, 200, 200), jnp.bfloat16))
  split = meshes.split(meshes.make_mesh())
  grad = lambda: jax.jit(
    jax.value_and_grad(weighted_sum, (0, 1, 2)), in_shardings=split
  )(q, k, v)
  want = grad()
  interpreted = partial(flash.pl.pallas_call, interpret=True)
  with (
    mock.patch.object(flash.pl, "pallas_call", interpreted),
    mock.patch.object(attention, "kernel_for", lambda *_: "tpu"),
    mock.patch.object(attention, "LEAST_KEYS", 200),
  ):
    got = grad()
  for x, y in zip(got[1], want[1], strict=True):  # the sum may be the same
    off = np.linalg.norm(x.astype(jnp.float32) - y.astype(jnp.float32))
    assert 0 < off < 0.01 * np.linalg.norm(y.astype(jnp.float32))
  print(got[1][0].sharding.spec)


@pytest.mark.parametrize(
  ("shape", "options", "kernel"),
  [
    ((2, 9, 2, 64), dict(causal=True), "cudnn"),
    ((2, 9, 2, 64), dict(bias=(1, 2, 9, 9)), None),  # odd
    ((2, 8, 2, 64), dict(bias=(2, 1, 1, 8)), None),  # not of each query
    ((2, 8, 2, 64), dict(bias=(1, 2, 8, 8)), "cudnn"),
    ((2, 600, 2, 64), dict(), "tpu"),
    ((2, 600, 2, 64), dict(causal=True), None),
    ((2, 500, 2, 64), dict(), None),  # short
  ],
)
def test_a_kernel_is_called_with_what_it_takes(
  monkeypatch, shape, options, kernel
):
  """Of the cases with None, the first two are T5's, the others a TPU's."""
  on_tpu = shape[1] >= 500
  monkeypatch.setattr(
    attention, "kernel_for", lambda *_: "tpu" if on_tpu else "cudnn"
  )
  called = []
  for name in ("_cudnn", "_tpu"):
    attend = lambda q, k, v, name=name, **_: called.append(name[1:]) or q
    monkeypatch.setattr(attention, name.replace("_tpu", "_by_tpu"), attend)
  x = jnp.zeros(shape, jnp.bfloat16)
  if "bias" in options:
    lowest = jnp.finfo(jnp.float32).min
    options = {"bias": jnp.full(options["bias"], lowest)}
  out = attention.fused(x, x, x, **options)
  assert called == ([kernel] if kernel else [])
  assert (out is None) == (kernel is None)
