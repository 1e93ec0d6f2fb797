"""SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025).

Two towers of CLIP's transformer, with three differences: the text tower sees
the whole text and is read at its last place; the image tower has no class token
and is read by attention; both have another epsilon and activation. `weights`
converts the released layouts.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.config.schema import Count
from synthjax.models.attention import attend
from synthjax.models.clip import vit
from synthjax.models.pixels import normalize
from synthjax.models.unit import unit

MEAN = STD = (0.5, 0.5, 0.5)  # of the pixels in [0, 1]
EPSILON = 1e-6
ACTIVATION = "gelu_tanh"
# The first weights of a training: exp(scale) is 10 (Section 3.2 of 2023).
INITIAL_LOGIT_SCALE, INITIAL_LOGIT_BIAS = 2.302585092994046, -10.0

normal = nn.initializers.normal
LayerNorm = partial(vit.LayerNorm, epsilon=EPSILON)
Transformer = partial(vit.Transformer, activation=ACTIVATION, epsilon=EPSILON)


def preprocess(images: jax.Array) -> jax.Array:
  """Normalises uint8 [n, h, w, 3] of the model's size to float32 in [-1, 1]."""
  return normalize(images, MEAN, STD)


class AttentionPool(nn.Module):
  """Reads places by one learned query, and an MLP behind it."""

  heads: int
  mlp_width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [n, l, d] to [n, d]."""
    n, _, d = x.shape
    std = d**-0.5
    dense = partial(nn.Dense, d, dtype=self.dtype, kernel_init=normal(std))
    split = lambda x: x.reshape(*x.shape[:2], self.heads, d // self.heads)
    probe = self.param("probe", normal(std), (1, 1, d)).astype(self.dtype)
    q = jnp.broadcast_to(dense(name="q")(probe), (n, 1, d))
    k, v = dense(name="k")(x), dense(name="v")(x)
    x = dense(name="out_proj")(attend(split(q), split(k), split(v)))
    y = LayerNorm(dtype=self.dtype, name="ln")(x)
    mlp = vit.MLP(
      std, std, ACTIVATION, self.dtype, width=self.mlp_width, name="mlp"
    )
    return (x + mlp(y))[:, 0]


class ImageTower(nn.Module):
  """A ViT of patches alone."""

  image_size: int
  patch_size: int
  width: int
  layers: int
  heads: int
  mlp_width: int
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 [n, width]."""
    del train  # nothing here depends on the batch
    size, p, d = self.image_size, self.patch_size, self.width
    if images.shape[1:] != (size, size, 3):
      raise ValueError(
        f"found images {images.shape}; resize them to [n, {size}, {size}, 3]."
      )
    # What the last patch does not cover is left out, as in the release.
    images = images[:, : size // p * p, : size // p * p]
    x = vit.PatchConv(
      d, (p, p), p, use_bias=True, dtype=self.dtype, name="conv1"
    )(images)
    x = x.reshape(len(x), -1, d)  # [n, l, d]
    positions = self.param(
      "positional_embedding", normal(d**-0.5), ((size // p) ** 2, d)
    )
    x = x + positions.astype(self.dtype)
    transformer = Transformer(
      self.layers,
      self.heads,
      self.dtype,
      self.remat,
      mlp_width=self.mlp_width,
      name="transformer",
    )
    x = LayerNorm(dtype=self.dtype, name="ln_post")(transformer(x))
    pool = AttentionPool(self.heads, self.mlp_width, self.dtype, name="pool")
    return pool(x).astype(jnp.float32)


class SigLIP(nn.Module):
  """Two towers that meet in one space of vision_width numbers."""

  image_size: Count
  patch_size: Count
  vision_width: Count
  vision_layers: Count
  vision_heads: Count
  vision_mlp_width: Count
  context_length: Count
  vocab_size: Count
  text_width: Count
  text_layers: Count
  text_heads: Count
  text_mlp_width: Count
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32
  remat: bool = False  # computes each block again for the gradients

  @property
  def embed_dim(self) -> int:
    """The numbers of a feature."""
    return self.vision_width

  def setup(self):
    width = self.text_width
    self.visual = make_image_tower(self)
    self.token_embedding = nn.Embed(
      self.vocab_size, width, dtype=self.dtype, embedding_init=normal(0.02)
    )
    self.positional_embedding = self.param(
      "positional_embedding", normal(0.01), (self.context_length, width)
    )
    self.transformer = Transformer(
      self.text_layers,
      self.text_heads,
      self.dtype,
      self.remat,
      mlp_width=self.text_mlp_width,
    )
    self.ln_final = LayerNorm()
    self.head = nn.Dense(self.embed_dim, kernel_init=normal(width**-0.5))
    constant = nn.initializers.constant
    self.logit_scale = self.param(
      "logit_scale", constant(INITIAL_LOGIT_SCALE), ()
    )
    self.logit_bias = self.param("logit_bias", constant(INITIAL_LOGIT_BIAS), ())

  def encode_image(
    self, images: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 [n, d], not of unit length."""
    return self.visual(images, train=train)

  def encode_text(self, tokens: jax.Array) -> jax.Array:
    """Maps int [n, context_length] to float32 [n, d], not of unit length.

    Pads are no different from other tokens, and the feature is read at the last
    place: a text of fewer places has another feature.
    """
    if tokens.shape[1] != self.context_length:
      raise ValueError(
        f"found texts of {tokens.shape[1]} tokens; pad them to "
        f"context_length={self.context_length}."
      )
    x = self.token_embedding(tokens) + self.positional_embedding.astype(
      self.dtype
    )
    x = self.transformer(x)[:, -1]  # [n, width]
    return self.head(self.ln_final(x.astype(jnp.float32)))

  def __call__(
    self, images: jax.Array, tokens: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Returns exp(logit_scale) * cosine + logit_bias, [n images, m texts]."""
    image_features = unit(self.encode_image(images, train=train))
    text_features = unit(self.encode_text(tokens))
    cosine = jnp.einsum("nd,md->nm", image_features, text_features)
    return jnp.exp(self.logit_scale) * cosine + self.logit_bias


def make_image_tower(model: SigLIP) -> ImageTower:
  """Returns the module of the image tower: its variables are `visual`."""
  return ImageTower(
    image_size=model.image_size,
    patch_size=model.patch_size,
    width=model.vision_width,
    layers=model.vision_layers,
    heads=model.vision_heads,
    mlp_width=model.vision_mlp_width,
    dtype=model.dtype,
    remat=model.remat,
  )


siglip2 = partial(SigLIP, image_size=224, context_length=64, vocab_size=256_000)
_base = dict(width=768, layers=12, heads=12, mlp_width=3072)
_large = dict(width=1024, layers=24, heads=16, mlp_width=4096)
# So400m: the shape that Alabdulmohsin et al. (2023) found best for its compute.
_so400m = dict(width=1152, layers=27, heads=16, mlp_width=4304)


def _towers(sizes: dict[str, int]) -> dict[str, int]:
  """Returns the fields of two towers of the same sizes."""
  return {
    f"{tower}_{field}": value
    for tower in ("vision", "text")
    for field, value in sizes.items()
  }


MODELS = {
  "siglip2_vit_b16": partial(siglip2, patch_size=16, **_towers(_base)),
  "siglip2_vit_l16": partial(
    siglip2, patch_size=16, **_towers(_large) | {"image_size": 256}
  ),
  "siglip2_so400m_14": partial(siglip2, patch_size=14, **_towers(_so400m)),
}
