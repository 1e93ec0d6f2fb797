"""Encoders of images with random weights, small."""

import inception_keys
import jax
import numpy as np

from synthjax.models.dinov2 import model as dinov2
from synthjax.models.inception import weights as inception_names
from synthjax.weights import files


def write_dinov2(path, **sizes):
  """Writes a DINOv2 of random weights for 32 px, and returns its path."""
  sizes = dict(patch_size=2, width=16, depth=2, heads=2, grid=5) | sizes
  images = jax.ShapeDtypeStruct((1, 10, 10, 3), np.float32)
  like = jax.eval_shape(dinov2.make(**sizes).init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(size=x.shape), like)
  files.save_params(path, variables, {"kind": "dinov2", "model": sizes})
  return str(path)


def inception_weights(width=2):
  """Returns random weights of an Inception by their released names.

  Activations stay near one, and BatchNorm's statistics are not 0 and 1.
  """
  rng = np.random.default_rng(0)

  def draw(name, shape):
    if name.endswith("num_batches_tracked"):
      return np.int64(0)
    if len(shape) > 1:
      return rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5
    if name.endswith("running_var"):
      return rng.uniform(0.5, 1.5, shape)
    return rng.normal(name.endswith("bn.weight"), 0.3, shape)

  found = {k: draw(k, s) for k, s in inception_keys.shapes(width).items()}
  return {
    k: w if k.endswith("tracked") else w.astype(np.float32)
    for k, w in found.items()
  }


def write_inception(path):
  """Writes an Inception of random weights, and returns its path."""
  files.save_params(path, *inception_names.from_released(inception_weights()))
  return str(path)
