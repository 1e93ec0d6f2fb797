"""Qwen3's layers (Yang et al. 2025, arXiv 2505.09388), as prompts are read.

Submodules carry the names that Hugging Face gives the weights, with `_` for
`.`: `model.layers.0.mlp.up_proj` is `layers_0/mlp_up_proj`.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models import rotary
from synthjax.models.attention import attend


class Layer(nn.Module):
  """Attention with groups of queries for each key, and a gated MLP."""

  heads: int
  key_heads: int
  head_dim: int
  mlp_width: int
  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: jax.Array, bias: jax.Array, table: jax.Array
  ) -> jax.Array:
    """Maps [n, l, d]; bias [n, 1, l, l] hides keys; table of `rotary`."""
    width = x.shape[-1]
    dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
    norm = partial(nn.RMSNorm, epsilon=self.epsilon, dtype=self.dtype)

    def of_heads(name, count):
      h_ = dense(count * self.head_dim, name=f"self_attn_{name}_proj")(h)
      return h_.reshape(*h_.shape[:2], count, self.head_dim)

    h = norm(name="input_layernorm")(x)
    q = norm(name="self_attn_q_norm")(of_heads("q", self.heads))
    k = norm(name="self_attn_k_norm")(of_heads("k", self.key_heads))
    v = of_heads("v", self.key_heads)
    q, k = (rotary.turn(y, table, pairs="halves") for y in (q, k))
    k, v = (jnp.repeat(y, self.heads // self.key_heads, axis=2) for y in (k, v))
    x = x + dense(width, name="self_attn_o_proj")(attend(q, k, v, bias=bias))

    h = norm(name="post_attention_layernorm")(x)
    hidden = partial(dense, self.mlp_width)
    h = nn.silu(hidden(name="mlp_gate_proj")(h)) * hidden(name="mlp_up_proj")(h)
    return x + dense(width, name="mlp_down_proj")(h)


class TextEncoder(nn.Module):
  """What some of the layers make of each token.

  The defaults are FLUX.2-klein-4B's use of Qwen3-4B, of whose 36 layers it
  reads none behind the 27th.
  """

  vocab_size: int = 151_936
  width: int = 2560
  heads: int = 32
  key_heads: int = 8
  head_dim: int = 128
  mlp_width: int = 9728
  taps: tuple[int, ...] = (9, 18, 27)  # layers behind which tokens are read
  theta: float = 1_000_000.0
  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Encodes texts.

    Args:
      tokens: int [n, l], filled up behind each text.
      mask: bool [n, l], true on the text. No token sees what fills up, which
        is encoded all the same.

    Returns:
      [n, l, len(taps) * width].
    """
    length = tokens.shape[1]
    embed = nn.Embed(
      self.vocab_size, self.width, dtype=self.dtype, name="embed_tokens"
    )
    x = embed(tokens)
    seen = jnp.tril(jnp.ones((length, length), bool)) & mask[:, None, None]
    bias = jnp.where(seen, 0.0, -jnp.inf)
    table = rotary.table(
      rotary.angles(np.arange(length), self.head_dim, self.theta)
    )
    tapped = []
    for i in range(max(self.taps)):
      layer = Layer(
        self.heads,
        self.key_heads,
        self.head_dim,
        self.mlp_width,
        self.epsilon,
        self.dtype,
        name=f"layers_{i}",
      )
      x = layer(x, bias, table)
      if i + 1 in self.taps:
        tapped.append(x)
    return jnp.concatenate(tapped, axis=-1)
