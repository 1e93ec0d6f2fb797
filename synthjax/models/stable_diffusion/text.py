"""CLIP's text tower as Stable Diffusion reads it: the vectors of all tokens.

Submodules carry OpenAI's names, as those of `models.clip` do.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.clip.vit import Attention, LayerNorm, normal, quick_gelu

# Of OpenAI's CLIP, which 1.x reads, and of OpenCLIP's, which 2.x reads.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "quick_gelu": quick_gelu,
  "gelu": partial(nn.gelu, approximate=False),
}


class MLP(nn.Module):
  """Two linear layers, four times as wide between them."""

  activation: str
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    d = x.shape[-1]
    dense = partial(nn.Dense, dtype=self.dtype)
    x = ACTIVATIONS[self.activation](dense(4 * d, name="c_fc")(x))
    return dense(d, name="c_proj")(x)


class Block(nn.Module):
  """Pre-norm attention and MLP."""

  heads: int
  activation: str
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]; mask [l, l] is True where seen."""
    d, norm = x.shape[-1], partial(LayerNorm, dtype=self.dtype)
    attn = Attention(self.heads, d**-0.5, d**-0.5, self.dtype, name="attn")
    x = x + attn(norm(name="ln_1")(x), mask)
    mlp = MLP(self.activation, self.dtype, name="mlp")
    return x + mlp(norm(name="ln_2")(x))


class Blocks(nn.Module):
  """A stack of blocks."""

  layers: int
  heads: int
  activation: str
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]; mask [l, l] is True where seen."""
    make = partial(Block, self.heads, self.activation, self.dtype)
    for i in range(self.layers):
      x = make(name=f"resblocks_{i}")(x, mask)
    return x


class TextEncoder(nn.Module):
  """The text tower, without CLIP's pooling and projection.

  The defaults are those of 1.x. The 2.x reads OpenCLIP's H at its last layer
  but one, so the files hold 23 of 24 layers, of width 1024 and 16 heads, with
  the activation "gelu".
  """

  vocab_size: int = 49_408
  context_length: int = 77
  width: int = 768
  layers: int = 12
  heads: int = 12
  activation: str = "quick_gelu"  # of ACTIVATIONS
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps int [n, l] to normalised float32 [n, l, width].

    As the models were trained, padding is read like text; each token sees those
    before it alone.
    """
    length = tokens.shape[1]
    if length > self.context_length:
      raise ValueError(
        f"found texts of {length} tokens, which is more than context_length="
        f"{self.context_length}; tokenize to at most that many."
      )
    embed = partial(nn.Embed, embedding_init=normal(0.02), dtype=self.dtype)
    x = embed(self.vocab_size, self.width, name="token_embedding")(tokens)
    shape = (self.context_length, self.width)
    positions = self.param("positional_embedding", normal(0.01), shape)
    x = x + positions[:length].astype(self.dtype)
    make = partial(Blocks, self.layers, self.heads, self.activation, self.dtype)
    x = make(name="transformer")(x, jnp.tril(jnp.ones((length, length), bool)))
    return LayerNorm(name="ln_final")(x.astype(jnp.float32))
