"""A tiny release of weights, and the command that fetches such."""

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.glide import noised_clip_weights
from synthjax.models.glide.noised_clip import TextEncoder
from synthjax.weights import __main__ as weights

SIZES = dict(vocab_size=50, context=6, width=64, layers=1, heads=1, embed_dim=8)


def released_text(dtype=np.float16):
  """The noised CLIP's text tower under its released names, tiny and random."""
  tokens = jax.ShapeDtypeStruct((1, SIZES["context"]), jnp.int32)
  like = jax.eval_shape(TextEncoder(**SIZES).init, jax.random.key(0), tokens)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(size=x.shape), like)
  state = noised_clip_weights.to_released(variables, {})
  return {k: np.ascontiguousarray(w, dtype) for k, w in state.items()}


def parameters():
  return sum(w.size for w in released_text().values())


def run(*args, code=0):
  """Runs the command in this process."""
  try:
    weights.main(args)
  except SystemExit as stop:
    assert stop.code == code
  else:
    assert code == 0
