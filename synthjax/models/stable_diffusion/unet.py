"""Stable Diffusion's UNet (Rombach et al. 2022, Section 3.3): 1.x, 2.x and XL.

That of XL (Podell et al. 2023, Section 2) has deeper transformers, and reads
the pooled prompt and sizes beside the timestep.

Submodules carry the names that the weights have in diffusers, with `_` for `.`:
`down_blocks.0.resnets.1.norm1` is `down_blocks_0_resnets_1/norm1`.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.attention import attend
from synthjax.models.clip.vit import LayerNorm
from synthjax.models.unet_layers import (
  Conv3x3,
  GroupNorm,
  ResnetBlock,
  check_sides,
  resample,
  timestep_embedding,
)


class Attention(nn.Module):
  """Attends to the given context, which may be the image itself."""

  heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """Maps [n, l, d], with keys and values of [n, m, d'], to [n, l, d]."""
    width = x.shape[-1]
    dense = partial(nn.Dense, width, dtype=self.dtype)

    def project(name, y):
      y = dense(use_bias=False, name=name)(y)
      return y.reshape(*y.shape[:2], self.heads, width // self.heads)

    q, k, v = (
      project("to_q", x),
      project("to_k", context),
      project("to_v", context),
    )
    return dense(name="to_out_0")(attend(q, k, v))


class TransformerBlock(nn.Module):
  """Attention to the image, attention to the prompt, and a gated MLP."""

  heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """Maps [n, l, d], with the prompt [n, m, d'], to [n, l, d]."""
    width = x.shape[-1]
    norm = partial(LayerNorm, dtype=self.dtype)
    dense = partial(nn.Dense, dtype=self.dtype)
    attention = partial(Attention, self.heads, self.dtype)
    y = norm(name="norm1")(x)
    x = x + attention(name="attn1")(y, y)
    x = x + attention(name="attn2")(norm(name="norm2")(x), context)
    y = dense(8 * width, name="ff_net_0_proj")(norm(name="norm3")(x))
    y, gate = jnp.split(y, 2, axis=-1)
    y = y * nn.gelu(gate, approximate=False)
    return x + dense(width, name="ff_net_2")(y)


class SpatialTransformer(nn.Module):
  """Transformer blocks over the places of an image.

  `proj_in` and `proj_out` are 1x1 convolutions in the weights of 1.x and
  matrices in those since 2.x, which is the same map.
  """

  heads: int
  depth: int  # how many blocks
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """Maps [n, h, w, c], with the prompt [n, m, d], to [n, h, w, c]."""
    n, height, width, channels = x.shape
    dense = partial(nn.Dense, channels, dtype=self.dtype)
    h = GroupNorm(epsilon=1e-6, name="norm")(x)
    h = dense(name="proj_in")(h.reshape(n, height * width, channels))
    for i in range(self.depth):
      name = f"transformer_blocks_{i}"
      h = TransformerBlock(self.heads, self.dtype, name=name)(h, context)
    return x + dense(name="proj_out")(h).reshape(x.shape)


class UNet(nn.Module):
  """The network that predicts a latent's noise, or its velocity.

  The defaults are those of 1.x; 2.x has context_dim 1024 and heads
  (5, 10, 20, 20), and XL is `SDXL`.
  """

  in_channels: int = 4
  out_channels: int = 4
  widths: tuple[int, ...] = (320, 640, 1280, 1280)  # of each level
  layers: int = 2  # residual blocks of a level; one more on the way up
  attention: tuple[bool, ...] = (True, True, True, False)  # of each level
  heads: tuple[int, ...] = (8, 8, 8, 8)  # of each level
  # Transformer blocks of each level, and in the middle those of the last; None
  # is one of each.
  depths: tuple[int, ...] | None = None
  context_dim: int = 768  # of the prompt
  pooled_dim: int | None = None  # of the pooled prompt; None reads none
  size_dim: int = 256  # that each of the sizes is embedded in
  dtype: jnp.dtype = jnp.float32  # of the torso; parameters stay float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    context: jax.Array,
    pooled: jax.Array | None = None,
    sizes: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts for noisy latents.

    Args:
      x: float32 [n, h, w, c].
      t: [n] timesteps as trained on, 0 to 999.
      context: [n, m, context_dim], the encoded prompts.
      pooled: [n, pooled_dim], the same prompts, where the UNet reads them.
      sizes: [n, 6] px, likewise: height and width of the original image, top
        and left of the crop, height and width of the target.

    Returns:
      float32 [n, h, w, out_channels].

    Raises:
      ValueError: about sides that cannot be halved as often as there are
        levels, or a prompt of another width.
    """
    check_sides("a latent", x, len(self.widths))
    if context.shape[-1] != self.context_dim:
      raise ValueError(
        f"The UNet reads prompts of width {self.context_dim}, found "
        f"{context.shape[-1]}: take the text encoder that it was trained with."
      )
    width = 4 * self.widths[0]
    embedding = timestep_embedding(t, self.widths[0])
    embedding = nn.silu(
      nn.Dense(width, name="time_embedding_linear_1")(embedding)
    )
    embedding = nn.Dense(width, name="time_embedding_linear_2")(embedding)
    if self.pooled_dim:
      n = len(x)
      added = timestep_embedding(sizes.reshape(-1), self.size_dim)
      added = jnp.concatenate([pooled, added.reshape(n, -1)], axis=-1)
      added = nn.silu(nn.Dense(width, name="add_embedding_linear_1")(added))
      embedding += nn.Dense(width, name="add_embedding_linear_2")(added)
    context = context.astype(self.dtype)
    levels = range(len(self.widths))
    depths = self.depths or (1,) * len(levels)

    def layer(h, name, j, level, attention):
      """Applies a residual block and, where there is one, a transformer."""
      block = partial(ResnetBlock, self.widths[level], 1e-5, self.dtype)
      h = block(name=f"{name}_resnets_{j}")(h, embedding)
      if attention:
        each = self.heads[level], depths[level]
        block = partial(SpatialTransformer, *each, self.dtype)
        h = block(name=f"{name}_attentions_{j}")(h, context)
      return h

    def conv(h, channels, name, strides=1, dtype=self.dtype):
      make = partial(Conv3x3, channels, strides=strides, dtype=dtype)
      return make(name=name)(h.astype(dtype))

    h = conv(x, self.widths[0], "conv_in")
    skips = [h]
    for level in levels:
      name = f"down_blocks_{level}"
      for j in range(self.layers):
        h = layer(h, name, j, level, self.attention[level])
        skips.append(h)
      if level < levels[-1]:
        h = conv(h, self.widths[level], f"{name}_downsamplers_0_conv", 2)
        skips.append(h)

    h = layer(h, "mid_block", 0, -1, True)
    h = layer(h, "mid_block", 1, -1, False)

    for i, level in enumerate(reversed(levels)):
      name = f"up_blocks_{i}"
      for j in range(self.layers + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = layer(h, name, j, level, self.attention[level])
      if level:
        h = resample(h, "up")
        h = conv(h, self.widths[level], f"{name}_upsamplers_0_conv")

    h = nn.silu(GroupNorm(name="conv_norm_out")(h))
    # In float32, so that the prediction is not rounded.
    return conv(h, self.out_channels, "conv_out", dtype=jnp.float32)


SDXL = partial(
  UNet,
  widths=(320, 640, 1280),
  attention=(False, True, True),
  heads=(5, 10, 20),
  depths=(1, 2, 10),
  context_dim=2048,
  pooled_dim=1280,
)
