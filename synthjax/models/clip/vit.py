"""The transformer of both CLIP towers (Radford et al. 2021), and its ViT."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

normal = nn.initializers.normal
# PyTorch's epsilon; the two-pass variance survives the large means that the
# residual stream of the released weights has.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def quick_gelu(x: jax.Array) -> jax.Array:
  """Computes x * sigmoid(1.702 x), as CLIP was trained with."""
  return x * nn.sigmoid(1.702 * x)


class Attention(nn.Module):
  """Multi-head self-attention; `in_proj` holds q, k and v as thirds."""

  heads: int
  in_std: float
  out_std: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]; mask [l, l] is True where seen."""
    n, length, d = x.shape
    dense = partial(nn.Dense, dtype=self.dtype)
    qkv = dense(3 * d, kernel_init=normal(self.in_std), name="in_proj")(x)
    qkv = qkv.reshape(n, length, 3, self.heads, d // self.heads)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [n, l, heads, d']
    q = q * (d // self.heads) ** -0.5
    logits = jnp.einsum("nqhd,nkhd->nhqk", q, k).astype(jnp.float32)
    if mask is not None:
      logits = jnp.where(mask, logits, -jnp.inf)
    weights = nn.softmax(logits).astype(self.dtype)
    x = jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, length, d)
    return dense(d, kernel_init=normal(self.out_std), name="out_proj")(x)


class MLP(nn.Module):
  """Two linear layers, four times as wide between them."""

  in_std: float
  out_std: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    d = x.shape[-1]
    dense = partial(nn.Dense, dtype=self.dtype)
    x = dense(4 * d, kernel_init=normal(self.in_std), name="c_fc")(x)
    x = quick_gelu(x)
    return dense(d, kernel_init=normal(self.out_std), name="c_proj")(x)


class ResidualAttentionBlock(nn.Module):
  """Pre-norm attention and MLP."""

  heads: int
  layers: int  # of the whole tower: deeper towers start with smaller outputs
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]; mask [l, l] is True where seen."""
    d = x.shape[-1]
    out_std = d**-0.5 * (2 * self.layers) ** -0.5
    norm = partial(LayerNorm, dtype=self.dtype)
    attn = Attention(self.heads, d**-0.5, out_std, self.dtype, name="attn")
    x = x + attn(norm(name="ln_1")(x), mask)
    mlp = MLP((2 * d) ** -0.5, out_std, self.dtype, name="mlp")
    return x + mlp(norm(name="ln_2")(x))


class Transformer(nn.Module):
  """A stack of residual attention blocks.

  Both towers start from the scaled initialisation that OpenAI's code gives to
  its text tower.
  """

  layers: int
  heads: int
  dtype: jnp.dtype = jnp.float32
  remat: bool = False  # computes each block again for the gradients

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]; mask [l, l] is True where seen."""
    if x.shape[-1] % self.heads:
      raise ValueError(
        f"width {x.shape[-1]} does not split over heads={self.heads}; choose "
        "a number of heads that divides the width (OpenAI: width / 64)."
      )
    make = ResidualAttentionBlock
    make = nn.remat(make) if self.remat else make
    for i in range(self.layers):
      block = make(self.heads, self.layers, self.dtype, name=f"resblocks_{i}")
      x = block(x, mask)
    return x


class PatchConv(nn.Module):
  """A convolution whose stride is its kernel, as one matrix product.

  The same map as `nn.Conv(width, (p, p), p, use_bias=False)` and the same
  kernel, but with fast gradients on CPUs too.
  """

  width: int
  patch_size: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, h, w, c] to [n, l, width] for l = (h/p) (w/p) patches."""
    n, h, w, c = x.shape
    p = self.patch_size
    init = nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (p, p, c, self.width))
    x = x.reshape(n, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(n, (h // p) * (w // p), p * p * c).astype(self.dtype)
    return x @ kernel.reshape(p * p * c, self.width).astype(self.dtype)


class VisionTransformer(nn.Module):
  """The image tower: patches and a class token, of which the latter is kept."""

  embed_dim: int
  image_size: int
  patch_size: int
  width: int
  layers: int
  heads: int
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 [n, embed_dim]."""
    del train  # nothing here depends on the batch
    size, p, d = self.image_size, self.patch_size, self.width
    if not p or images.shape[1:] != (size, size, 3) or size % p:
      raise ValueError(
        f"found images {images.shape} with image_size={size}, patch_size={p}; "
        f"resize to [n, {size}, {size}, 3], and choose a patch size that "
        "divides the image size."
      )
    x = PatchConv(d, p, self.dtype, name="conv1")(images)
    init = normal(d**-0.5)
    first = self.param("class_embedding", init, (d,))
    positions = self.param(
      "positional_embedding", init, ((size // p) ** 2 + 1, d)
    )
    first = jnp.broadcast_to(first.astype(self.dtype), (len(x), 1, d))
    x = jnp.concatenate([first, x], axis=1)  # [n, 1 + l, d]
    x = x + positions.astype(self.dtype)
    x = LayerNorm(dtype=self.dtype, name="ln_pre")(x)
    transformer = Transformer(
      self.layers, self.heads, self.dtype, self.remat, name="transformer"
    )
    x = transformer(x)
    x = LayerNorm(name="ln_post")(x[:, 0].astype(jnp.float32))  # [n, d]
    return x @ self.param("proj", init, (d, self.embed_dim))
