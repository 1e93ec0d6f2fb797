"""What Stable Diffusion's UNet and its autoencoder are both built of."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.glide import Conv3x3, GroupNorm

# Queries that attend at once: 64x64 places would else need 64 MiB of logits
# for each head and image.
QUERIES = 1024


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attends with logits and softmax in float32, some queries at a time.

  Args:
    q: [n, l, h, d] queries.
    k: [n, m, h, d] keys.
    v: [n, m, h, d] values.

  Returns:
    [n, l, h * d].
  """
  n, length, heads, d = q.shape
  attention = jax.nn.dot_product_attention
  if length <= QUERIES or length % QUERIES:
    return attention(q, k, v).reshape(n, length, heads * d)
  pieces = q.reshape(n, length // QUERIES, QUERIES, heads, d).swapaxes(0, 1)
  out = jax.lax.map(lambda piece: attention(piece, k, v), pieces)
  return out.swapaxes(0, 1).reshape(n, length, heads * d)


class ResnetBlock(nn.Module):
  """Two normalised 3x3 convolutions; the time embedding is added between."""

  channels: int
  epsilon: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, embedding: jax.Array | None = None
  ) -> jax.Array:
    """Maps [n, h, w, c] to [n, h, w, channels].

    Args:
      x: the input.
      embedding: float32 [n, e] of the timestep; the autoencoder has none.
    """
    norm = partial(GroupNorm, epsilon=self.epsilon)
    conv = partial(Conv3x3, self.channels, dtype=self.dtype)
    h = nn.silu(norm(name="norm1")(x))
    h = conv(name="conv1")(h.astype(self.dtype))
    if embedding is not None:
      shift = nn.Dense(self.channels, name="time_emb_proj")(nn.silu(embedding))
      h = h + shift[:, None, None].astype(self.dtype)
    h = nn.silu(norm(name="norm2")(h))
    h = conv(name="conv2")(h.astype(self.dtype))
    if x.shape[-1] != self.channels:
      short = nn.Dense(self.channels, dtype=self.dtype, name="conv_shortcut")
      x = short(x)
    return x + h


def double(x: jax.Array) -> jax.Array:
  """Doubles the sides of [n, h, w, c], each pixel becoming four."""
  return x.repeat(2, axis=1).repeat(2, axis=2)
