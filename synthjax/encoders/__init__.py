"""Encoders of images and texts behind one interface."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from synthjax.errors import check_arguments, unknown_names

# Each module has `load(**fields) -> Encoder` and `check(**fields)`.
ENCODERS = {"clip": "synthjax.encoders.clip"}


class Encoder(NamedTuple):
  """What every encoder offers.

  `encode_images` maps uint8 images, an array [n, h, w, 3] or a list of
  [h, w, 3] of any sizes, to features. Features are float32 [n, d], not of unit
  length; one depends on its image or text alone.
  """

  encode_images: Callable[[Sequence[np.ndarray]], np.ndarray]
  encode_texts: Callable[[Sequence[str]], np.ndarray]
  logit_scale: float  # the factor on cosines, already exp
  identity: dict[str, Any]  # plain data that tells weights and pixels apart
  # Names and a number of context vectors -> a function (embeddings [k, l, w],
  # end [k]) -> features [k, d], and those embeddings and ends, with room for
  # the context behind the first token. None where texts cannot be learned.
  embed_prompts: Callable[..., tuple[Callable, Any, Any]] | None = None
  # What the host does to an image [h, w, 3] first; `encode_images` does it as
  # well, but threads that read ahead spare it the work.
  fit: Callable[[np.ndarray], np.ndarray] = np.asarray


def load_encoder(name: str, **fields: Any) -> Encoder:
  """Loads the encoder of ENCODERS that is called `name`.

  Args:
    name: such as "clip".
    **fields: the arguments of its `load`.

  Raises:
    UserError: as `check_encoder`.
  """
  check_encoder(name, **fields)
  return _module(name).load(**fields)


def check_encoder(name: str, **fields: Any) -> None:
  """Says what keeps an encoder from being loaded, before it costs anything.

  Raises:
    UserError: about an unknown name, unknown or missing fields, or weights that
      are not there.
  """
  module = _module(name)
  check_arguments("config.encoder", fields, module.load)
  module.check(**fields)


def _module(name: str):
  if name not in ENCODERS:
    raise unknown_names("encoder", [name], ENCODERS)
  return importlib.import_module(ENCODERS[name])
