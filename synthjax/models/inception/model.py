"""Inception-v3 as the Fréchet inception distance (FID) takes it.

The network of TensorFlow's graph `inception-2015-12-05`, by whose pooled
features image sets are compared since Heusel et al. (2017). It is not
torchvision's Inception-v3: the weights are others, averages leave padding out,
and the pool of the last block takes the maximum. Submodules are named as in the
port to PyTorch, pytorch-fid.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

SIZE = 299  # px of the images
NUM_CLASSES = 1008  # of the graph: ImageNet's, and a few that are unused
WIDTH = 32  # of the first convolution; all others are in proportion to it

Size = tuple[int, int]
# TensorFlow's average counts the pixels of the image alone.
average_pool = partial(
  nn.avg_pool,
  window_shape=(3, 3),
  strides=(1, 1),
  padding="SAME",
  count_include_pad=False,
)
max_pool = partial(
  nn.max_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME"
)
halve = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


def preprocess(images: jax.Array) -> jax.Array:
  """Normalises [n, h, w, 3] of 0 to 255, whole or not, as the graph does."""
  return (images.astype(jnp.float32) - 128) / 128


class BasicConv(nn.Module):
  """A convolution, BatchNorm with stored statistics, and ReLU."""

  features: int
  kernel: Size = (1, 1)
  stride: int = 1
  padding: str = "SAME"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, c] to [n, h', w', features]."""
    x = nn.Conv(
      self.features,
      self.kernel,
      self.stride,
      self.padding,
      use_bias=False,
      dtype=self.dtype,
      # Distances are compared between papers, and accelerators round factors of
      # float32 to fewer bits otherwise.
      precision="highest",
      name="conv",
    )(x)
    norm = nn.BatchNorm(
      use_running_average=True, epsilon=1e-3, dtype=self.dtype, name="bn"
    )
    return nn.relu(norm(x))


# Each block below is called with `conv(name, features, kernel, ...)`, which
# makes and names a BasicConv, and maps [n, h, w, c] to its branches side by
# side. The names of branches are the port's.
Conv = Callable[..., Callable[[jax.Array], jax.Array]]


def block_a(conv: Conv, x: jax.Array, *, pooled: int) -> jax.Array:
  """Returns [n, h, w, 224 + pooled], with 3x3 and 5x5 beside each other."""
  one = conv("branch1x1", 64)(x)
  five = conv("branch5x5_1", 48)(x)
  five = conv("branch5x5_2", 64, (5, 5))(five)
  three = conv("branch3x3dbl_1", 64)(x)
  three = conv("branch3x3dbl_2", 96, (3, 3))(three)
  three = conv("branch3x3dbl_3", 96, (3, 3))(three)
  pool = conv("branch_pool", pooled)(average_pool(x))
  return jnp.concatenate([one, five, three, pool], -1)


def block_b(conv: Conv, x: jax.Array) -> jax.Array:
  """Returns [n, h/2, w/2, 480 + c]."""
  half = dict(stride=2, padding="VALID")
  three = conv("branch3x3", 384, (3, 3), **half)(x)
  double = conv("branch3x3dbl_1", 64)(x)
  double = conv("branch3x3dbl_2", 96, (3, 3))(double)
  double = conv("branch3x3dbl_3", 96, (3, 3), **half)(double)
  return jnp.concatenate([three, double, halve(x)], -1)


def block_c(conv: Conv, x: jax.Array, *, inner: int) -> jax.Array:
  """Returns [n, h, w, 768]; 7x7 is taken apart into 1x7 and 7x1."""
  one = conv("branch1x1", 192)(x)
  seven = conv("branch7x7_1", inner)(x)
  seven = conv("branch7x7_2", inner, (1, 7))(seven)
  seven = conv("branch7x7_3", 192, (7, 1))(seven)
  double = conv("branch7x7dbl_1", inner)(x)
  double = conv("branch7x7dbl_2", inner, (7, 1))(double)
  double = conv("branch7x7dbl_3", inner, (1, 7))(double)
  double = conv("branch7x7dbl_4", inner, (7, 1))(double)
  double = conv("branch7x7dbl_5", 192, (1, 7))(double)
  pool = conv("branch_pool", 192)(average_pool(x))
  return jnp.concatenate([one, seven, double, pool], -1)


def block_d(conv: Conv, x: jax.Array) -> jax.Array:
  """Returns [n, h/2, w/2, 512 + c]."""
  half = dict(stride=2, padding="VALID")
  three = conv("branch3x3_1", 192)(x)
  three = conv("branch3x3_2", 320, (3, 3), **half)(three)
  seven = conv("branch7x7x3_1", 192)(x)
  seven = conv("branch7x7x3_2", 192, (1, 7))(seven)
  seven = conv("branch7x7x3_3", 192, (7, 1))(seven)
  seven = conv("branch7x7x3_4", 192, (3, 3), **half)(seven)
  return jnp.concatenate([three, seven, halve(x)], -1)


def block_e(conv: Conv, x: jax.Array, *, pool: Callable) -> jax.Array:
  """Returns [n, h, w, 2048]; `pool` keeps the height and width."""
  one = conv("branch1x1", 320)(x)
  three = conv("branch3x3_1", 384)(x)
  three = [
    conv("branch3x3_2a", 384, (1, 3))(three),
    conv("branch3x3_2b", 384, (3, 1))(three),
  ]
  double = conv("branch3x3dbl_1", 448)(x)
  double = conv("branch3x3dbl_2", 384, (3, 3))(double)
  double = [
    conv("branch3x3dbl_3a", 384, (1, 3))(double),
    conv("branch3x3dbl_3b", 384, (3, 1))(double),
  ]
  pooled = conv("branch_pool", 192)(pool(x))
  return jnp.concatenate([one, *three, *double, pooled], -1)


# In their order.
BLOCKS = {
  "Mixed_5b": partial(block_a, pooled=32),
  "Mixed_5c": partial(block_a, pooled=64),
  "Mixed_5d": partial(block_a, pooled=64),
  "Mixed_6a": block_b,
  "Mixed_6b": partial(block_c, inner=128),
  "Mixed_6c": partial(block_c, inner=160),
  "Mixed_6d": partial(block_c, inner=160),
  "Mixed_6e": partial(block_c, inner=192),
  "Mixed_7a": block_d,
  "Mixed_7b": partial(block_e, pool=average_pool),
  # A maximum where the paper has an average: so the graph was trained.
  "Mixed_7c": partial(block_e, pool=max_pool),
}


class Mixed(nn.Module):
  """One of BLOCKS, which its convolutions are named below."""

  block: str
  width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, c] to [n, h', w', c']."""

    def conv(name, features, kernel=(1, 1), **fields):
      features = features * self.width // WIDTH
      return BasicConv(features, kernel, dtype=self.dtype, name=name, **fields)

    return BLOCKS[self.block](conv, x)


class Inception(nn.Module):
  """The network, whose features are averages over the last block's places."""

  width: int = WIDTH  # smaller in tests: even, so that all widths are whole
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @property
  def num_features(self) -> int:
    """The number of features of an image; the released network has 2048."""
    return 64 * self.width

  @nn.compact
  def __call__(self, images: jax.Array, logits: bool = False) -> jax.Array:
    """Maps normalised [n, 299, 299, 3] to float32 features [n, num_features].

    Other sizes from 75 px on give features too, which no published distance is
    of.

    Args:
      images: of `preprocess`.
      logits: returns the classes' [n, 1008] instead, which no distance needs.
        Their weights are kept so that weights come back whole.
    """
    conv = partial(BasicConv, padding="VALID", dtype=self.dtype)
    w, three = self.width, (3, 3)
    x = images.astype(self.dtype)
    x = conv(w, three, 2, name="Conv2d_1a_3x3")(x)  # [n, 149, 149, 32]
    x = conv(w, three, name="Conv2d_2a_3x3")(x)
    x = conv(2 * w, three, padding="SAME", name="Conv2d_2b_3x3")(x)
    x = halve(x)  # [n, 73, 73, 64]
    x = conv(5 * w // 2, name="Conv2d_3b_1x1")(x)
    x = conv(6 * w, three, name="Conv2d_4a_3x3")(x)
    x = halve(x)  # [n, 35, 35, 192]
    for name in BLOCKS:  # to [n, 17, 17, 768] and [n, 8, 8, 2048]
      x = Mixed(name, w, self.dtype, name=name)(x)
    features = x.astype(jnp.float32).mean((1, 2))
    # Made whether it is asked for or not, so that the parameters are the same.
    classes = nn.Dense(NUM_CLASSES, name="fc")(features)
    return classes if logits else features


def make(dtype: str = "float32", **sizes: Any) -> Inception:
  """Returns the module of a description's `model`."""
  return Inception(dtype=jnp.dtype(dtype), **sizes)
