"""CLIP's text towers as Stable Diffusion reads them: the vectors of all tokens.

Submodules carry OpenAI's names, as those of `models.clip` do.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.clip.vit import LayerNorm, Transformer, normal


class TextEncoder(nn.Module):
  """A text tower.

  The defaults are those of 1.x. The 2.x reads OpenCLIP's H at its last layer
  but one, so the files hold 23 of 24 layers, of width 1024 and 16 heads, with
  the activation "gelu". XL reads that of 1.x and OpenCLIP's bigG (width 1280,
  32 layers, 20 heads, "gelu", projection 1280), both of them `penultimate`.
  """

  vocab_size: int = 49_408
  context_length: int = 77
  width: int = 768
  layers: int = 12
  heads: int = 12
  activation: str = "quick_gelu"  # a key of clip.vit.ACTIVATIONS
  # Whether tokens are read before the last layer, and not normalised.
  penultimate: bool = False
  projection: int | None = None  # of the end's vector, the pooled prompt
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Encodes texts.

    As the models were trained, padding is read like text; each token sees those
    before it alone.

    Args:
      tokens: int [n, l].

    Returns:
      float32 [n, l, width]; and float32 [n, projection], read at the first
      token of the largest id, which is the end, or None without a projection.
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
    last, before = (y.astype(jnp.float32) for y in transformer.last_two(x))
    last = LayerNorm(name="ln_final")(last)
    pooled = None
    if self.projection:
      shape = (self.width, self.projection)
      project = self.param("text_projection", normal(self.width**-0.5), shape)
      pooled = last[jnp.arange(len(tokens)), tokens.argmax(-1)] @ project
    return before if self.penultimate else last, pooled
