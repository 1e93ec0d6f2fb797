"""SigLIP 2 as an encoder."""

from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from etils import epath

from synthjax.config.schema import Count, Dtype, Precision
from synthjax.encoders import Encoder, two_towers
from synthjax.encoders.resize import square_image, square_images
from synthjax.models.siglip import model as siglip
from synthjax.runtime.errors import UserError, gathered
from synthjax.tokenizers import bpe, cut_texts, gemma
from synthjax.weights import files


def check(
  *, weights: str | None, tokenizer: str | None = None, **others: Any
) -> None:
  """Checks that the files are there; its arguments are those of `load`."""
  del others
  with gathered() as attempt:
    attempt(_locate, weights)
    attempt(_locate_tokenizer, weights, tokenizer)


def reads(
  *, weights: str | None, tokenizer: str | None = None, **others: Any
) -> cut_texts.Reads | None:
  """Returns how much of a text it reads; None of unfit weights."""
  del others
  about = files.read_description(_locate(weights)).get("model", {})
  if "context_length" not in about:
    return None
  ids = gemma.load(_locate_tokenizer(weights, tokenizer)).ids
  return cut_texts.Reads(ids, about["context_length"] - 1)


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
  params, about = files.load_params(_locate(weights))
  if about.get("kind") != "siglip":
    raise UserError(
      f"{weights} holds weights of {about.get('kind')!r}: config.encoder of "
      "the name 'siglip' needs those of a SigLIP 2."
    )
  path = _locate_tokenizer(weights, tokenizer)
  vocabulary = gemma.load(path)
  model = siglip.SigLIP(**about["model"] | {"dtype": jnp.dtype(dtype)})
  if model.vocab_size < vocabulary.size:
    raise UserError(
      f"{weights} knows {model.vocab_size} tokens, but {path} has "
      f"{vocabulary.size}: give the tokenizer that it was trained with."
    )
  size, length = model.image_size, model.context_length
  return two_towers.make_encoder(
    model,
    params,
    pixels=two_towers.Pixels(
      partial(square_image, size=size), partial(square_images, size=size)
    ),
    preprocess=siglip.preprocess,
    tokenize=lambda texts: vocabulary.siglip_tokens(texts, length),
    batch_size=batch_size,
    precision=precision,
    resize=resize,
    identity={
      "encoder": "siglip",
      "weights": files.sha256(_locate(weights)),
      "tokenizer": files.sha256(path),
      "pixels": f"bilinear, square of {size}",
      "dtype": dtype,
    },
  )


def _locate(weights: str | None) -> epath.Path:
  return files.locate(weights, field="encoder.weights", family="siglip")


def _locate_tokenizer(weights: str | None, tokenizer: str | None) -> epath.Path:
  """Returns the file of a tokenizer, by default of the one beside weights."""
  if tokenizer:
    path = bpe.locate(tokenizer, gemma.FORMS)
  else:
    path = bpe.beside(weights or "", gemma.FORMS)
  if not path.exists():
    raise UserError(
      f"config.encoder.tokenizer names {tokenizer}, and there is no {path}; it "
      "is the tokenizer.json or tokenizer.model of the SigLIP 2."
    )
  return path
