"""Encoders of images with random weights, small."""

import jax
import numpy as np

from synthjax.convert import files
from synthjax.models import dinov2


def write_dinov2(path, **sizes):
  """Writes a DINOv2 of random weights for 32 px, and returns its path."""
  sizes = dict(patch_size=2, width=16, depth=2, heads=2, grid=5) | sizes
  images = jax.ShapeDtypeStruct((1, 10, 10, 3), np.float32)
  like = jax.eval_shape(dinov2.make(**sizes).init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(size=x.shape), like)
  files.save_params(path, variables, {"kind": "dinov2", "model": sizes})
  return str(path)
