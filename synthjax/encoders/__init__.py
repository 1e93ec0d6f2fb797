"""Encoders of images and texts behind one interface.

| module         | subject                                       |
| -------------- | --------------------------------------------- |
| clip, siglip   | one module each                               |
| two_towers     | what encoders of images and texts share       |
| image_encoders | encoders of images alone: DINOv2, Inception   |
| resize         | Pillow's resize, on the host or on the device |
| batching       | any number of rows, in batches of one shape   |
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.config import (
  embedded_world,
  hub_clip,
  released_clip,
  released_siglip,
  schema,
)
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import cut_texts
from synthjax.weights import files
from synthjax.weights.catalogue import RELEASED

# Each module has `load(**fields) -> Encoder`, whose annotated arguments are the
# schema of config.encoder. It may have `check(**fields)`, which says before it
# costs anything what keeps `load` from working, and `reads(**fields)`, how much
# of a text it reads; see `cut_texts`.
ENCODERS = {
  "clip": "synthjax.encoders.clip",
  "siglip": "synthjax.encoders.siglip",
}
FIELDS = schema.Choice("name", ENCODERS)
# Names that stand for all fields of one of them.
WHOLE = {
  "embedded": lambda: embedded_world()["encoder"],
  "hf://": hub_clip,
  **{
    name: functools.partial(released, name)
    for released, start in (
      (released_clip, "clip_"),
      (released_siglip, "siglip"),
    )
    for name in RELEASED
    if name.startswith(start)
  },
}
# By the kind of their weights: (path, batch_size) -> ImageEncoder.
IMAGE_ENCODERS = {
  "dinov2": "synthjax.encoders.image_encoders:dinov2",
  "inception": "synthjax.encoders.image_encoders:inception",
}


class Network(NamedTuple):
  """A network as one function of pixels, as it is served by itself.

  `function` maps `variables` and uint8 images [n, s, s, 3], where s is
  `image_size`, to features or logits float32 [n, d]; `fit` gives an image that
  size. `about` is plain data that describes the network in files. `of_floats`
  is the same of images float32 in -1..1, to be differentiated.
  """

  function: Callable[[Any, Any], Any]
  variables: Any
  image_size: int
  fit: Callable[[np.ndarray], np.ndarray]
  about: dict[str, Any]
  of_floats: Callable[[Any, Any], Any] | None = None


class ImageEncoder(NamedTuple):
  """The part of an `Encoder` that needs no texts, with the same meaning."""

  encode_images: Callable[[Sequence[np.ndarray]], np.ndarray]
  identity: dict[str, Any]
  fit: Callable[[np.ndarray], Any] = np.asarray


class Encoder(NamedTuple):
  """What every encoder offers.

  `encode_images` maps uint8 images, an array [n, h, w, 3] or a list of
  [h, w, 3] of any sizes, to features. Features are float32 [n, d], not of unit
  length; one depends on its image or text alone.
  """

  encode_images: Callable[[Sequence[np.ndarray]], np.ndarray]
  encode_texts: Callable[[Sequence[str]], np.ndarray]
  logit_scale: float  # the factor on cosines, already exp
  identity: dict[str, Any]  # plain data that identifies weights and pixels
  # Names and a number of context vectors -> a function (embeddings [k, l, w],
  # end [k]) -> features [k, d], and those embeddings and ends, with room for
  # the context behind the first token. None where texts cannot be learned.
  embed_prompts: Callable[..., tuple[Callable, Any, Any]] | None = None
  # Reduces an image [h, w, 3] to what `encode_images` needs of it, and takes
  # too. It changes no feature: whoever holds images holds these, as photographs
  # are large, and threads that read share the work.
  fit: Callable[[np.ndarray], Any] = np.asarray
  # The part that reads images, in float32; None where it cannot be had apart.
  network: Network | None = None
  # Ends before the last layer of the network, where that is a projection, as in
  # CLIP; `models.clip.projection` reads it from the network's params.
  unprojected: ImageEncoder | None = None


def load_image_encoder(
  weights: str, *, field: str, batch_size: int = 64
) -> ImageEncoder:
  """Loads an encoder of images by its weights, which say what it is.

  Args:
    weights: a file, as `files.locate` takes it.
    field: of the config, for messages.
    batch_size: images that each device encodes at once.

  Raises:
    UserError: as `check_image_encoder`.
  """
  path, kind = _image_weights(weights, field)
  load = schema.resolve(kind, IMAGE_ENCODERS)
  return load(path, batch_size=batch_size)


def check_image_encoder(weights: str, *, field: str) -> None:
  """Checks the weights of an encoder of images.

  Raises:
    UserError: about weights that are not there, or of another kind.
  """
  _image_weights(weights, field)


def _image_weights(weights: str, field: str) -> tuple[epath.Path, str]:
  """Returns the file and the key of IMAGE_ENCODERS."""
  path = files.locate(weights, field=field, family=tuple(IMAGE_ENCODERS))
  kind = files.read_description(path).get("kind")
  if kind not in IMAGE_ENCODERS:
    raise UserError(
      f"{weights} (config.{field}) holds weights of {kind!r}; needed are those "
      f"of {' or '.join(IMAGE_ENCODERS)}."
    )
  return path, kind


def load_encoder(name: str | None = None, **fields: Any) -> Encoder:
  """Loads an encoder.

  Args:
    name: a key of ENCODERS, such as "clip", or the dotted path of a module; or
      a key of WHOLE, such as "embedded" or "clip_rn50", which needs no fields;
      or a CLIP of the Hugging Face hub, "hf://org/name".
    **fields: the arguments of its `load`.

  Raises:
    UserError: as `check_encoder`, or about weights that do not fit.
  """
  block = schema.whole_block("encoder", name, fields, ENCODERS, WHOLE)
  return schema.read_checked(FIELDS, block, "config.encoder")()


def check_encoder(name: str | None = None, **fields: Any) -> None:
  """Checks all that can keep an encoder from being loaded, at no cost.

  Raises:
    UserError: about an unknown name, unknown or missing fields, bad values, or
      weights that are not there.
  """
  block = schema.whole_block("encoder", name, fields, ENCODERS, WHOLE)
  schema.read_checked(FIELDS, block, "config.encoder")


def check_texts(
  space: str, block: Mapping[str, Any], *, field: str = "config.encoder"
) -> None:
  """Checks an encoder, and that it tells the texts of classes apart.

  Args:
    space: the name of a label space.
    block: of a config, which describes an encoder.
    field: of the block.

  Raises:
    UserError: as `check_encoder` and `cut_texts.check_classes`.
  """
  load = schema.read_checked(FIELDS, dict(block), field)
  known = spaces.load_space(space)
  texts = {
    name: [*(known.sentence(t, c) for t in known.templates)]
    + [known.filter_text(c)]
    for name, c in zip(known.class_names, known.classes, strict=True)
  }
  cut_texts.check_classes(cut_texts.reads(load), texts, field=field)
