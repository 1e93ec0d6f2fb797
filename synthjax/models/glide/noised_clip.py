"""The CLIP that GLIDE was released with: it reads noisy images at a timestep.

Nichol et al. (2021), Section 3.2. Two ViT-like towers meet in one space. A
learned vector of the timestep stands where CLIP has its class token.
Submodules carry the names of the released weights (`clip_image_enc.pt`,
`clip_text_enc.pt`) without their `blocks.`.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.attention import attend
from synthjax.models.clip.vit import LayerNorm, PatchConv

# Statistics of CLIP's training images, for pixels in 0..255.
MEAN = (122.77093945, 116.74601272, 104.09373519)
STD = (68.50053285, 66.63215831, 70.32316309)
# A constant: the release's files hold no logit scale.
LOGIT_SCALE = 100.0
normal = nn.initializers.normal


class Attention(nn.Module):
  """Pre-norm self-attention; the keys have no bias."""

  heads: int
  causal: bool = False  # whether a place sees those before it alone
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    n, length, d = x.shape
    if d % self.heads:
      raise ValueError(
        f"width {d} does not split over heads={self.heads}; choose a number "
        "of heads that divides the width (the release's: width / 64)."
      )
    init = normal(d**-0.5)
    dense = partial(nn.Dense, d, dtype=self.dtype, kernel_init=init)
    x = LayerNorm(dtype=self.dtype, name="ln")(x)
    q, k, v = (
      dense(use_bias=name != "f_k", name=name)(x).reshape(
        n, length, self.heads, -1
      )
      for name in ("f_q", "f_k", "f_v")
    )
    return dense(name="f_c")(attend(q, k, v, causal=self.causal))


class MLP(nn.Module):
  """Pre-norm: two linear layers, four times as wide between them."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    d = x.shape[-1]
    x = LayerNorm(dtype=self.dtype, name="ln")(x)
    x = nn.Dense(4 * d, dtype=self.dtype, name="f_1")(x)
    x = nn.gelu(x, approximate=False)
    return nn.Dense(d, dtype=self.dtype, name="f_2")(x)


class Block(nn.Module):
  """Attention and MLP, each added to its input."""

  heads: int
  causal: bool = False  # whether a place sees those before it alone
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    attention = Attention(self.heads, self.causal, self.dtype, name="f_attn")
    x = x + attention(x)
    return x + MLP(self.dtype, name="f_mlp")(x)


class Pool(nn.Module):
  """Turns the vector of one place into a feature."""

  embed_dim: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, d] to float32 [n, embed_dim]."""
    x = LayerNorm(name="ln")(x.astype(jnp.float32))
    return nn.Dense(self.embed_dim, use_bias=False, name="f")(x)


class ImageInput(nn.Module):
  """Embeds patches and the timestep."""

  patch_size: int
  width: int
  timesteps: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
    """Maps normalised [n, h, w, 3] and int [n] to [n, 1 + l, width]."""
    init = normal(self.width**-0.5)
    p = self.patch_size
    conv = PatchConv(self.width, (p, p), p, dtype=self.dtype, name="patch_proj")
    x = conv(x).reshape(len(x), -1, self.width)
    table = self.param("w_t", init, (self.timesteps, self.width))
    positions = self.param("w_pos", init, (1 + x.shape[1], self.width))
    x = jnp.concatenate(
      [jnp.asarray(table)[t][:, None].astype(self.dtype), x], axis=1
    )
    x = x + positions.astype(self.dtype)
    return LayerNorm(dtype=self.dtype, name="ln")(x)


class ImageEncoder(nn.Module):
  """The image tower. The defaults are the release's: 86,443,776 parameters."""

  image_size: int = 64
  patch_size: int = 4
  width: int = 768
  layers: int = 12
  heads: int = 12
  embed_dim: int = 512
  timesteps: int = 1000
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
    """Encodes noisy images.

    Args:
      x: float32 [n, h, w, 3], x_t of the diffusion: in about [-1, 1].
      t: int [n] original timesteps, 0 to 999.

    Returns:
      float32 [n, embed_dim] of unit length.
    """
    size = self.image_size
    if x.shape[1:] != (size, size, 3) or size % self.patch_size:
      raise ValueError(
        f"found images {x.shape} with image_size={size}, patch_size="
        f"{self.patch_size}: images must be [n, {size}, {size}, 3], and the "
        "patch size must divide the image size."
      )
    x = ((x + 1) * 127.5 - jnp.array(MEAN)) / jnp.array(STD)
    x = ImageInput(
      self.patch_size, self.width, self.timesteps, self.dtype, name="input"
    )(x, t)
    for i in range(self.layers):
      x = Block(self.heads, dtype=self.dtype, name=f"block_{i}")(x)
    return unit(Pool(self.embed_dim, name="output")(x[:, 0]))


class TextInput(nn.Module):
  """Embeds tokens and their places."""

  vocab_size: int
  context: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Maps int [n, l] to [n, l, width]."""
    table = self.param("w_voc", normal(0.02), (self.vocab_size, self.width))
    positions = self.param("w_pos", normal(0.01), (self.context, self.width))
    return (jnp.asarray(table)[tokens] + positions).astype(self.dtype)


class TextEncoder(nn.Module):
  """The text tower. The defaults are the release's: 71,679,488 parameters."""

  vocab_size: int = 65_536
  context: int = 77
  width: int = 512
  layers: int = 12
  heads: int = 8
  embed_dim: int = 512
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Encodes prompts.

    Args:
      tokens: int [n, l] of CLIP's tokenizer: start, text, end, zeros. The
        feature is read at the end, the largest id of that vocabulary.

    Returns:
      float32 [n, embed_dim] of unit length.
    """
    n, length = tokens.shape
    if length != self.context:
      raise ValueError(
        f"The text tower reads {self.context} tokens, found {length}: pad or "
        "cut the prompts to its context."
      )
    x = TextInput(
      self.vocab_size, self.context, self.width, self.dtype, name="input"
    )(tokens)
    for i in range(self.layers):
      x = Block(self.heads, True, self.dtype, name=f"block_{i}")(x)
    return unit(
      Pool(self.embed_dim, name="output")(x[jnp.arange(n), tokens.argmax(-1)])
    )


def unit(x: jax.Array) -> jax.Array:
  """Scales the rows of [n, d] to length 1, with the release's margin."""
  return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-12)
