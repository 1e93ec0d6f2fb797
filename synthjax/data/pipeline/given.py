"""Checks of what callers give: lists of texts, images, and their labels."""

import os
from typing import Any

import numpy as np

from synthjax.runtime.errors import UserError


def texts(name: str, values: Any) -> list[str]:
  """Returns a list of texts.

  Args:
    name: of the argument, for the message.
    values: texts, in a list, a tuple or an array.

  Raises:
    UserError: about a single text, or what is no text.
  """
  if isinstance(values, str | bytes):
    raise UserError(
      f"{name}={values!r} is one text: give a list of texts, [{values!r}]."
    )
  values = list(values)
  for i, value in enumerate(values):
    if not isinstance(value, str):
      raise UserError(
        f"{name}[{i}] is {_named(value)}: needed a list of texts."
      )
  return values


def images(name: str, values: Any, *, besides: type | tuple = ()) -> None:
  """Checks that these are images, uint8 [h, w, 3].

  Args:
    name: of the argument, for the message.
    values: images.
    besides: a type that may stand for an image.

  Raises:
    UserError: about the first that is none, and how to make it one.
  """
  if isinstance(values, str | os.PathLike):
    values = [values]
  for value in values:
    if not isinstance(value, besides):
      _check_image(name, value)


def _check_image(name: str, value: Any) -> None:
  array = isinstance(value, np.ndarray) or hasattr(value, "__array__")
  shape = np.shape(value) if array else ()
  if len(shape) == 3 and shape[-1] == 3 and value.dtype == np.uint8:
    return
  if isinstance(value, str | os.PathLike):
    hint = f"; synthjax.read_image({str(value)!r}) reads the file"
  elif not array:
    hint = ""
  elif len(shape) == 2:
    hint = "; a single image [h, w, 3] is given as image[None]"
  elif len(shape) != 3:
    hint = ""
  elif shape[0] == 3 and shape[-1] != 3:
    hint = "; np.moveaxis(images, -3, -1) puts the channels last"
  elif shape[-1] != 3:
    hint = f"; it has {shape[-1]} channels"
  else:
    hint = "; of values from 0 to 1, (255 * images).round().astype('uint8')"
  raise UserError(
    f"{name} holds {_named(value)}: needed uint8 [h, w, 3], from 0 to 255"
    f"{hint}."
  )


def labels(
  name: str, values: Any, *, count: int, num_classes: int
) -> np.ndarray:
  """Returns labels as int32 [count].

  Raises:
    UserError: if they are too few or too many, or are no classes.
  """
  array = np.asarray(values)
  is_whole = array.dtype.kind in "iu" or not array.size
  if array.shape != (count,) or not is_whole:
    raise UserError(
      f"{name} is {_named(array)}: needed whole numbers [{count}], one for "
      "each image."
    )
  if unknown := sorted({int(x) for x in array if not 0 <= x < num_classes}):
    raise UserError(
      f"There are {name} {unknown[:10]}, but the label space has {num_classes} "
      f"classes, 0 to {num_classes - 1}: it is not the one of these images."
    )
  return array.astype(np.int32)


def _named(value: Any) -> str:
  """Says what a value is: its type and shape, or itself if it is short."""
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    return f"{value.dtype} {[*value.shape]}"
  text = repr(value)
  return f"{type(value).__name__} {text if len(text) < 60 else text[:60]}"
