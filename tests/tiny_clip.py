"""Small CLIPs of both image towers, filled by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

# Small, with different sizes in the two towers so that none is mixed up.
TINY = {
  "embed_dim": 16,
  "image_size": 8,
  "patch_size": 4,
  "vision_width": 24,
  "vision_layers": 1,
  "vision_heads": 3,
  "context_length": 6,
  "vocab_size": 20,
  "text_width": 32,
  "text_layers": 2,
  "text_heads": 2,
}


# Likewise, with two blocks in a stage so that one has no projected shortcut.
TINY_RESNET = TINY | {
  "image_size": 32,
  "patch_size": None,
  "vision_width": 4,
  "vision_layers": (1, 2, 1, 1),
  "vision_heads": 2,
  "image_tower": "resnet",
}


def shapes(model):
  size = model.image_size
  images = jnp.zeros((1, size, size, 3))
  tokens = jnp.zeros((1, model.context_length), int)
  return jax.eval_shape(model.init, jax.random.key(0), images, tokens)


def fill(like, *, seed=0):
  """Fills variables by NumPy, as compiling the initialisation takes seconds."""
  rng = np.random.default_rng(seed)

  def one(path, x):
    if path[-1].key in ("var", "scale"):
      return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
    return rng.normal(0, 0.2, x.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(one, like)


def images_of(model, n=4, seed=1):
  size = model.image_size
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, size, size, 3)).astype(np.float32)
