"""FLUX.2's transformer, which predicts the velocity of latents.

Two streams, of the prompt and of the image, attend together: first in blocks
that have weights for each, then in blocks that have one set for both. The
timestep scales, shifts and gates all blocks of a kind alike, so that they share
one modulation.

Submodules carry the names that the weights have in diffusers, with `_` for `.`:
`transformer_blocks.0.attn.to_q` is `transformer_blocks_0/attn_to_q`.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models import rotary
from synthjax.models.attention import attend
from synthjax.models.unet_layers import timestep_embedding

EPSILON = 1e-6
REFERENCE_TIME = 10  # where a reference lies on the axis of time; images: 0


def swiglu(x: jax.Array) -> jax.Array:
  """Gates the second half of [..., 2d] by the first (Shazeer 2020)."""
  gate, x = jnp.split(x, 2, axis=-1)
  return nn.silu(gate) * x


def modulated(
  x: jax.Array, shift: jax.Array, scale: jax.Array, dtype: jnp.dtype
) -> jax.Array:
  """Normalises [n, l, d], then scales and shifts it by float32 [n, d]."""
  x = x.astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)
  return (x * (1 + scale[:, None]) + shift[:, None]).astype(dtype)


class DoubleBlock(nn.Module):
  """Attention of both streams together, and an MLP of each."""

  heads: int
  mlp_width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    text: jax.Array,
    modulations: tuple[jax.Array, jax.Array],
    table: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps both streams.

    Args:
      image: [n, l, d].
      text: [n, m, d].
      modulations: float32 [n, 6, d] of image and text: shift, scale and gate of
        attention, and those of the MLP.
      table: see `rotary.table`; the text comes first.

    Returns:
      image and text.
    """
    width, length = image.shape[-1], text.shape[1]
    dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
    norm = partial(nn.RMSNorm, epsilon=EPSILON, dtype=self.dtype)

    def attended_by(x, m, matrix, scale):  # -> queries, keys and values
      h = modulated(x, m[:, 0], m[:, 1], self.dtype)
      qkv = [dense(width, name=matrix.format(part))(h) for part in "qkv"]
      q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in qkv)
      q, k = norm(name=scale.format("q"))(q), norm(name=scale.format("k"))(k)
      return q, k, v

    def followed_by(x, m, h, out, mlp):  # -> the stream behind the block
      x = _gated(x, m[:, 2], dense(width, name=out)(h))
      h = modulated(x, m[:, 3], m[:, 4], self.dtype)
      h = swiglu(dense(2 * self.mlp_width, name=f"{mlp}_linear_in")(h))
      return _gated(x, m[:, 5], dense(width, name=f"{mlp}_linear_out")(h))

    of_image, of_text = modulations
    streams = (
      attended_by(text, of_text, "attn_add_{}_proj", "attn_norm_added_{}"),
      attended_by(image, of_image, "attn_to_{}", "attn_norm_{}"),
    )
    q, k, v = (jnp.concatenate(x, axis=1) for x in zip(*streams, strict=True))
    q, k = (rotary.turn(x, table, pairs="neighbours") for x in (q, k))
    h = attend(q, k, v)
    return (
      followed_by(image, of_image, h[:, length:], "attn_to_out_0", "ff"),
      followed_by(
        text, of_text, h[:, :length], "attn_to_add_out", "ff_context"
      ),
    )


class SingleBlock(nn.Module):
  """Attention and an MLP side by side, of both streams as one."""

  heads: int
  mlp_width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: jax.Array, modulation: jax.Array, table: jax.Array
  ) -> jax.Array:
    """Maps [n, l, d]; modulation [n, 3, d]; table of `rotary`."""
    width = x.shape[-1]
    dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
    norm = partial(nn.RMSNorm, epsilon=EPSILON, dtype=self.dtype)
    h = modulated(x, modulation[:, 0], modulation[:, 1], self.dtype)
    h = dense(3 * width + 2 * self.mlp_width, name="attn_to_qkv_mlp_proj")(h)
    *qkv, hidden = jnp.split(h, [width, 2 * width, 3 * width], axis=-1)
    q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in qkv)
    q, k = norm(name="attn_norm_q")(q), norm(name="attn_norm_k")(k)
    q, k = (rotary.turn(y, table, pairs="neighbours") for y in (q, k))
    h = jnp.concatenate([attend(q, k, v), swiglu(hidden)], axis=-1)
    return _gated(x, modulation[:, 2], dense(width, name="attn_to_out")(h))


def _gated(x: jax.Array, gate: jax.Array, h: jax.Array) -> jax.Array:
  return x + gate[:, None].astype(x.dtype) * h


class Transformer(nn.Module):
  """The transformer. The defaults are those of klein-4B, base and distilled."""

  in_channels: int = 128
  heads: int = 24
  head_dim: int = 128
  double_blocks: int = 5
  single_blocks: int = 20
  context_dim: int = 7680  # of the encoded prompt
  time_dim: int = 256  # of the timestep's sines and cosines
  mlp_ratio: float = 3.0
  # Numbers of a head that are turned by time, row, column and token.
  axes: tuple[int, ...] = (32, 32, 32, 32)
  theta: float = 2000.0
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    context: jax.Array,
    references: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts the velocity, noise less clean latent.

    Args:
      x: noisy latents [n, h, w, in_channels].
      t: [n], 0 (clean) to 1000 (noise).
      context: the encoded prompts [n, m, context_dim].
      references: clean latents [n, h', w', in_channels] of images to follow.

    Returns:
      float32 [n, h, w, in_channels].
    """
    n, height, width, _ = x.shape
    inner = self.heads * self.head_dim
    dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
    # Of [n, d] alone, so that it costs nothing in float32.
    exact = partial(nn.Dense, use_bias=False)
    time = timestep_embedding(t, self.time_dim)
    name = "time_guidance_embed_timestep_embedder_linear_{}"
    time = nn.silu(exact(inner, name=name.format(1))(time))
    time = nn.silu(exact(inner, name=name.format(2))(time))

    def modulation(name, count):
      parts = exact(count * inner, name=f"{name}_linear")(time)
      return parts.reshape(n, count, inner)

    places, images = [self._places(0, x)], [x]
    if references is not None:
      places.append(self._places(REFERENCE_TIME, references))
      images.append(references)
    tokens = np.zeros((context.shape[1], 4))
    tokens[:, 3] = np.arange(context.shape[1])
    table = self._table(np.concatenate([tokens, *places]))

    image = jnp.concatenate([y.reshape(n, -1, y.shape[-1]) for y in images], 1)
    image = dense(inner, name="x_embedder")(image)
    text = dense(inner, name="context_embedder")(context)
    fields = self.heads, int(inner * self.mlp_ratio), self.dtype
    each = (
      modulation("double_stream_modulation_img", 6),
      modulation("double_stream_modulation_txt", 6),
    )
    for i in range(self.double_blocks):
      block = DoubleBlock(*fields, name=f"transformer_blocks_{i}")
      image, text = block(image, text, each, table)
    both = jnp.concatenate([text, image], axis=1)
    shared = modulation("single_stream_modulation", 3)
    for i in range(self.single_blocks):
      block = SingleBlock(*fields, name=f"single_transformer_blocks_{i}")
      both = block(both, shared, table)

    start = text.shape[1]
    image = both[:, start : start + height * width]
    last = modulation("norm_out", 2)
    image = modulated(image, last[:, 1], last[:, 0], jnp.float32)
    image = exact(self.in_channels, name="proj_out")(image)
    return image.reshape(n, height, width, -1)

  def _places(self, time: int, x: jax.Array) -> np.ndarray:
    """Returns [h * w, 4]: time, row, column, and 0 in place of a token."""
    rows, columns = np.indices(x.shape[1:3]).reshape(2, -1)
    return np.stack([0 * rows + time, rows, columns, 0 * rows], axis=-1)

  def _table(self, places: np.ndarray) -> jax.Array:
    """Returns that of `rotary` for places [l, 4]."""
    angles = [
      rotary.angles(places[:, i], width, self.theta)
      for i, width in enumerate(self.axes)
    ]
    return rotary.table(np.concatenate(angles, axis=-1))
