"""DINOv2's vision transformers (Oquab et al. 2023), without registers.

A ViT whose branches are scaled by a learned vector, and whose positions, which
were learned for 37 x 37 patches, are resized to those of the image. Submodules
are named as in the authors' code.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.pixels import normalize
from synthjax.models.vit import model as vit
from synthjax.runtime.errors import UserError

# The authors' code resizes positions by a factor of (patches + 0.1) / 37, so
# that rounding never loses a patch; Hugging Face's by the patches alone.
OFFSET = 0.1

preprocess = normalize  # uint8 [n, h, w, 3] to float32, as for ImageNet


class LayerScale(nn.Module):
  """A factor for each feature of a branch (Touvron et al. 2021)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
    return x * gamma.astype(x.dtype)


class Block(nn.Module):
  """Pre-norm attention and MLP, each scaled."""

  heads: int
  mlp_ratio: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    hidden = round(self.mlp_ratio * x.shape[-1])
    norm = partial(vit.LayerNorm, dtype=self.dtype)
    attn = vit.Attention(self.heads, dtype=self.dtype, name="attn")
    mlp = vit.MLP(hidden, dtype=self.dtype, name="mlp")
    x = x + LayerScale(name="ls1")(attn(norm(name="norm1")(x), False))
    return x + LayerScale(name="ls2")(mlp(norm(name="norm2")(x), False))


class DINOv2(nn.Module):
  """An encoder whose features are the normalised class token."""

  patch_size: int
  width: int
  depth: int
  heads: int
  grid: int  # positions are learned for grid x grid patches
  mlp_ratio: float = 4.0
  offset: float = OFFSET  # of the resized positions; 0 is Hugging Face's way
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 features [n, width].

    Raises:
      UserError: when the images do not split into patches.
    """
    p, d = self.patch_size, self.width
    if images.shape[1] % p or images.shape[2] % p:
      raise UserError(
        f"Images {images.shape} do not split into patches of {p} px: resize "
        f"them to a multiple of {p}."
      )
    new = images.shape[1] // p, images.shape[2] // p
    x = vit.PatchEmbed(d, p, self.dtype, name="patch_embed")(images)
    first = self.param("cls_token", vit.normal, (1, 1, d)).astype(self.dtype)
    # Replaced patches in training; kept so that weights come back whole.
    self.param("mask_token", nn.initializers.zeros, (1, d))
    x = jnp.concatenate([jnp.tile(first, (x.shape[0], 1, 1)), x], axis=1)
    positions = self.param("pos_embed", vit.normal, (1, 1 + self.grid**2, d))
    if new != (self.grid, self.grid):
      positions = vit.resize_positions(
        positions, self.grid, new, offset=self.offset
      )
    x = x + positions.astype(self.dtype)  # [n, 1 + l, d]
    for i in range(self.depth):
      block = Block(self.heads, self.mlp_ratio, self.dtype, name=f"blocks_{i}")
      x = block(x)
    return vit.LayerNorm(name="norm")(x[:, 0].astype(jnp.float32))


def make(dtype: str = "float32", **sizes: Any) -> DINOv2:
  """Returns the module of a description's `model`."""
  return DINOv2(dtype=jnp.dtype(dtype), **sizes)
