"""Images as files hold them: encoded, opened late, and read in part.

A row has its image as uint8 pixels [h, w, 3], `image`, or as the bytes of a
JPEG, PNG or WebP file, `encoded`. Code that needs a part of the image opens it,
which reads the size alone, chooses the part by it, and then decodes.
"""

import dataclasses
import io
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from synthjax.config.schema import Count, Rule
from synthjax.data.pipeline import jpeg

FORMATS = ("png", "jpeg", "webp")
_STARTS = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}
DEFAULT_QUALITY = {"jpeg": 95, "webp": 90}  # of formats that lose something
Box = tuple[int, int, int, int]  # left, upper, right, lower; in px


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
  """Fields of a block that encodes images: the arguments of `encode`."""

  image_format: Literal["png", "jpeg", "webp"] | None = None  # png
  # Of JPEG and WebP; DEFAULT_QUALITY.
  quality: (
    Annotated[int, Rule(lambda x: 1 <= x <= 100, "a whole number, 1 to 100")]
    | None
  ) = None
  # Side of the square that images are resized to; by default they are not.
  image_size: Count | None = None

  def problems(self) -> Iterable[str]:
    if self.quality is not None and self.image_format in (None, "png"):
      yield f"quality={self.quality} is of jpeg and webp; png loses nothing"

  def options(self) -> dict[str, Any]:
    """Returns the arguments of `encode` that were given."""
    names = (field.name for field in dataclasses.fields(Encoding))
    options = {name: getattr(self, name) for name in names}
    return {k: value for k, value in options.items() if value is not None}


def format_of(content: bytes) -> str | None:
  """Returns which of FORMATS a file has, by its first bytes; or None."""
  if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
    return "webp"
  names = (name for name, start in _STARTS.items() if content.startswith(start))
  return next(names, None)


def open_image(example: dict[str, Any]) -> Image.Image:
  """Opens the image of a row, encoded or not."""
  if "encoded" in example:
    return Image.open(io.BytesIO(example["encoded"]))
  return Image.fromarray(example["image"])


def pixels(example: dict[str, Any]) -> np.ndarray:
  """Returns the image of a row as uint8 [h, w, 3]."""
  if "encoded" in example:
    return decode_image(example["encoded"])
  return example["image"]


def with_pixels(example: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
  """Returns the row with these pixels in place of its encoded image."""
  kept = {name: value for name, value in example.items() if name != "encoded"}
  return kept | {"image": image}


def decode_image(encoded: bytes) -> np.ndarray:
  """Returns an encoded image as uint8 [h, w, 3]."""
  if (image := jpeg.decode(io.BytesIO(encoded))) is not None:
    return image
  with Image.open(io.BytesIO(encoded)) as image:
    return np.asarray(_rgb(image))


def crop(image: Image.Image, box: Box, image_size: int) -> np.ndarray:
  """Cuts out a rectangle and resizes it bilinearly, with antialiasing.

  A JPEG that was not read yet is decoded at a half, a quarter or an eighth of
  its size if the rectangle still has as many pixels as the result: most
  frequencies that the resize would remove are then never transformed. That
  is 0.2 to 0.7 of 255 from a full decode on average, and 5 at most (on made-up
  photographs, in its tests). All else gives the very same pixels.

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
