"""Qwen3 (Yang et al. 2025, arXiv 2505.09388): it reads prompts, and writes.

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

Memory = tuple[jax.Array, jax.Array]  # keys and values of a layer


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
    self,
    x: jax.Array,
    bias: jax.Array,
    table: jax.Array,
    memory: Memory | None = None,
    position: jax.Array | None = None,
  ) -> tuple[jax.Array, Memory]:
    """Maps [n, l, d].

    Args:
      x: [n, l, d].
      bias: [n, 1, l, m] hides keys.
      table: of `rotary`, of the places of x.
      memory: keys and values [n, m, key_heads, head_dim], into which those of
        x are written from the position on; None is of x alone.
      position: int [].

    Returns:
      [n, l, d], and the new memory.
    """
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
    if memory is not None:
      k, v = (
        jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=1)
        for old, new in zip(memory, (k, v), strict=True)
      )
    memory = k, v
    k, v = (jnp.repeat(y, self.heads // self.key_heads, axis=2) for y in (k, v))
    x = x + dense(width, name="self_attn_o_proj")(attend(q, k, v, bias=bias))

    h = norm(name="post_attention_layernorm")(x)
    hidden = partial(dense, self.mlp_width)
    h = nn.silu(hidden(name="mlp_gate_proj")(h)) * hidden(name="mlp_up_proj")(h)
    return x + dense(width, name="mlp_down_proj")(h), memory


class Qwen3(nn.Module):
  """What some of the layers make of each token, and the token that comes next.

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
  num_layers: int | None = None  # None: none behind the last that is read
  tied: bool = True  # whether the embedding is the last matrix, too
  theta: float = 1_000_000.0
  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  def setup(self):
    self.embed_tokens = nn.Embed(self.vocab_size, self.width, dtype=self.dtype)
    self.layers = [
      Layer(
        self.heads,
        self.key_heads,
        self.head_dim,
        self.mlp_width,
        self.epsilon,
        self.dtype,
      )
      for _ in range(self.num_layers or max(self.taps))
    ]
    # Of `step` alone, as modules that are not called have no parameters.
    self.norm = nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype)
    self.lm_head = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype)

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
    x = self.embed_tokens(tokens)
    seen = jnp.tril(jnp.ones((length, length), bool)) & mask[:, None, None]
    bias = jnp.where(seen, 0.0, -jnp.inf)
    tapped = []
    for i, layer in enumerate(self.layers[: max(self.taps)]):
      x, _ = layer(x, bias, self._table(length))
      if i + 1 in self.taps:
        tapped.append(x)
    return jnp.concatenate(tapped, axis=-1)

  def step(
    self, last: jax.Array, position: jax.Array, memory: tuple[Memory, ...]
  ) -> tuple[jax.Array, tuple[Memory, ...]]:
    """Reads a token of each text, and predicts the next one.

    Args:
      last: int [n], the tokens at the position.
      position: int [], from 0; memory holds the tokens before.
      memory: of `empty_memory`, or of the step before.

    Returns:
      Logits float32 [n, vocab_size], and the new memory.
    """
    length = memory[0][0].shape[1]
    bias = jnp.where(jnp.arange(length) <= position, 0.0, -jnp.inf)
    table = self._table(length)[:, position, None]
    x, new = self.embed_tokens(last[:, None]), []
    for layer, old in zip(self.layers, memory, strict=True):
      x, of_layer = layer(x, bias[None, None, None], table, old, position)
      new.append(of_layer)
    x = self.norm(x[:, 0])
    logits = self.embed_tokens.attend(x) if self.tied else self.lm_head(x)
    return logits.astype(jnp.float32), tuple(new)

  def empty_memory(self, n: int, length: int) -> tuple[Memory, ...]:
    """Returns room for n texts of so many tokens in each layer."""
    zeros = jnp.zeros((n, length, self.key_heads, self.head_dim), self.dtype)
    return ((zeros, zeros),) * self.num_layers

  def _table(self, length: int) -> jax.Array:
    return rotary.table(
      rotary.angles(np.arange(length), self.head_dim, self.theta)
    )
