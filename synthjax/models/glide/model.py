"""GLIDE (Nichol et al. 2021): a text-conditional UNet and its upsampler.

One module at any size: the released base (64 px, 385M parameters) and upsampler
(64 to 256 px, 398M) and the small embedded ones differ only in their fields.
Submodules carry the names of the released weights, with `_` for `.`, under
`text` (the transformer and its embeddings) and `unet` (the rest).
`weights` converts the release; `noised_clip` guides it.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.config.schema import BelowOne, Count, Counts
from synthjax.models.attention import attend
from synthjax.models.unet_layers import (
  Conv3x3,
  GroupNorm,
  check_sides,
  resample,
  timestep_embedding,
)

zeros = nn.initializers.zeros_init()  # each block starts as its shortcut


class Text(NamedTuple):
  """An encoded prompt, as the UNet reads it."""

  pooled: jax.Array  # [n, 4 * model_channels], added to the time embedding
  sequence: jax.Array  # [n, l, d], attended to


class TextBlock(nn.Module):
  """A pre-norm transformer block; attention is bidirectional, unmasked."""

  heads: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    width = x.shape[-1]
    dense = partial(nn.Dense, dtype=self.dtype)
    norm = partial(nn.LayerNorm, epsilon=1e-5)

    y = dense(3 * width, name="attn_c_qkv")(norm(name="ln_1")(x))
    # The channels of q, k and v lie together within each head.
    y = y.reshape(*y.shape[:2], self.heads, -1)
    y = attend(*jnp.split(y, 3, axis=-1))
    x = x + dense(width, name="attn_c_proj")(y)

    y = dense(4 * width, name="mlp_c_fc")(norm(name="ln_2")(x))
    y = nn.gelu(y, approximate=False)
    return x + dense(width, name="mlp_c_proj")(y)


class TextEncoder(nn.Module):
  """The transformer that reads a prompt."""

  vocab_size: int
  context: int
  width: int
  layers: int
  heads: int
  pooled_width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array, mask: jax.Array) -> Text:
    """Encodes int32 tokens [n, l] of which mask [n, l] marks the real ones."""
    if tokens.shape[-1] != self.context:
      raise ValueError(
        f"The text encoder reads {self.context} tokens, found "
        f"{tokens.shape[-1]}: pad or cut the prompts to its context."
      )
    normal = nn.initializers.normal(0.01)
    table = (self.context, self.width)
    embed = nn.Embed(
      self.vocab_size,
      self.width,
      embedding_init=nn.initializers.normal(0.02),
      name="token_embedding",
    )
    x = embed(tokens) + self.param("positional_embedding", normal, table)
    padding = self.param("padding_embedding", normal, table)
    # Padded places lose their position too: the whole vector is replaced.
    x = jnp.where(mask[..., None], x, padding).astype(self.dtype)
    for i in range(self.layers):
      name = f"transformer_resblocks_{i}"
      x = TextBlock(self.heads, self.dtype, name=name)(x)
    x = nn.LayerNorm(epsilon=1e-5, name="final_ln")(x)
    pooled = nn.Dense(self.pooled_width, name="transformer_proj")(x[:, -1])
    return Text(pooled, x)


class ResBlock(nn.Module):
  """A residual block that the time embedding scales and shifts."""

  channels: int
  dropout: float = 0.0
  direction: str | None = None  # "down" or "up" resamples both branches
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, embedding: jax.Array, *, train: bool
  ) -> jax.Array:
    """Maps [n, h, w, c] and float32 [n, e] to [n, h', w', channels]."""
    conv = partial(Conv3x3, self.channels, dtype=self.dtype)
    h = nn.silu(GroupNorm(name="in_layers_0")(x))
    h = resample(h, self.direction)
    x = resample(x, self.direction)
    h = conv(name="in_layers_2")(h.astype(self.dtype))

    embedding = nn.Dense(2 * self.channels, name="emb_layers_1")(
      nn.silu(embedding)
    )
    scale, shift = jnp.split(embedding[:, None, None], 2, axis=-1)
    h = GroupNorm(name="out_layers_0")(h) * (1 + scale) + shift
    h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
    h = conv(kernel_init=zeros, name="out_layers_3")(h.astype(self.dtype))
    if x.shape[-1] != self.channels:
      skip = nn.Dense(self.channels, dtype=self.dtype, name="skip_connection")
      x = skip(x)
    return x + h


class Attention(nn.Module):
  """Self-attention over the image that also reads the prompt."""

  head_channels: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, sequence: jax.Array) -> jax.Array:
    """Maps [n, h, w, c], with text [n, l, d], to [n, h, w, c]."""
    n, height, width, channels = x.shape
    heads = channels // self.head_channels
    dense = partial(nn.Dense, dtype=self.dtype)
    h = GroupNorm(name="norm")(x).reshape(n, height * width, channels)
    qkv = dense(3 * channels, name="qkv")(h)
    text = dense(2 * channels, name="encoder_kv")(sequence)
    q, k, v = jnp.split(qkv.reshape(n, -1, heads, 3 * self.head_channels), 3, 3)
    text_k, text_v = jnp.split(
      text.reshape(n, -1, heads, 2 * self.head_channels), 2, 3
    )
    k = jnp.concatenate([text_k, k], axis=1)  # the text comes first
    v = jnp.concatenate([text_v, v], axis=1)
    h = dense(channels, kernel_init=zeros, name="proj_out")(attend(q, k, v))
    return x + h.reshape(x.shape)


class UNet(nn.Module):
  """The network that predicts noise and its variance."""

  model_channels: int
  channel_mult: tuple[int, ...]
  num_res_blocks: int
  attention_downsamples: tuple[int, ...]  # 2: at half the image's side
  head_channels: int
  dropout: float
  out_channels: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, t: jax.Array, text: Text, *, train: bool
  ) -> jax.Array:
    """Maps images [n, h, w, c] at timesteps [n] to [n, h, w, out_channels]."""
    check_sides("the image", x, len(self.channel_mult))
    width = 4 * self.model_channels
    embedding = timestep_embedding(t, self.model_channels)
    embedding = nn.silu(nn.Dense(width, name="time_embed_0")(embedding))
    embedding = nn.Dense(width, name="time_embed_2")(embedding)
    embedding = embedding + text.pooled.astype(jnp.float32)
    sequence = text.sequence.astype(self.dtype)

    def residual(h, name, channels, direction=None):
      block = ResBlock(channels, self.dropout, direction, self.dtype, name=name)
      return block(h, embedding, train=train)

    def attention(h, name):
      return Attention(self.head_channels, self.dtype, name=name)(h, sequence)

    levels = len(self.channel_mult)
    h = Conv3x3(
      self.channel_mult[0] * self.model_channels,
      dtype=self.dtype,
      name="input_blocks_0_0",
    )(x.astype(self.dtype))
    skips = [h]
    for level, mult in enumerate(self.channel_mult):
      channels = mult * self.model_channels
      for _ in range(self.num_res_blocks):
        name = f"input_blocks_{len(skips)}"
        h = residual(h, f"{name}_0", channels)
        if 2**level in self.attention_downsamples:
          h = attention(h, f"{name}_1")
        skips.append(h)
      if level < levels - 1:
        name = f"input_blocks_{len(skips)}_0"
        h = residual(h, name, channels, "down")
        skips.append(h)

    h = residual(h, "middle_block_0", channels)
    h = attention(h, "middle_block_1")
    h = residual(h, "middle_block_2", channels)

    index = 0
    for level in reversed(range(levels)):
      channels = self.channel_mult[level] * self.model_channels
      for i in range(self.num_res_blocks + 1):
        name, next_layer = f"output_blocks_{index}", 1
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = residual(h, f"{name}_0", channels)
        if 2**level in self.attention_downsamples:
          h = attention(h, f"{name}_{next_layer}")
          next_layer += 1
        if level and i == self.num_res_blocks:
          h = residual(h, f"{name}_{next_layer}", channels, "up")
        index += 1

    h = nn.silu(GroupNorm(name="out_0")(h))
    # In float32, so that the predicted noise is not rounded.
    return Conv3x3(self.out_channels, kernel_init=zeros, name="out_2")(h)


class Glide(nn.Module):
  """A text-conditional diffusion model: prompt and noisy image to noise.

  The defaults are the released base's. The upsampler differs in
  `channel_mult`, `num_res_blocks` and `attention_downsamples`, and is given the
  small image as `low_res`.
  """

  vocab_size: Count = 50_257
  text_context: Count = 128
  text_width: Count = 512
  text_layers: Count = 16
  text_heads: Count = 8
  model_channels: Count = 192
  channel_mult: Counts = (1, 2, 3, 4)
  num_res_blocks: Count = 3
  attention_downsamples: Counts = (2, 4, 8)
  head_channels: Count = 64
  dropout: BelowOne = 0.1
  out_channels: Count = 6
  dtype: jnp.dtype = jnp.float32  # of the torso; parameters stay float32

  def setup(self):
    self.text = TextEncoder(
      vocab_size=self.vocab_size,
      context=self.text_context,
      width=self.text_width,
      layers=self.text_layers,
      heads=self.text_heads,
      pooled_width=4 * self.model_channels,
      dtype=self.dtype,
    )
    self.unet = UNet(
      model_channels=self.model_channels,
      channel_mult=tuple(self.channel_mult),
      num_res_blocks=self.num_res_blocks,
      attention_downsamples=tuple(self.attention_downsamples),
      head_channels=self.head_channels,
      dropout=self.dropout,
      out_channels=self.out_channels,
      dtype=self.dtype,
    )

  def encode_text(self, tokens: jax.Array, mask: jax.Array) -> Text:
    """Reads prompts: tokens int32 [n, l], mask bool [n, l]."""
    return self.text(tokens, mask)

  def predict(
    self,
    x: jax.Array,
    t: jax.Array,
    text: Text,
    low_res: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Predicts noise and variance for noisy images.

    Args:
      x: float32 [n, h, w, 3] in about [-1, 1].
      t: [n] original timesteps, 0 to 999.
      text: of `encode_text`.
      low_res: [n, h', w', 3] in [-1, 1], for the upsampler.
      train: with dropout, which needs an rng named "dropout".

    Returns:
      float32 [n, h, w, 6]: the noise, then where the variance lies.
    """
    if low_res is not None:
      # Half-pixel centres, and no antialiasing as the image grows.
      low_res = jax.image.resize(low_res, x.shape, "linear")
      x = jnp.concatenate([x, low_res], axis=-1)
    return self.unet(x, t, text, train=train)

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    low_res: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Reads the prompts and predicts, in one call."""
    text = self.encode_text(tokens, mask)
    return self.predict(x, t, text, low_res, train=train)
