"""T5 (Raffel et al. 2020, the first release), with its submodule names.

Positions enter only relative to each other, by one table for all blocks of a
stack. Attention is not scaled by 1/sqrt(d), no layer has a bias, and the output
layer is the embedding. `prompts.t5_writer` writes texts by it.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.attention import attend

PAD, EOS = 0, 1  # the decoder starts from PAD
normal = nn.initializers.normal
# The mean square is taken in float32, whatever the dtype.
RMSNorm = partial(nn.RMSNorm, epsilon=1e-6)
KeysValues = tuple[jax.Array, jax.Array]  # each [n, k, heads, d_kv]


class Attention(nn.Module):
  """Multi-head attention to keys and values that the caller gives."""

  d_model: int
  d_kv: int
  heads: int
  num_buckets: int = 0  # of a table of relative positions, if it has one
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
    width = self.heads * self.d_kv
    # The missing 1/sqrt(d_kv) is in the initialisation.
    init = normal((self.d_model * self.d_kv) ** -0.5)
    self.q = dense(width, kernel_init=init)
    self.k = dense(width)
    self.v = dense(width)
    self.o = dense(self.d_model)
    if self.num_buckets:
      self.relative_attention_bias = nn.Embed(
        self.num_buckets,
        self.heads,
        embedding_init=normal(self.d_model**-0.5),
      )

  def keys_values(self, x: jax.Array) -> KeysValues:
    """Projects [n, k, d] to keys and values."""
    return self._split(self.k(x)), self._split(self.v(x))

  def __call__(
    self, x: jax.Array, seen: KeysValues, bias: jax.Array
  ) -> jax.Array:
    """Maps queries [n, q, d] to [n, q, d]; bias is [n, heads, q, k]."""
    queries, (keys, values) = self._split(self.q(x)), seen
    return self.o(attend(queries, keys, values, bias=bias, scale=1.0))

  def _split(self, x):
    return x.reshape(*x.shape[:2], self.heads, self.d_kv)


class SelfAttentionLayer(nn.Module):
  """Pre-norm attention of a sequence to itself."""

  attention: partial  # Attention without its fields for positions
  num_buckets: int
  dtype: jnp.dtype

  def setup(self):
    self.SelfAttention = self.attention(num_buckets=self.num_buckets)
    self.layer_norm = RMSNorm(dtype=self.dtype)

  def __call__(
    self,
    x: jax.Array,
    bias: jax.Array,
    cache: KeysValues | None,
    position: jax.Array | int,
  ) -> tuple[jax.Array, KeysValues]:
    """Maps [n, q, d] to [n, q, d], and returns the keys and values attended to.

    With a cache of a longer sequence, those of x are put at its position.
    """
    y = self.layer_norm(x)
    seen = self.SelfAttention.keys_values(y)
    if cache is not None:
      put = partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
      seen = jax.tree.map(lambda old, new: put(old, new, position), cache, seen)
    return x + self.SelfAttention(y, seen, bias), seen


class CrossAttentionLayer(nn.Module):
  """Pre-norm attention to the encoded text."""

  attention: partial
  dtype: jnp.dtype

  def setup(self):
    self.EncDecAttention = self.attention()
    self.layer_norm = RMSNorm(dtype=self.dtype)

  def __call__(self, x: jax.Array, seen: KeysValues, bias: jax.Array):
    """Maps [n, q, d] to [n, q, d]."""
    return x + self.EncDecAttention(self.layer_norm(x), seen, bias)


class DenseReluDense(nn.Module):
  """The MLP of T5 v1.0; later releases have a gated one."""

  d_model: int
  d_ff: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
    x = nn.relu(dense(self.d_ff, name="wi")(x))
    return dense(self.d_model, name="wo")(x)


class MLPLayer(nn.Module):
  """Pre-norm MLP."""

  d_model: int
  d_ff: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    mlp = DenseReluDense(
      self.d_model, self.d_ff, self.dtype, name="DenseReluDense"
    )
    return x + mlp(RMSNorm(dtype=self.dtype, name="layer_norm")(x))


class Block(nn.Module):
  """Self-attention, in the decoder cross-attention, and the MLP."""

  attention: partial
  num_buckets: int  # 0 but for the first block, which has the table for all
  d_ff: int
  decoder: bool
  dtype: jnp.dtype

  def setup(self):
    dtype = self.dtype
    layers = [SelfAttentionLayer(self.attention, self.num_buckets, dtype)]
    if self.decoder:
      layers.append(CrossAttentionLayer(self.attention, dtype))
    d_model = self.attention.keywords["d_model"]
    self.layer = [*layers, MLPLayer(d_model, self.d_ff, dtype)]

  def __call__(self, x, bias, memory=None, cache=None, position=0):
    """Maps [n, q, d] to [n, q, d] and the block's keys and values.

    Args:
      x: of q places.
      bias: [1 or n, heads, q, k], of the self-attention.
      memory: in the decoder, the keys, values and bias of its cross-attention.
      cache: keys and values so far, of k places.
      position: of x in the cache.
    """
    x, seen = self.layer[0](x, bias, cache, position)
    if self.decoder:
      x = self.layer[1](x, *memory)
    return self.layer[-1](x), seen


class Memory(NamedTuple):
  """Keys, values and bias, the same for all tokens of a sentence."""

  blocks: tuple[KeysValues, ...]  # of the encoded text, for each block
  bias: jax.Array  # [n, 1, 1, l], which of it is padding


class Stack(nn.Module):
  """The blocks of the encoder or of the decoder."""

  attention: partial
  num_layers: int
  num_buckets: int
  max_distance: int
  d_ff: int
  decoder: bool
  dtype: jnp.dtype

  def setup(self):
    self.block = [
      Block(
        self.attention,
        self.num_buckets if i == 0 else 0,
        self.d_ff,
        self.decoder,
        self.dtype,
      )
      for i in range(self.num_layers)
    ]
    self.final_layer_norm = RMSNorm(dtype=self.dtype)

  def position_bias(self, length: int) -> jax.Array:
    """Returns the float32 bias [1, heads, l, l] of a whole sequence.

    In the decoder it also hides later positions.
    """
    distance = np.arange(length) - np.arange(length)[:, None]  # [q, k]
    buckets = relative_buckets(
      distance, self.num_buckets, self.max_distance, both=not self.decoder
    )
    attention = self.block[0].layer[0].SelfAttention
    bias = attention.relative_attention_bias(buckets).astype(jnp.float32)
    bias = bias.transpose(2, 0, 1)[None]
    return hide(bias, distance > 0) if self.decoder else bias

  def keys_values(self, encoded: jax.Array) -> tuple[KeysValues, ...]:
    """Projects the encoded text [n, l, d] for the decoder's blocks."""
    layers = (block.layer[1].EncDecAttention for block in self.block)
    return tuple(layer.keys_values(encoded) for layer in layers)

  def __call__(self, x, bias, memory=None, cache=None, position=0):
    """Maps [n, q, d] to [n, q, d] and the keys and values of every block."""
    new = []
    for i, block in enumerate(self.block):
      of_block = memory and (memory.blocks[i], memory.bias)
      x, seen = block(x, bias, of_block, cache and cache[i], position)
      new.append(seen)
    return self.final_layer_norm(x), tuple(new)


class T5(nn.Module):
  """Reads a text and writes another; the defaults are t5-base."""

  vocab_size: int = 32128
  d_model: int = 768
  d_kv: int = 64
  d_ff: int = 3072
  num_layers: int = 12
  num_decoder_layers: int = 12
  num_heads: int = 12
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  def setup(self):
    self.shared = nn.Embed(
      self.vocab_size,
      self.d_model,
      dtype=self.dtype,
      embedding_init=nn.initializers.normal(1.0),
    )
    attention = partial(
      Attention,
      d_model=self.d_model,
      d_kv=self.d_kv,
      heads=self.num_heads,
      dtype=self.dtype,
    )
    stack = partial(
      Stack,
      attention=attention,
      num_buckets=self.relative_attention_num_buckets,
      max_distance=self.relative_attention_max_distance,
      d_ff=self.d_ff,
      dtype=self.dtype,
    )
    self.encoder = stack(num_layers=self.num_layers, decoder=False)
    self.decoder = stack(num_layers=self.num_decoder_layers, decoder=True)

  def encode(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Reads texts.

    Args:
      tokens: int [n, l].
      mask: bool [n, l], false on padding.

    Returns:
      [n, l, d_model], of no meaning on padding.
    """
    bias = self.encoder.position_bias(tokens.shape[1])
    bias = hide(bias, ~mask[:, None, None])
    return self.encoder(self.shared(tokens), bias)[0]

  def decode(
    self, tokens: jax.Array, encoded: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """Returns the logits of what follows each of the given tokens.

    Args:
      tokens: int [n, t]; the first is PAD.
      encoded: [n, l, d_model] of `encode`.
      mask: bool [n, l], false on padding.

    Returns:
      float32 [n, t, vocab_size].
    """
    bias = self.decoder.position_bias(tokens.shape[1])
    memory = self.remember(encoded, mask)
    return self._logits(self.decoder(self.shared(tokens), bias, memory)[0])

  def remember(self, encoded: jax.Array, mask: jax.Array) -> Memory:
    """Projects encoded texts once, for all the tokens to be decoded."""
    bias = hide(jnp.zeros((1, 1, 1, 1)), ~mask[:, None, None])
    return Memory(self.decoder.keys_values(encoded), bias)

  def step(
    self,
    tokens: jax.Array,
    position: jax.Array,
    memory: Memory,
    cache: tuple[KeysValues, ...],
  ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
    """Returns the logits of what follows one more token.

    Args:
      tokens: int [n], those at the position.
      position: int [], the same for all.
      memory: of `remember`.
      cache: of `decode.empty_cache`, or of the step before.

    Returns:
      float32 [n, vocab_size], and the cache with these tokens in it.
    """
    bias = self.decoder.position_bias(cache[0][0].shape[1])
    bias = jax.lax.dynamic_slice_in_dim(bias, position, 1, axis=2)
    x = self.shared(tokens[:, None])
    x, cache = self.decoder(x, bias, memory, cache, position)
    return self._logits(x)[:, 0], cache

  def __call__(self, tokens, mask, decoder_tokens):
    """Returns float32 logits [n, t, vocab_size]; see `encode`, `decode`."""
    return self.decode(decoder_tokens, self.encode(tokens, mask), mask)

  def _logits(self, x):
    # The embedding is the output layer, as Mesh TensorFlow scales it.
    x = (x * self.d_model**-0.5).astype(self.dtype)
    weight = self.shared.embedding.astype(self.dtype)
    return jnp.einsum(
      "ntd,vd->ntv", x, weight, preferred_element_type=jnp.float32
    )


def hide(bias: jax.Array, hidden: jax.Array) -> jax.Array:
  """Makes the weights vanish where `hidden` is true.

  The lowest number, not -inf: a row of padding alone must not become NaN.
  """
  return jnp.where(hidden, jnp.finfo(jnp.float32).min, bias)


def relative_buckets(
  distance: np.ndarray, num_buckets: int, max_distance: int, *, both: bool
) -> np.ndarray:
  """Sorts relative positions into buckets (Raffel et al. 2020, Section 2.1).

  Half of the buckets hold one distance each, the others grow with the
  logarithm up to max_distance; beyond it, all share the last.

  Args:
    distance: int, position of the key less that of the query.
    num_buckets: in all.
    max_distance: of the logarithm.
    both: whether keys may come later, and have half of the buckets.

  Returns:
    int32 of the shape of distance.
  """
  first = 0
  if both:
    num_buckets //= 2
    first = num_buckets * (distance > 0)
    distance = np.abs(distance)
  else:
    distance = np.maximum(-distance, 0)
  exact = num_buckets // 2
  # In float32, as the reference: whole logarithms round as they do there.
  ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
  steps = np.log(ratio) / np.float32(np.log(max_distance / exact))
  large = exact + (steps * np.float32(num_buckets - exact)).astype(np.int32)
  large = np.minimum(large, num_buckets - 1)
  return (first + np.where(distance < exact, distance, large)).astype(np.int32)
