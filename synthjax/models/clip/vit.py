"""The transformer of CLIP's towers (Radford et al. 2021), and its ViT.

Both towers use `Transformer`, and so do Stable Diffusion's text encoder and the
towers of SigLIP.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.attention import attend
from synthjax.models.conv import convolve_patches

normal = nn.initializers.normal
EPSILON = 1e-5  # PyTorch's
# The two-pass variance survives the large means that the residual stream of the
# released weights has.
LayerNorm = partial(nn.LayerNorm, epsilon=EPSILON, use_fast_variance=False)
# A convolution whose stride is its kernel: [n, h, w, c] to [n, h/p, w/p, d].
PatchConv = partial(
  nn.Conv,
  padding="VALID",
  use_bias=False,
  conv_general_dilated=convolve_patches,
)


def quick_gelu(x: jax.Array) -> jax.Array:
  """Computes x * sigmoid(1.702 x), as CLIP was trained with."""
  return x * nn.sigmoid(1.702 * x)


# OpenAI's CLIPs have the first, most of open_clip's the second, SigLIP the
# last.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "quick_gelu": quick_gelu,
  "gelu": partial(nn.gelu, approximate=False),
  "gelu_tanh": partial(nn.gelu, approximate=True),
}


class Attention(nn.Module):
  """Multi-head self-attention; `in_proj` holds q, k and v as thirds."""

  heads: int
  in_std: float
  out_std: float
  causal: bool  # whether a place sees those before it alone
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    n, length, d = x.shape
    dense = partial(nn.Dense, dtype=self.dtype)
    qkv = dense(3 * d, kernel_init=normal(self.in_std), name="in_proj")(x)
    qkv = qkv.reshape(n, length, 3, self.heads, d // self.heads)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [n, l, heads, d']
    x = attend(q, k, v, causal=self.causal)
    return dense(d, kernel_init=normal(self.out_std), name="out_proj")(x)


class MLP(nn.Module):
  """Two linear layers, with an activation between them."""

  in_std: float
  out_std: float
  activation: str  # a key of ACTIVATIONS
  dtype: jnp.dtype = jnp.float32
  width: int | None = None  # between them; None is four times that outside

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    d = x.shape[-1]
    dense = partial(nn.Dense, dtype=self.dtype)
    x = dense(
      self.width or 4 * d, kernel_init=normal(self.in_std), name="c_fc"
    )(x)
    x = ACTIVATIONS[self.activation](x)
    return dense(d, kernel_init=normal(self.out_std), name="c_proj")(x)


class ResidualAttentionBlock(nn.Module):
  """Pre-norm attention and MLP."""

  heads: int
  layers: int  # of the whole tower: deeper towers start with smaller outputs
  activation: str = "quick_gelu"
  causal: bool = False
  dtype: jnp.dtype = jnp.float32
  mlp_width: int | None = None  # see `MLP`
  epsilon: float = EPSILON

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    d = x.shape[-1]
    out_std = d**-0.5 * (2 * self.layers) ** -0.5
    norm = partial(LayerNorm, dtype=self.dtype, epsilon=self.epsilon)
    attn = Attention(
      self.heads, d**-0.5, out_std, self.causal, self.dtype, name="attn"
    )
    x = x + attn(norm(name="ln_1")(x))
    mlp = MLP(
      (2 * d) ** -0.5,
      out_std,
      self.activation,
      self.dtype,
      self.mlp_width,
      name="mlp",
    )
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
  activation: str = "quick_gelu"  # a key of ACTIVATIONS
  causal: bool = False  # whether a place sees those before it alone
  mlp_width: int | None = None  # see `MLP`
  epsilon: float = EPSILON

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    return self.last_two(x)[0]

  @nn.compact
  def last_two(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps [n, l, d] to what the last block returns, and to what it reads."""
    if x.shape[-1] % self.heads:
      raise ValueError(
        f"width {x.shape[-1]} does not split over heads={self.heads}; choose "
        "a number of heads that divides the width (OpenAI: width / 64)."
      )
    make = ResidualAttentionBlock
    make = nn.remat(make) if self.remat else make
    make = partial(
      *(make, self.heads, self.layers, self.activation),
      *(self.causal, self.dtype, self.mlp_width, self.epsilon),
    )
    before = x
    for i in range(self.layers):
      before, x = x, make(name=f"resblocks_{i}")(x)
    return x, before


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
  activation: str = "quick_gelu"  # a key of ACTIVATIONS

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
    x = PatchConv(d, (p, p), p, dtype=self.dtype, name="conv1")(images)
    x = x.reshape(x.shape[0], -1, d)  # [n, l, d]
    init = normal(d**-0.5)
    first = self.param("class_embedding", init, (d,))
    positions = self.param(
      "positional_embedding", init, ((size // p) ** 2 + 1, d)
    )
    first = jnp.broadcast_to(first.astype(self.dtype), (x.shape[0], 1, d))
    x = jnp.concatenate([first, x], axis=1)  # [n, 1 + l, d]
    x = x + positions.astype(self.dtype)
    x = LayerNorm(dtype=self.dtype, name="ln_pre")(x)
    transformer = Transformer(
      self.layers,
      self.heads,
      self.dtype,
      self.remat,
      self.activation,
      name="transformer",
    )
    x = transformer(x)
    x = LayerNorm(name="ln_post")(x[:, 0].astype(jnp.float32))  # [n, d]
    return x @ self.param("proj", init, (d, self.embed_dim))
