"""The ResNet image tower of CLIP (Radford et al. 2021, Section 2.4).

Three changes set it apart from `resnet.ResNet`: a stem of three convolutions,
average pooling before each convolution that would have a stride (He et al.
2019, ResNet-D; Zhang 2019), and attention in place of the last average pool.
Submodules are named as in OpenAI's weights: `layer1.0.downsample.0` is here
`layer1_0/downsample_0`.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.resnet.model import BatchNorm, Conv

zeros = nn.initializers.zeros  # each block starts as its shortcut
REDUCTION = 32  # of the image's side, over the whole tower


def pool(x: jax.Array, size: int) -> jax.Array:
  """Averages [n, h, w, c] over squares of `size`; a size of 1 is no change."""
  return nn.avg_pool(x, (size, size), (size, size)) if size > 1 else x


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 residual block that pools where it would have a stride."""

  width: int
  stride: int = 1
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [n, h, w, c] to [n, h/stride, w/stride, 4*width]."""
    conv = partial(Conv, dtype=self.dtype)
    norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
    wide = 4 * self.width

    y = conv(self.width, (1, 1), name="conv1")(x)
    y = nn.relu(norm(name="bn1")(y))
    y = conv(self.width, (3, 3), padding=1, name="conv2")(y)
    y = nn.relu(norm(name="bn2")(y))
    y = conv(wide, (1, 1), name="conv3")(pool(y, self.stride))
    y = norm(name="bn3", scale_init=zeros)(y)

    if x.shape != y.shape:
      x = conv(wide, (1, 1), name="downsample_0")(pool(x, self.stride))
      x = norm(name="downsample_1")(x)
    return nn.relu(x + y)


class AttentionPool(nn.Module):
  """One layer of attention, whose only query is the mean over the places."""

  embed_dim: int
  heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, d] to float32 [n, embed_dim]."""
    n, d = x.shape[0], x.shape[-1]
    x = x.reshape(n, -1, d)
    mean = x.astype(jnp.float32).mean(1, keepdims=True).astype(self.dtype)
    x = jnp.concatenate([mean, x], axis=1)  # [n, 1 + h w, d]
    init = nn.initializers.normal(d**-0.5)
    positions = self.param("positional_embedding", init, x.shape[1:])
    x = x + positions.astype(self.dtype)

    dense = partial(nn.Dense, kernel_init=init)
    split = lambda y: y.reshape(n, -1, self.heads, d // self.heads)
    q = split(dense(d, dtype=self.dtype, name="q_proj")(x[:, :1]))
    k = split(dense(d, dtype=self.dtype, name="k_proj")(x))
    v = split(dense(d, dtype=self.dtype, name="v_proj")(x))
    q = q * (d // self.heads) ** -0.5
    logits = jnp.einsum("nqhd,nkhd->nhqk", q, k).astype(jnp.float32)
    weights = nn.softmax(logits).astype(self.dtype)
    x = jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, d)
    return dense(self.embed_dim, name="c_proj")(x.astype(jnp.float32))


class ModifiedResNet(nn.Module):
  """The image tower; four stages double the width and halve the image."""

  embed_dim: int
  image_size: int
  width: int  # of the first stage
  layers: Sequence[int]  # blocks of each stage
  heads: int  # of the pooling; OpenAI: width * 32 / 64
  patch_size: None = None  # a field of the other tower, which this has not
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32
  remat: bool = False  # computes each block again for the gradients
  activation: str = "quick_gelu"  # likewise of the other: this one has ReLU

  def check(self, shape: Sequence[int]) -> None:
    """Raises a ValueError about fields or images [n, h, w, 3] that do not fit.

    All that does not fit is named at once.
    """
    size, problems = self.image_size, []
    if self.patch_size is not None:
      problems.append(
        f"patch_size={self.patch_size} belongs to a ViT; leave it None"
      )
    if not isinstance(self.layers, Sequence) or len(self.layers) != 4:
      problems.append(
        f"layers={self.layers} must be the blocks of each of four stages, such "
        "as (3, 4, 6, 3)"
      )
    if size % REDUCTION:
      problems.append(f"image_size={size} must be a multiple of {REDUCTION}")
    if (REDUCTION * self.width) % self.heads:
      problems.append(
        f"heads={self.heads} must divide {REDUCTION} * width = "
        f"{REDUCTION * self.width} (OpenAI: {self.width * REDUCTION // 64})"
      )
    if tuple(shape[1:]) != (size, size, 3):
      problems.append(
        f"images {tuple(shape)} must be resized to [n, {size}, {size}, 3]"
      )
    if problems:
      raise ValueError("CLIP's ResNet: " + "; ".join(problems) + ".")

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 [n, embed_dim].

    With `train`, BatchNorm uses the batch and updates `batch_stats`.

    Raises:
      ValueError: as `check` does.
    """
    self.check(images.shape)
    x = images
    for i, width in enumerate((self.width // 2, self.width // 2, self.width)):
      x = Conv(
        width,
        (3, 3),
        strides=2 if i == 0 else 1,
        padding=1,
        dtype=self.dtype,
        name=f"conv{i + 1}",
      )(x)
      norm = BatchNorm(
        use_running_average=not train, dtype=self.dtype, name=f"bn{i + 1}"
      )
      x = nn.relu(norm(x))
    x = pool(x, 2)

    # `train` is the argument 2 of the block's __call__, after self and x.
    make = nn.remat(Bottleneck, static_argnums=2) if self.remat else Bottleneck
    for i, size in enumerate(self.layers):
      for j in range(size):
        block = make(
          width=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          dtype=self.dtype,
          name=f"layer{i + 1}_{j}",
        )
        x = block(x, train)
    attnpool = AttentionPool(
      self.embed_dim, self.heads, self.dtype, name="attnpool"
    )
    return attnpool(x)
