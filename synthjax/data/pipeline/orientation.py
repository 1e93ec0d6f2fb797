"""EXIF's orientation: how stored pixels, and boxes in them, are turned.

A camera that is held sideways stores its pixels as they come, and notes how a
viewer has to turn them.
"""

from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from synthjax.data.pipeline.rows import Example

_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


class Header(NamedTuple):
  """What the start of an image file says."""

  size: tuple[int, int]  # height and width of the stored pixels
  turn: int  # EXIF's orientation, 1 to 8; 1 is upright

  @property
  def shown(self) -> tuple[int, int]:
    """The height and width of the turned image."""
    return self.size[::-1] if self.turn in _SIDEWAYS else self.size


def header(image: Image.Image) -> Header:
  """Reads the header of an image that is not loaded yet."""
  turn, (width, height) = orientation(image), image.size
  if image.format == "TIFF" and turn in _SIDEWAYS:  # Pillow says it turned
    width, height = height, width
  return Header((height, width), turn)


def orientation(image: Image.Image) -> int:
  """Returns EXIF's orientation; 1 if there is none, or none that is sound."""
  try:
    # PNG's own method decodes the image, to look behind it.
    turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return turn if turn in _TURNS else 1
  except Exception:  # whatever is wrong with it, the pixels may be sound
    return 1


def turned(image: Image.Image) -> Image.Image:
  """Returns an image that is not loaded yet as viewers show it."""
  method = _TURNS.get(orientation(image))
  image.load()
  if method is None or image.format == "TIFF":  # which load() turns
    return image
  return image.transpose(method)


def turn_boxes(boxes: np.ndarray, header: Header) -> np.ndarray:
  """Turns boxes [k, 4] of x0, y0, x1, y1 with the stored pixels they are in."""
  (height, width), turn = header
  x0, y0, x1, y1 = boxes.T
  if turn in (2, 3, 7, 8):  # what becomes the first axis runs backwards
    x0, x1 = width - x1, width - x0
  if turn in (3, 4, 6, 7):
    y0, y1 = height - y1, height - y0
  if turn in _SIDEWAYS:
    x0, y0, x1, y1 = y0, x0, y1, x1
  return np.stack([x0, y0, x1, y1], -1)


def as_shown(row: Example, header: Header | None) -> Example:
  """Turns the boxes and the size of a row with its image.

  That is if they are of the stored pixels, which is what tools know that do not
  read EXIF. A size that is the turned one says that the boxes are turned too.

  Args:
    row: of boxes [k, 4] and size (h, w).
    header: of its image; None if it cannot be read.
  """
  if header is None or header.size != tuple(row["size"]):
    return row
  boxes = turn_boxes(row["boxes"], header)
  return row | {"boxes": boxes, "size": header.shown}
