"""ResNets (He et al. 2015), with the submodule names of torchvision."""

from functools import partial
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.config.schema import Count, Counts, Flag, one_of
from synthjax.models.conv import conv_general_dilated

# PyTorch's momentum of 0.1 is Flax's 0.9.
BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
Conv = partial(
  nn.Conv,
  use_bias=False,
  kernel_init=nn.initializers.variance_scaling(2, "fan_out", "normal"),
  conv_general_dilated=conv_general_dilated,
)
zeros = nn.initializers.zeros  # each block starts as the identity


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  width: int
  stride: int = 1
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [n, h, w, c] to [n, h/stride, w/stride, width]."""
    conv = partial(Conv, dtype=self.dtype)
    norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)

    # padding=1, as "SAME" would pad a strided 3x3 on one side only.
    y = conv(self.width, (3, 3), self.stride, padding=1, name="conv1")(x)
    y = nn.relu(norm(name="bn1")(y))
    y = conv(self.width, (3, 3), padding=1, name="conv2")(y)
    y = norm(name="bn2", scale_init=zeros)(y)

    if x.shape != y.shape:
      x = conv(self.width, (1, 1), self.stride, name="downsample_conv")(x)
      x = norm(name="downsample_bn")(x)
    return nn.relu(x + y)


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 residual block; the stride is on the 3x3 ("v1.5")."""

  width: int
  stride: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [n, h, w, c] to [n, h/stride, w/stride, 4*width]."""
    conv = partial(Conv, dtype=self.dtype)
    norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
    stride, wide = self.stride, 4 * self.width

    y = conv(self.width, (1, 1), name="conv1")(x)
    y = nn.relu(norm(name="bn1")(y))
    y = conv(self.width, (3, 3), stride, padding=1, name="conv2")(y)
    y = nn.relu(norm(name="bn2")(y))
    y = conv(wide, (1, 1), name="conv3")(y)
    y = norm(name="bn3", scale_init=zeros)(y)

    if x.shape != y.shape:
      x = conv(wide, (1, 1), stride, name="downsample_conv")(x)
      x = norm(name="downsample_bn")(x)
    return nn.relu(x + y)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}

# "cifar" keeps 32 px images at their size, where "imagenet" divides by 4.
STEMS = ("imagenet", "cifar")

# "mlp" is MoCo v2's projection: a hidden layer as wide as the features.
HEADS = ("linear", "mlp")


class ResNet(nn.Module):
  """A residual network; the stages double the width and halve the image."""

  stage_sizes: Counts
  num_classes: int | None  # None returns the pooled features
  block: Annotated[str, one_of(BLOCKS)] = "bottleneck"
  width: Count = 64  # of the first stage
  stem: Annotated[str, one_of(STEMS)] = "imagenet"
  head: Annotated[str, one_of(HEADS)] = "linear"
  remat: Flag = False  # recomputes blocks in the backward pass: less memory
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 logits [n, num_classes].

    With `train`, BatchNorm uses the batch and updates `batch_stats`.

    Raises:
      ValueError: for an unknown block, stem or head.
    """
    for name, value, choices in (
      ("block", self.block, sorted(BLOCKS)),
      ("stem", self.stem, STEMS),
      ("head", self.head, HEADS),
    ):
      if value not in choices:
        raise ValueError(
          f"Unknown {name}={value!r}; choose one of {', '.join(choices)}."
        )
    conv = partial(Conv, dtype=self.dtype)
    if self.stem == "imagenet":
      x = conv(self.width, (7, 7), 2, padding=3, name="conv1")(images)
    else:
      x = conv(self.width, (3, 3), padding=1, name="conv1")(images)
    norm = BatchNorm(
      use_running_average=not train, dtype=self.dtype, name="bn1"
    )
    x = nn.relu(norm(x))
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

    make = BLOCKS[self.block]
    make = nn.remat(make, static_argnums=(2,)) if self.remat else make
    for i, size in enumerate(self.stage_sizes):
      for j in range(size):
        block = make(
          width=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          dtype=self.dtype,
          name=f"layer{i + 1}_{j}",
        )
        x = block(x, train)
    x = x.astype(jnp.float32).mean((1, 2))  # [n, c]
    if self.num_classes is None:
      return x
    # As in PyTorch: uniform within 1 / sqrt(c).
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    dense = partial(nn.Dense, kernel_init=init)
    if self.head == "mlp":  # Chen et al. 2020; the numbers are the released
      x = nn.relu(dense(x.shape[-1], name="fc_0")(x))
      return dense(self.num_classes, name="fc_2")(x)
    return dense(self.num_classes, name="fc")(x)


MODELS = {
  "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block="basic"),
  "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), block="basic"),
  "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3)),
  # For 32 px images on a CPU.
  "resnet_tiny": partial(
    ResNet, stage_sizes=(1, 1, 1), block="basic", width=16, stem="cifar"
  ),
}
