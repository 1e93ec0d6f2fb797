"""The layers of T5, with the submodule names of the release.

Attention is not scaled by 1/sqrt(d), and no layer has a bias.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

normal = nn.initializers.normal
# The mean square is taken in float32, whatever the dtype.
RMSNorm = partial(nn.RMSNorm, epsilon=1e-6)
KeysValues = tuple[jax.Array, jax.Array]  # each [n, k, heads, d_kv]


class Attention(nn.Module):
  """Multi-head attention; the caller says what it looks at."""

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
    keys, values = seen
    logits = jnp.einsum("nqhd,nkhd->nhqk", self._split(self.q(x)), keys)
    weights = nn.softmax(logits.astype(jnp.float32) + bias).astype(self.dtype)
    x = jnp.einsum("nhqk,nkhd->nqhd", weights, values)
    return self.o(x.reshape(*x.shape[:2], -1))

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
    """Maps [n, q, d] to [n, q, d] and to the keys and values it looked at.

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
    return dense(self.d_model, name="wo")(
      nn.relu(dense(self.d_ff, name="wi")(x))
    )


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
      memory: in the decoder, what `CrossAttentionLayer` looks at and its bias.
      cache: keys and values so far, of k places.
      position: of x in the cache.
    """
    x, seen = self.layer[0](x, bias, cache, position)
    if self.decoder:
      x = self.layer[1](x, *memory)
    return self.layer[-1](x), seen
