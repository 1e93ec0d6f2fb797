"""GLIDE's transformer that reads a prompt.

Submodules carry the names of the released weights, with `_` for `.`.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.attention import attend


class Text(NamedTuple):
  """What the UNet reads of a prompt."""

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
