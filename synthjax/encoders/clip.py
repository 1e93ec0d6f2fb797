"""CLIP as an encoder: one batch shape for images, one for texts."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.config.schema import Count, Dtype, Precision
from synthjax.encoders import Encoder, two_towers
from synthjax.encoders.resize import fit_image, fit_images
from synthjax.models.clip import model as clip
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe

FAMILY = two_towers.Family(
  name="clip",
  forms=bpe.FORMS,
  ids_of=lambda path: bpe.load(path).clip_ids,
  num_added=2,
  towers=clip.CLIP,
  image_tower=clip.make_image_tower,
  fit_image=fit_image,
  fit_images=fit_images,
  pixels="bicubic, shorter side and middle of {}",
  preprocess=clip.preprocess,
  mean=clip.MEAN,
  std=clip.STD,
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
  """Loads the weights; what is compiled is compiled when first used.

  Args:
    weights: see `files.locate`.
    tokenizer: see `bpe.locate`; None is the one beside the weights.
    batch_size: images, or texts, that each device encodes at once.
    dtype: of the activations.
    precision: of products of float32, in which features are measured; "default"
      is faster on accelerators, and other features.
    resize: "device" resizes batches of images of one size there, all others
      on the "host", to the same pixels; see `two_towers.make_encoder`.

  Raises:
    UserError: about missing or unfit weights.
  """
  path, variables, about = FAMILY.load_weights(weights)
  tokenizer = FAMILY.locate_tokenizer(weights, tokenizer)
  vocabulary = bpe.load(tokenizer)
  model = clip.CLIP(**about["model"] | {"dtype": jnp.dtype(dtype)})
  if model.vocab_size != vocabulary.clip_vocab_size:
    raise UserError(
      f"{weights} knows {model.vocab_size} tokens, but {tokenizer} has "
      f"{vocabulary.clip_vocab_size}: give the tokenizer that it was trained "
      "with."
    )
  params = variables["params"]
  # Files may hold a scalar as an array of one number.
  params["logit_scale"] = np.reshape(params["logit_scale"], ())
  return two_towers.make_encoder(
    FAMILY,
    model,
    variables,
    fields=about["model"],
    weights=path,
    tokenizer=tokenizer,
    tokenize=lambda texts: vocabulary.clip_tokens(texts, model.context_length),
    batch_size=batch_size,
    precision=precision,
    resize=resize,
    dtype=dtype,
    embed_prompts=partial(_embed_prompts, model, vocabulary, precision),
  )


def _embed_prompts(
  model: clip.CLIP,
  vocabulary: bpe.Tokenizer,
  precision: str,
  variables: Any,
  names: Sequence[str],
  num_context: int,
) -> tuple[jax.tree_util.Partial, jax.Array, np.ndarray]:
  """Embeds the tokens of class names; see `Encoder.embed_prompts`."""
  tokens, end = prompt_tokens(
    [vocabulary.clip_ids(f"{name}.") for name in names],
    start=vocabulary.clip_vocab_size - 2,
    end=vocabulary.clip_vocab_size - 1,
    length=model.context_length,
    num_context=num_context,
  )
  embeddings = model.apply(variables, tokens, method="embed")
  function = partial(_encode_embedded, model, precision)
  encode = jax.tree_util.Partial(function, variables)
  return encode, embeddings, end


def _encode_embedded(model, precision, variables, x, end):
  with jax.default_matmul_precision(precision):
    return model.apply(variables, x, end, method="encode_embedded_text")


NUM_CONTEXT = 16


def prompt_tokens(
  names: Sequence[Sequence[int]],
  *,
  start: int,
  end: int,
  length: int,
  num_context: int = NUM_CONTEXT,
) -> tuple[np.ndarray, np.ndarray]:
  """Lays out the tokens of each class, with 0 where the context will be.

  Args:
    names: the tokens of each "name.", full stop included.
    start: the token SOS.
    end: the token EOS.
    length: the most tokens that the encoder takes.
    num_context: of context vectors.

  Returns:
    Tokens [k, l] int32, where l is that of the longest text, padded with 0, and
    the positions [k] of EOS. A causal encoder sees nothing of the padding.

  Raises:
    UserError: naming every class that is empty or too long.
  """
  room = length - 2 - num_context
  wrong = {i: len(n) for i, n in enumerate(names) if not 0 < len(n) <= room}
  if wrong or not len(names):
    raise UserError(
      f"Found {len(names)} class names, of which these (class: tokens) do not "
      f"fit: {wrong}. Each needs from 1 to {room} tokens, as a text has "
      f"{length} with {num_context} of context: shorten the names or "
      "num_context."
    )
  ends = np.array([1 + num_context + len(name) for name in names], np.int32)
  tokens = np.zeros((len(names), ends.max() + 1), np.int32)
  for row, name, stop in zip(tokens, names, ends, strict=True):
    row[0], row[stop] = start, end
    row[1 + num_context : stop] = name
  return tokens, ends
