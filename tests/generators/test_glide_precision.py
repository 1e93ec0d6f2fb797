"""GLIDE in half precision: what is rounded, what is not, and who attends."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_glide
from flax.traverse_util import flatten_dict

from synthjax.models.glide.model import Glide


def small_glide(dtype):
  return Glide(vocab_size=32, dtype=dtype, **tiny_glide.SIZES)


def small_inputs():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 32, (2, tiny_glide.SIZES["text_context"]))
  x = jnp.asarray(rng.standard_normal((2, 8, 8, 3)), jnp.float32)
  return x, jnp.array([30, 700]), jnp.asarray(tokens), jnp.asarray(tokens > 4)


@pytest.mark.slow
def test_bfloat16_predicts_nearly_what_float32_does():
  inputs = small_inputs()
  shapes = jax.eval_shape(
    small_glide(jnp.float32).init, jax.random.key(0), *inputs
  )
  variables = {"params": tiny_glide.fill(shapes["params"], seed=0)}
  exact, rough = (
    jax.jit(small_glide(dtype).apply)(variables, *inputs)
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert rough.dtype == jnp.float32
  off = np.abs(rough - exact) / exact.std()
  # bfloat16 has 8 bits: 0.4 % for each number, and some more after ten layers.
  assert 0 < off.mean() < 0.02 and off.max() < 0.1


def test_what_half_precision_would_harm_stays_float32():
  """As in the released model: the time, the norms and the last layer."""
  model, inputs = small_glide(jnp.bfloat16), small_inputs()
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  assert all(w.dtype == jnp.float32 for w in jax.tree.leaves(variables))
  apply = partial(model.apply, capture_intermediates=True)
  _, state = jax.eval_shape(
    partial(apply, mutable=["intermediates"]), variables, *inputs
  )
  found = {
    path[1:-1]: out[0].dtype
    for path, out in flatten_dict(state["intermediates"]).items()
    if hasattr(out[0], "dtype")
  }
  exact = ("time_embed", "emb_layers", "layers_0", "norm", "ln", "out_")
  for path, dtype in found.items():
    name = path[-1] if path else ""
    if name.startswith(("in_layers_2", "out_layers_3", "skip", "qkv")):
      assert dtype == jnp.bfloat16, path
    elif name.startswith(exact) or name.endswith("layers_0"):
      assert dtype == jnp.float32, path
  names = {path[-1] for path in found if path}
  assert {"time_embed_2", "emb_layers_1", "norm", "out_2", "qkv"} <= names
