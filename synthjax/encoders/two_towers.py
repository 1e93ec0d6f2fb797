"""An encoder of two towers: one batch shape for images, one for texts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.data.pipeline import given
from synthjax.encoders import Encoder, batching


class Pixels(NamedTuple):
  """How images of any size become those of a model, in uint8 of one size."""

  on_host: Callable[[np.ndarray], np.ndarray]  # [h, w, 3] -> [s, s, 3]
  on_device: Callable[[jax.Array], jax.Array]  # the same of [n, h, w, 3]


def make_encoder(
  model: Any,
  variables: Any,
  *,
  pixels: Pixels,
  preprocess: Callable[[jax.Array], jax.Array],
  tokenize: Callable[[Sequence[str]], np.ndarray],
  batch_size: int,
  precision: str,
  resize: str | None,
  identity: dict[str, Any],
  embed_prompts: Callable[..., Any] | None = None,
) -> Encoder:
  """Returns the encoder of a network that has `encode_image` and `encode_text`.

  What is compiled is compiled when it is first used.

  Args:
    model: also has `embed_dim`, the numbers of a feature.
    variables: of it, on the host; `logit_scale` is a logarithm.
    pixels: see there.
    preprocess: normalises uint8 images.
    tokenize: texts -> int32 [n, l].
    batch_size: images, or texts, that each device encodes at once.
    precision: of products of float32.
    resize: "host" or "device". None is the host where the device is a CPU, as
      Pillow is faster there.
    identity: see `Encoder`; an unusual precision is added.
    embed_prompts: (variables, names, number) -> see `Encoder.embed_prompts`.
  """
  batch_size = batching.on_all_devices(batch_size)
  logit_scale = float(
    np.exp(np.reshape(variables["params"]["logit_scale"], ()))
  )
  variables = batching.replicate(variables)
  run = partial(
    batching.in_batches,
    variables=variables,
    batch_size=batch_size,
    width=model.embed_dim,
    precision=precision,
  )
  of_pixels = run(
    lambda variables, x: model.apply(
      variables, preprocess(pixels.on_device(x)), method="encode_image"
    )
  )
  of_tokens = run(
    lambda variables, x: model.apply(variables, x, method="encode_text")
  )
  if resize is None:
    resize = "host" if jax.default_backend() == "cpu" else "device"
  stack = batching.stacked(pixels.on_host, on_device=resize == "device")

  def encode_images(images: Sequence[np.ndarray]) -> np.ndarray:
    # Resized a batch at a time: all at once may not fit the memory.
    return of_pixels(map(stack, batching.chunks(images, batch_size)))

  def encode_texts(texts: Sequence[str]) -> np.ndarray:
    tokens = tokenize(given.texts("texts", texts))
    return of_tokens(batching.chunks(tokens, batch_size))

  identity = dict(identity)
  if precision != "highest":  # absent otherwise, so that older runs are found
    identity["precision"] = precision
  return Encoder(
    encode_images,
    encode_texts,
    logit_scale,
    identity,
    embed_prompts=embed_prompts and partial(embed_prompts, variables),
    fit=partial(batching.fitted, pixels.on_host, may_wait=resize == "device"),
  )
