"""SigLIP 2 as an encoder."""

from typing import Literal

import jax.numpy as jnp

from synthjax.config.schema import Count, Dtype, Precision
from synthjax.encoders import Encoder, two_towers
from synthjax.encoders.resize import square_image, square_images
from synthjax.models.siglip import model as siglip
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import gemma

FAMILY = two_towers.Family(
  name="siglip",
  forms=gemma.FORMS,
  ids_of=lambda path: gemma.load(path).ids,
  num_added=1,
  towers=siglip.SigLIP,
  image_tower=siglip.make_image_tower,
  fit_image=square_image,
  fit_images=square_images,
  pixels="bilinear, square of {}",
  preprocess=siglip.preprocess,
  mean=siglip.MEAN,
  std=siglip.STD,
)
check, reads = FAMILY.check, FAMILY.reads


def load(
  *,
  weights: str | None,
  tokenizer: str | None = None,
  batch_size: Count,
  dtype: Dtype = "float32",
  precision: Precision = "highest",
  resize: Literal["host", "device"] | None = None,
) -> Encoder:
  """Loads the weights; the arguments mean what they mean in `clip.load`.

  Args:
    weights: see `files.locate`.
    tokenizer: see `gemma.FORMS`; None is the one beside the weights.
    batch_size: images, or texts, that each device encodes at once.
    dtype: of the activations.
    precision: of products of float32.
    resize: where images are resized: to a square, bilinearly, with no crop.

  Raises:
    UserError: about missing or unfit weights.
  """
  path, variables, about = FAMILY.load_weights(weights)
  tokenizer = FAMILY.locate_tokenizer(weights, tokenizer)
  vocabulary = gemma.load(tokenizer)
  model = siglip.SigLIP(**about["model"] | {"dtype": jnp.dtype(dtype)})
  if model.vocab_size < vocabulary.size:
    raise UserError(
      f"{weights} knows {model.vocab_size} tokens, but {tokenizer} has "
      f"{vocabulary.size}: give the tokenizer that it was trained with."
    )
  return two_towers.make_encoder(
    FAMILY,
    model,
    variables,
    fields=about["model"],
    weights=path,
    tokenizer=tokenizer,
    tokenize=lambda texts: vocabulary.siglip_tokens(
      texts, model.context_length
    ),
    batch_size=batch_size,
    precision=precision,
    resize=resize,
    dtype=dtype,
  )
