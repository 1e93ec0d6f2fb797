"""Weights are cast before the walk, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import hot_functions
from synthjax.generators import batching, glide
from synthjax.models.glide.model import Glide


def test_only_what_is_used_in_half_precision_alone_is_cast():
  params = {name: jnp.ones(3) for name in "abcd"}

  def apply(params, x):
    half = params["a"].astype(jnp.bfloat16) * x.astype(jnp.bfloat16)
    both = params["b"].astype(jnp.bfloat16).sum() + params["b"].sum()
    returned = params["c"].astype(jnp.bfloat16), params["c"]
    return half, both, returned, params["d"] @ x

  cast = batching.cast_once(apply, params, jnp.ones(3))
  assert {name: x.dtype.name for name, x in cast.items()} == {
    "a": "bfloat16",
    "b": "float32",
    "c": "float32",
    "d": "float32",
  }


@pytest.mark.slow
def test_a_network_of_cast_weights_predicts_the_same():
  stage = hot_functions.TINY_STAGES["upsampler"]
  hot = hot_functions.glide_step(1, stage)
  variables, *inputs = hot_functions.fill(hot)
  params = variables["params"]
  model = Glide(**stage.sizes, dtype=jnp.bfloat16)
  cast = glide._cast(model, params, is_upsampler=True)
  names = {
    name: leaf.dtype == jnp.bfloat16
    for name, leaf in flatten_dict(cast["unet"], sep="/").items()
  }
  assert names["input_blocks_1_0/in_layers_2/kernel"]
  assert not names["time_embed_0/kernel"] and not names["out_2/kernel"]
  with jax.disable_jit():  # XLA leaves casts out where it can
    got, want = (hot.function({"params": p}, *inputs) for p in (cast, params))
  np.testing.assert_array_equal(got, want)
