"""CLIP (Radford et al. 2021), with the submodule names of OpenAI's weights.

`vit` has the transformer of both towers and the ViT, `resnet` the other image
tower, `weights` the converter of all published layouts, `fields` what it reads
from them and from the configs beside them.

`visual.transformer.resblocks.0.attn.in_proj_weight` is here
`visual/transformer/resblocks_0/attn/in_proj/kernel`, transposed.
"""

from functools import partial
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.config.schema import Count, Counts, one_of
from synthjax.models.clip.resnet import ModifiedResNet
from synthjax.models.clip.vit import (
  ACTIVATIONS,
  LayerNorm,
  Transformer,
  VisionTransformer,
)
from synthjax.models.pixels import normalize
from synthjax.models.unit import unit

# Statistics of CLIP's training images, for pixels in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

INITIAL_LOGIT_SCALE = 2.659260036932778  # ln(1 / 0.07), Section 2.5
normal = nn.initializers.normal


def preprocess(images: jax.Array) -> jax.Array:
  """Normalises images already at the model's size for `encode_image`.

  Args:
    images: [n, h, w, 3] uint8.

  Returns:
    [n, h, w, 3] float32, of about zero mean and unit variance.

  Raises:
    ValueError: if the images are not uint8, as floats leave their range open.
  """
  if images.dtype != jnp.uint8:
    raise ValueError(
      f"preprocess takes uint8 pixels in 0..255 but found {images.dtype}; "
      "convert the images to uint8, or give normalised floats to the model "
      "without preprocess."
    )
  return normalize(images, MEAN, STD)


# Both take the same fields.
IMAGE_TOWERS = {"vit": VisionTransformer, "resnet": ModifiedResNet}


class CLIP(nn.Module):
  """An image and a text tower that meet in one space of embed_dim numbers."""

  embed_dim: Count
  image_size: Count
  patch_size: Count | None  # None for a ResNet
  vision_width: Count
  vision_layers: Count | Counts  # of a ResNet: the blocks of each stage
  vision_heads: Count
  context_length: Count
  vocab_size: Count
  text_width: Count
  text_layers: Count
  text_heads: Count
  image_tower: Annotated[str, one_of(IMAGE_TOWERS)] = "vit"
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32
  remat: bool = False  # computes each block again for the gradients
  activation: Annotated[str, one_of(ACTIVATIONS)] = "quick_gelu"

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
      self.activation,
      causal=True,
    )
    self.ln_final = LayerNorm()
    self.text_projection = self.param(
      "text_projection", normal(width**-0.5), (width, self.embed_dim)
    )
    self.logit_scale = self.param(
      "logit_scale", nn.initializers.constant(INITIAL_LOGIT_SCALE), ()
    )

  def encode_image(
    self, images: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Maps normalised [n, h, w, 3] to float32 [n, d], not of unit length.

    With `train`, a ResNet's BatchNorm uses the batch and updates `batch_stats`:
    `apply(variables, images, train=True, method="encode_image",
    mutable=["batch_stats"])`. A ViT has none, and does not change.
    """
    return self.visual(images, train=train)

  def encode_text(self, tokens: jax.Array) -> jax.Array:
    """Maps int [n, l] to float32 [n, d], not of unit length.

    The feature is read at the token of the largest id, which is the end of
    text in CLIP's vocabulary; l may be below the context length.
    """
    return self.encode_embedded_text(self.embed(tokens), tokens.argmax(-1))

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Maps int [n, l] to the vectors [n, l, text_width] of the tokens."""
    return self.token_embedding(tokens)

  def encode_embedded_text(self, x: jax.Array, end: jax.Array) -> jax.Array:
    """Encodes vectors of tokens, which may be learned (CoOp).

    Args:
      x: [n, l, text_width], without positions.
      end: [n] int, where the feature is read.

    Returns:
      float32 [n, d], not of unit length.
    """
    n, length = x.shape[:2]
    if length > self.context_length:
      raise ValueError(
        f"found texts of {length} tokens, which is more than context_length="
        f"{self.context_length}; tokenize to at most that many."
      )
    x = x.astype(self.dtype)
    x = x + self.positional_embedding[:length].astype(self.dtype)
    x = self.transformer(x)
    x = x[jnp.arange(n), end]  # [n, width]
    return self.ln_final(x.astype(jnp.float32)) @ self.text_projection

  def __call__(
    self, images: jax.Array, tokens: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Returns exp(logit_scale) * cosine, float32 [n images, m texts]."""
    image_features = unit(self.encode_image(images, train=train))
    text_features = unit(self.encode_text(tokens))
    cosine = jnp.einsum("nd,md->nm", image_features, text_features)
    return jnp.exp(self.logit_scale) * cosine


def make_image_tower(model: CLIP) -> nn.Module:
  """Returns the module of a CLIP's image tower: its variables are `visual`."""
  if model.image_tower not in IMAGE_TOWERS:
    raise ValueError(
      f"Unknown image_tower={model.image_tower!r}; choose one of "
      f"{sorted(IMAGE_TOWERS)}."
    )
  return IMAGE_TOWERS[model.image_tower](
    embed_dim=model.embed_dim,
    image_size=model.image_size,
    patch_size=model.patch_size,
    width=model.vision_width,
    layers=model.vision_layers,
    heads=model.vision_heads,
    dtype=model.dtype,
    remat=model.remat,
    activation=model.activation,
  )


openai = partial(CLIP, context_length=77, vocab_size=49408, text_layers=12)
base = partial(
  openai,
  embed_dim=512,
  image_size=224,
  vision_width=768,
  vision_layers=12,
  vision_heads=12,
  text_width=512,
  text_heads=8,
)

MODELS = {
  "clip_rn50": partial(
    openai,
    embed_dim=1024,
    image_size=224,
    patch_size=None,
    vision_width=64,
    vision_layers=(3, 4, 6, 3),
    vision_heads=32,
    text_width=512,
    text_heads=8,
    image_tower="resnet",
  ),
  "clip_vit_b32": partial(base, patch_size=32),
  "clip_vit_b16": partial(base, patch_size=16),
  "clip_vit_l14": partial(
    openai,
    embed_dim=768,
    image_size=224,
    patch_size=14,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    text_width=768,
    text_heads=12,
  ),
  # For 32 px images on a CPU; the vocabulary is that of the tokenizer in use.
  "clip_vit_tiny": partial(
    CLIP,
    embed_dim=128,
    image_size=32,
    patch_size=4,
    vision_width=128,
    vision_layers=4,
    vision_heads=4,
    context_length=24,
    text_width=128,
    text_layers=3,
    text_heads=4,
  ),
}
