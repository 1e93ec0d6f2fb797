"""Stable Diffusion's autoencoder (Rombach et al. 2022, Section 3.1).

Submodules carry the names that the weights have in diffusers, with `_` for `.`:
`encoder.mid_block.resnets.0.norm1` is `encoder/mid_block_resnets_0/norm1`.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.attention import attend
from synthjax.models.unet_layers import (
  Conv3x3,
  GroupNorm,
  ResnetBlock,
  check_sides,
  resample,
)

EPSILON = 1e-6
Norm = partial(GroupNorm, epsilon=EPSILON)


class Attention(nn.Module):
  """Attention of one head over the places of an image."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, c] to [n, h, w, c]."""
    n, height, width, channels = x.shape
    h = Norm(name="group_norm")(x).reshape(n, height * width, channels)
    dense = partial(nn.Dense, channels, dtype=self.dtype)
    q, k, v = (dense(name=f"to_{x}")(h)[:, :, None] for x in "qkv")
    h = dense(name="to_out_0")(attend(q, k, v))
    return x + h.reshape(x.shape)


def _middle(h: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Applies the blocks at the smallest size; called within a module."""
  block = partial(ResnetBlock, h.shape[-1], EPSILON, dtype)
  h = block(name="mid_block_resnets_0")(h)
  h = Attention(dtype, name="mid_block_attentions_0")(h)
  return block(name="mid_block_resnets_1")(h)


class Encoder(nn.Module):
  """Maps images to features, from which moments of latents are computed."""

  widths: tuple[int, ...]
  layers: int
  latent_channels: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, c] to float32 [n, h/f, w/f, 2 * latent_channels]."""
    Conv = partial(Conv3x3, dtype=self.dtype)
    h = Conv(self.widths[0], name="conv_in")(x)
    for level, channels in enumerate(self.widths):
      name = f"down_blocks_{level}"
      for j in range(self.layers):
        block = ResnetBlock(
          channels, EPSILON, self.dtype, name=f"{name}_resnets_{j}"
        )
        h = block(h)
      if level < len(self.widths) - 1:
        # Padded below and to the right alone.
        conv = partial(Conv, channels, strides=2, padding=((0, 1), (0, 1)))
        h = conv(name=f"{name}_downsamplers_0_conv")(h)
    h = nn.silu(Norm(name="conv_norm_out")(_middle(h, self.dtype)))
    return Conv3x3(2 * self.latent_channels, name="conv_out")(h)


class Decoder(nn.Module):
  """Maps latents to images."""

  widths: tuple[int, ...]
  layers: int
  out_channels: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Maps [n, h, w, c] to float32 [n, f * h, f * w, out_channels]."""
    Conv = partial(Conv3x3, dtype=self.dtype)
    h = _middle(Conv(self.widths[-1], name="conv_in")(z), self.dtype)
    for i, channels in enumerate(reversed(self.widths)):
      name = f"up_blocks_{i}"
      for j in range(self.layers + 1):
        block = ResnetBlock(
          channels, EPSILON, self.dtype, name=f"{name}_resnets_{j}"
        )
        h = block(h)
      if i < len(self.widths) - 1:
        h = resample(h, "up")
        h = Conv(channels, name=f"{name}_upsamplers_0_conv")(h)
    h = nn.silu(Norm(name="conv_norm_out")(h))
    return Conv3x3(self.out_channels, name="conv_out")(h)


class Autoencoder(nn.Module):
  """Maps images to latents and back.

  An image's sides are those of its latent times 2 ** (levels - 1), which is 8.
  """

  in_channels: int = 3
  out_channels: int = 3
  widths: tuple[int, ...] = (128, 256, 512, 512)  # of each level
  layers: int = 2  # residual blocks of a level; one more in the decoder
  latent_channels: int = 4
  # Of the torsos. The released ones overflow in float16, so it is not that.
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.encoder = Encoder(
      self.widths, self.layers, self.latent_channels, self.dtype
    )
    self.quant_conv = nn.Dense(2 * self.latent_channels)
    self.post_quant_conv = nn.Dense(self.latent_channels)
    self.decoder = Decoder(
      self.widths, self.layers, self.out_channels, self.dtype
    )

  def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps images [n, h, w, c] in [-1, 1] to the moments of their latents.

    Returns:
      mean and logarithm of the variance, float32 [n, h/f, w/f, latent_channels]
      each, not scaled.
    """
    check_sides("the image", images, len(self.widths))
    moments = self.quant_conv(self.encoder(images))
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, -30, 20)

  def decode(self, z: jax.Array) -> jax.Array:
    """Maps unscaled latents [n, h, w, c] to images in about [-1, 1]."""
    return self.decoder(self.post_quant_conv(z))

  def __call__(self, images: jax.Array) -> jax.Array:
    """Encodes and decodes images, taking the means of their latents."""
    return self.decode(self.encode(images)[0])
