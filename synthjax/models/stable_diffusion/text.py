"""CLIP's text tower as Stable Diffusion reads it: the vectors of all tokens.

Submodules carry OpenAI's names, as those of `models.clip` do.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.clip.vit import LayerNorm, Transformer, normal


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
  activation: str = "quick_gelu"  # a key of clip.vit.ACTIVATIONS
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
    transformer = Transformer(
      self.layers,
      self.heads,
      self.dtype,
      activation=self.activation,
      causal=True,
      name="transformer",
    )
    return LayerNorm(name="ln_final")(transformer(x).astype(jnp.float32))
