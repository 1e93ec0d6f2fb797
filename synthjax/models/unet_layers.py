"""Layers of UNets.

GLIDE's UNet, Stable Diffusion's UNet and its autoencoder share them. Only
`ResnetBlock` is for Stable Diffusion's two networks alone, and
`timestep_embedding` for the two UNets.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.conv import conv_general_dilated

NUM_GROUPS = 32
Conv3x3 = partial(
  nn.Conv,
  kernel_size=(3, 3),
  padding=1,
  conv_general_dilated=conv_general_dilated,
)


class GroupNorm(nn.Module):
  """Normalises 32 groups of channels in float32, whatever the input's type."""

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, ..., c] to float32 [n, ..., c]."""
    channels = x.shape[-1]
    if channels % NUM_GROUPS:
      raise ValueError(
        f"{NUM_GROUPS} groups of channels are normalised, so every width must "
        f"be a multiple of {NUM_GROUPS}; found {channels}. Change the widths: "
        "GLIDE's are model_channels times channel_mult."
      )
    scale = self.param("scale", nn.initializers.ones_init(), (channels,))
    bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
    x = x.astype(jnp.float32)
    inner = tuple(range(1, x.ndim - 1))

    # Statistics of each channel first: many times faster on a CPU than a
    # reduction over [n, h, w, group, channel].
    def grouped(per_channel):  # [n, c] -> [n, c], averaged within each group
      groups = per_channel.reshape(len(x), NUM_GROUPS, -1).mean(-1)
      return jnp.repeat(groups, channels // NUM_GROUPS, axis=-1)

    mean = grouped(x.mean(inner))
    variance = grouped(jnp.square(x).mean(inner)) - jnp.square(mean)
    gain = scale * jax.lax.rsqrt(jnp.maximum(variance, 0) + self.epsilon)
    shift = bias - mean * gain
    middle = (len(x),) + (1,) * len(inner) + (channels,)
    return x * gain.reshape(middle) + shift.reshape(middle)


def resample(x: jax.Array, direction: str | None) -> jax.Array:
  """Halves ("down", 2x2 mean) or doubles ("up", nearest) [n, h, w, c]."""
  if direction == "down":
    return nn.avg_pool(x, (2, 2), (2, 2))
  if direction == "up":
    return x.repeat(2, axis=1).repeat(2, axis=2)
  return x


def check_sides(what: str, images: jax.Array, levels: int) -> None:
  """Checks that images [n, h, w, c] can be halved for all levels but one.

  Raises:
    ValueError: about other sides.
  """
  smallest = 2 ** (levels - 1)
  if images.shape[1] % smallest or images.shape[2] % smallest:
    raise ValueError(
      f"{levels} levels halve {what} {levels - 1} times, so its sides must be "
      f"multiples of {smallest}; found {images.shape[1:3]}."
    )


def timestep_embedding(t: jax.Array, width: int) -> jax.Array:
  """Embeds timesteps [n] as [n, width]: cosines, then sines."""
  half = width // 2
  frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)
  angles = t.astype(jnp.float32)[:, None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ResnetBlock(nn.Module):
  """Two normalised 3x3 convolutions; the time embedding is added between."""

  channels: int
  epsilon: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, embedding: jax.Array | None = None
  ) -> jax.Array:
    """Maps [n, h, w, c] to [n, h, w, channels].

    Args:
      x: the input.
      embedding: float32 [n, e] of the timestep; the autoencoder has none.
    """
    norm = partial(GroupNorm, epsilon=self.epsilon)
    conv = partial(Conv3x3, self.channels, dtype=self.dtype)
    h = nn.silu(norm(name="norm1")(x))
    h = conv(name="conv1")(h.astype(self.dtype))
    if embedding is not None:
      shift = nn.Dense(self.channels, name="time_emb_proj")(nn.silu(embedding))
      h = h + shift[:, None, None].astype(self.dtype)
    h = nn.silu(norm(name="norm2")(h))
    h = conv(name="conv2")(h.astype(self.dtype))
    if x.shape[-1] != self.channels:
      short = nn.Dense(self.channels, dtype=self.dtype, name="conv_shortcut")
      x = short(x)
    return x + h
