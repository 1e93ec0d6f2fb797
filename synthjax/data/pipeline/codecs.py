"""Images as files hold them: encoded, opened late, and read in part.

A row has its image as uint8 pixels [h, w, 3], `image`, or as the bytes of a
JPEG, PNG or WebP file, `encoded`. What needs a part of the image opens it,
which reads the size alone, decides by that, and then decodes.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

from synthjax.runtime.errors import (
  COUNT,
  Kind,
  UserError,
  one_of,
  unknown_names,
)

FORMATS = ("png", "jpeg", "webp")
_STARTS = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}
# Of the formats that lose something.
DEFAULT_QUALITY = {"jpeg": 95, "webp": 90}

# Of the arguments of `encode` that a config gives.
VALUES = {
  "image_format": one_of(FORMATS),
  "quality": Kind(
    lambda x: COUNT.fits(x) and x <= 100, "a whole number, one of 1 to 100"
  ),
  "image_size": COUNT,
}

Box = tuple[int, int, int, int]  # left, upper, right, lower; in px


def format_of(content: bytes) -> str | None:
  """Tells by its first bytes which of FORMATS a file has; None for others."""
  if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
    return "webp"
  found = (name for name, start in _STARTS.items() if content.startswith(start))
  return next(found, None)


def open_image(example: dict[str, Any]) -> Image.Image:
  """Opens the image of a row, whose pixels may still be encoded."""
  if "encoded" in example:
    return Image.open(io.BytesIO(example["encoded"]))
  return Image.fromarray(example["image"])


def pixels(example: dict[str, Any]) -> np.ndarray:
  """Returns the image of a row as uint8 [h, w, 3]."""
  if "encoded" in example:
    return decode_image(example["encoded"])
  return example["image"]


def with_pixels(example: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
  """Returns the row with these pixels, and without what was encoded."""
  kept = {name: value for name, value in example.items() if name != "encoded"}
  return kept | {"image": image}


def decode_image(encoded: bytes) -> np.ndarray:
  """Returns an encoded image as uint8 [h, w, 3]."""
  with Image.open(io.BytesIO(encoded)) as image:
    return np.asarray(_rgb(image))


def crop(image: Image.Image, box: Box, image_size: int) -> np.ndarray:
  """Cuts out a rectangle and resizes it bilinearly, with antialiasing.

  A JPEG that was not read yet is decoded at a half, a quarter or an eighth of
  its size where the rectangle still has as many pixels as the result: most
  frequencies that the resize would take away are then never transformed. That
  is 0.2 to 0.7 of 255 from a full decode on average, and 5 at most (made-up
  photographs, in test_codecs.py). All else gives the very same pixels.

  Args:
    image: as `open_image` returns it.
    box: within it.
    image_size: side of the result.

  Returns:
    uint8 [image_size, image_size, 3].
  """
  width, height = image.size
  side = min(box[2] - box[0], box[3] - box[1])
  factor = next((f for f in (8, 4, 2) if side >= f * image_size), 1)
  if factor > 1 and image.draft(None, (width // factor, height // factor)):
    box = tuple(edge / factor for edge in box)
  shape = (image_size, image_size)
  resized = _rgb(image).resize(shape, Image.Resampling.BILINEAR, box=box)
  return np.asarray(resized)


def encode_png(image: np.ndarray) -> bytes:
  """Returns an image, uint8 [h, w, 3], as PNG, alike in every call."""
  return encode(image)


def encode(
  image: np.ndarray,
  *,
  image_format: str = "png",
  quality: int | None = None,
  image_size: int | None = None,
) -> bytes:
  """Encodes an image, alike in every call of one version of Pillow.

  Args:
    image: uint8 [h, w, 3].
    image_format: one of FORMATS.
    quality: 1 to 100, of JPEG and WebP; theirs in DEFAULT_QUALITY by default.
      JPEG has its colours at half the resolution, as is usual.
    image_size: side of the square that the image is first resized to, by
      Lanczos's filter; None leaves it as it is.

  Returns:
    The content of a file.
  """
  assert image.dtype == np.uint8 and image.ndim == 3, (image.dtype, image.shape)
  picture = Image.fromarray(image)
  if image_size is not None and picture.size != (image_size, image_size):
    shape = (image_size, image_size)
    picture = picture.resize(shape, Image.Resampling.LANCZOS)
  options = {"compress_level": 6}
  if image_format != "png":
    options = {"quality": quality or DEFAULT_QUALITY[image_format]}
  file = io.BytesIO()
  picture.save(file, image_format.upper(), **options)
  return file.getvalue()


def check_encoding(
  *,
  image_format: str = "png",
  quality: int | None = None,
  image_size: int | None = None,
) -> None:
  """Checks arguments of `encode`.

  Raises:
    UserError: saying all that is wrong with them.
  """
  if image_format not in FORMATS:
    raise unknown_names("image_format", [image_format], FORMATS)
  problems = []
  if quality is not None and image_format == "png":
    problems.append(f"quality={quality} is of jpeg and webp; png loses nothing")
  elif quality is not None and not 1 <= quality <= 100:
    problems.append(f"quality={quality} is not one of 1 to 100")
  if image_size is not None and image_size < 1:
    problems.append(f"image_size={image_size} is less than 1")
  if problems:
    raise UserError(f"Images cannot be encoded so: {'; '.join(problems)}.")


def _rgb(image: Image.Image) -> Image.Image:
  return image if image.mode == "RGB" else image.convert("RGB")


_PNG_SIDE = 64  # px; up to here images stay as they are
_JPEG_SIDE = 128  # px; larger ones are shrunk to it


def shrink(image: np.ndarray, side: int = _JPEG_SIDE) -> tuple[str, bytes]:
  """Encodes an image, uint8 [h, w, 3], for the page.

  Returns:
    Its MIME type and bytes: PNG as it is up to 64 px, else a JPEG whose longer
    side has up to `side` px.
  """
  if max(image.shape[:2]) <= _PNG_SIDE:
    return "image/png", encode_png(image)
  small = Image.fromarray(image)
  small.thumbnail((side, side), Image.Resampling.LANCZOS)
  file = io.BytesIO()
  small.save(file, "JPEG", quality=85)
  return "image/jpeg", file.getvalue()
