"""Vision transformers (Dosovitskiy et al. 2021) as DeiT trains them.

Touvron et al. (2021) without the distillation token. Submodules carry timm's
names, with `_` for `.` in the numbered ones.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from synthjax.config.schema import BelowOne, Count, Flag, Positive
from synthjax.models.attention import attend
from synthjax.models.conv import convolve_patches
from synthjax.runtime.errors import UserError

# timm truncates at +-2, which is a hundred deviations: an ordinary normal.
normal = nn.initializers.normal(0.02)
Dense = partial(nn.Dense, kernel_init=normal)
# The two-pass variance survives the large means of a deep residual stream.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class PatchEmbed(nn.Module):
  """A linear map of each patch."""

  width: int
  patch_size: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps [n, h, w, c] to [n, l, width] for l = (h/p) (w/p) patches."""
    p = self.patch_size
    x = nn.Conv(
      self.width,
      (p, p),
      p,
      padding="VALID",
      # As PyTorch starts a convolution: uniform within 1 / sqrt(p p c).
      kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
      conv_general_dilated=convolve_patches,
      dtype=self.dtype,
      name="proj",
    )(images)
    return x.reshape(x.shape[0], -1, self.width)


class Attention(nn.Module):
  """Multi-head self-attention; `qkv` holds q, k and v as thirds."""

  heads: int
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    n, length, d = x.shape
    qkv = Dense(3 * d, dtype=self.dtype, name="qkv")(x)
    qkv = qkv.reshape(n, length, 3, self.heads, d // self.heads)
    x = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])  # [n, l, d]
    x = Dense(d, dtype=self.dtype, name="proj")(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class MLP(nn.Module):
  """Two linear layers with the exact GELU between them."""

  hidden: int
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    drop = partial(nn.Dropout, self.dropout, deterministic=not train)
    y = Dense(self.hidden, dtype=self.dtype, name="fc1")(x)
    y = drop()(nn.gelu(y, approximate=False))
    return drop()(Dense(x.shape[-1], dtype=self.dtype, name="fc2")(y))


class Block(nn.Module):
  """Pre-norm attention and MLP, each of which an image may skip."""

  heads: int
  mlp_ratio: float = 4.0
  dropout: float = 0.0
  drop_path: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [n, l, d] to [n, l, d]."""
    hidden = round(self.mlp_ratio * x.shape[-1])
    norm = partial(LayerNorm, dtype=self.dtype)
    attn = Attention(self.heads, self.dropout, self.dtype, name="attn")
    mlp = MLP(hidden, self.dropout, self.dtype, name="mlp")
    x = x + drop_path(self.drop_path, train)(attn(norm(name="norm1")(x), train))
    return x + drop_path(self.drop_path, train)(
      mlp(norm(name="norm2")(x), train)
    )


def drop_path(rate: float, train: bool) -> nn.Dropout:
  """Returns stochastic depth (Huang et al. 2016) for branches [n, l, d].

  In training each image loses its branch with probability `rate`. The others
  are divided by 1 - rate, so that the mean stays.
  """
  return nn.Dropout(rate, broadcast_dims=(1, 2), deterministic=not train)


class ViT(nn.Module):
  """A vision transformer that classifies by its class token.

  The positions are learned for the image size of `init`; `resize_positions`
  takes them to another one.
  """

  patch_size: Count
  width: Count
  depth: Count
  heads: Count
  num_classes: int | None  # None returns the normalised class token
  mlp_ratio: Positive = 4.0
  dropout: BelowOne = 0.0  # of the embedding and of every branch's outputs
  drop_path: BelowOne = 0.0  # of the last block; the first has 0
  remat: Flag = False  # recomputes blocks in the backward pass: less memory
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 logits [n, num_classes].

    With `train`, dropout and drop path draw from the generator "dropout".

    Raises:
      UserError: when patches, heads or positions do not fit.
    """
    self._check(images.shape)
    d = self.width
    x = PatchEmbed(d, self.patch_size, self.dtype, name="patch_embed")(images)
    first = self.param("cls_token", normal, (1, 1, d)).astype(self.dtype)
    x = jnp.concatenate([jnp.tile(first, (x.shape[0], 1, 1)), x], axis=1)
    positions = self.param("pos_embed", normal, (1, x.shape[1], d))
    x = x + positions.astype(self.dtype)  # [n, 1 + l, d]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)

    make = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
    for i in range(self.depth):
      block = make(
        self.heads,
        self.mlp_ratio,
        self.dropout,
        self.drop_path * i / max(self.depth - 1, 1),
        self.dtype,
        name=f"blocks_{i}",
      )
      x = block(x, train)
    x = LayerNorm(name="norm")(x[:, 0].astype(jnp.float32))  # [n, d]
    if self.num_classes is None:
      return x
    return Dense(self.num_classes, name="head")(x)

  def _check(self, shape: tuple[int, ...]) -> None:
    """Raises the UserError of __call__."""
    p, problems = self.patch_size, []
    if shape[1] % p or shape[2] % p:
      problems.append(
        f"images {shape} do not split into patches of {p} px: resize them to a "
        f"multiple of {p}, or choose another patch_size."
      )
    elif self.has_variable("params", "pos_embed"):
      have = self.get_variable("params", "pos_embed").shape[1] - 1
      need = (shape[1] // p) * (shape[2] // p)
      if have != need:
        problems.append(
          f"images {shape} have {need} patches of {p} px, but the weights have "
          f"positions for {have}: resize the images, or take the positions to "
          "their size with synthjax.models.vit.model.resize_positions."
        )
    if self.width % self.heads:
      problems.append(
        f"width {self.width} does not split over heads={self.heads}: choose a "
        "number of heads that divides the width (DeiT: width / 64)."
      )
    if problems:
      raise UserError("This ViT cannot be applied: " + " Also, ".join(problems))


def resize_positions(
  positions: Any,
  old_grid: int | tuple,
  new_grid: int | tuple,
  *,
  offset: float = 0.0,
) -> Any:
  """Resizes learned positions to another grid of patches, as DeiT does.

  Bicubic with a = -0.75, half-pixel centres, repeated edges and no
  antialiasing: `torch.nn.functional.interpolate(mode="bicubic",
  align_corners=False)`. The class token's position stays as it is.

  Args:
    positions: [1, 1 + h w, d]; or the params of a ViT, whose `pos_embed` it is.
    old_grid: (h, w) of the given positions, or one number for both.
    new_grid: (h', w') of the returned ones, or one number for both.
    offset: added to h' and w' where the scale is computed, as DINOv2 does.

  Returns:
    [1, 1 + h' w', d] of the same dtype; or params that hold it.

  Raises:
    UserError: when `positions` are not those of `old_grid`.
  """
  if isinstance(positions, Mapping):
    resized = resize_positions(
      positions["pos_embed"], old_grid, new_grid, offset=offset
    )
    return {**positions, "pos_embed": resized}
  old, new = (
    (grid, grid) if isinstance(grid, int) else tuple(grid)
    for grid in (old_grid, new_grid)
  )
  shape = np.shape(positions)
  if len(shape) != 3 or shape[:2] != (1, 1 + old[0] * old[1]):
    raise UserError(
      f"positions {shape} are not those of a class token and {old[0]} x "
      f"{old[1]} patches, [1, {1 + old[0] * old[1]}, d]; give the grid that "
      "they were learned for."
    )
  first, rest = positions[:, :1], positions[:, 1:]
  rest = rest.reshape(*old, shape[-1])
  rows, columns = (_bicubic(*s, offset) for s in zip(old, new, strict=True))
  resized = jnp.einsum(
    "yh,xw,hwd->yxd", rows, columns, rest, precision="highest"
  )
  resized = resized.reshape(1, -1, shape[-1]).astype(positions.dtype)
  return jnp.concatenate([first, resized], axis=1)


def _bicubic(old: int, new: int, offset: float, a: float = -0.75) -> np.ndarray:
  """Returns the weights [new, old] of Keys' (1981) cubic convolution."""
  centres = (np.arange(new) + 0.5) * old / (new + offset) - 0.5
  weights = np.zeros((new, old))
  for offset in (-1, 0, 1, 2):
    places = np.floor(centres) + offset
    s = np.abs(centres - places)
    near = (a + 2) * s**3 - (a + 3) * s**2 + 1
    far = a * (s**3 - 5 * s**2 + 8 * s - 4)
    places = places.clip(0, old - 1).astype(int)  # the edge repeats
    np.add.at(weights, (np.arange(new), places), np.where(s <= 1, near, far))
  return weights.astype(np.float32)


MODELS = {
  "deit_ti": partial(ViT, patch_size=16, width=192, depth=12, heads=3),
  "deit_s": partial(ViT, patch_size=16, width=384, depth=12, heads=6),
  "deit_b": partial(ViT, patch_size=16, width=768, depth=12, heads=12),
  # For 32 px images on a CPU.
  "vit_tiny": partial(ViT, patch_size=4, width=128, depth=4, heads=2),
}


def fit_positions(
  variables: Mapping[str, Any],
  description: Mapping[str, Any],
  *,
  image_size: int,
) -> dict[str, Any]:
  """Resizes the positions of a ViT from its own image size to another.

  Args:
    variables: of a classifier; those of a ResNet are returned as they are.
    description: of the weights, with `image_size`.
    image_size: px, to train at.
  """
  params = variables["params"]
  if "pos_embed" not in params:
    return dict(variables)
  patch = len(params["patch_embed"]["proj"]["kernel"])  # [p, p, 3, d]
  old, new = description["image_size"] // patch, image_size // patch
  return {**variables, "params": resize_positions(params, old, new)}
