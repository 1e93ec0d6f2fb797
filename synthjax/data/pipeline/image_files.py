"""Image files as rows, whatever lists them."""

import collections
import contextlib
import dataclasses
import functools
import io
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from synthjax.data.pipeline.rows import Example, Source
from synthjax.runtime.errors import UserError

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclasses.dataclass(frozen=True)
class Labelled(Source):
  """Rows whose labels are known without decoding an image."""

  label: Callable[[int], int]  # a top-level function, or a partial of one

  @property
  def labels(self) -> np.ndarray:
    """The labels of all rows, int64 [n]."""
    return np.array([self.label(i) for i in range(self.size)], np.int64)


def open_files(
  path: epath.PathLike,
  files: Sequence[str],
  labels: Sequence[int],
  image_size: int | None = None,
  ids: Sequence[str] | None = None,
) -> Labelled:
  """Opens image files.

  Args:
    path: of the folder that they lie below, local or gs://.
    files: their paths below it.
    labels: of each.
    image_size: crops and resizes the images to squares of this side.
    ids: of each; by default its path below `path`.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str. A
    file that is no image raises a UserError when its row is read.
  """
  path, files, labels = epath.Path(path).expanduser(), list(files), list(labels)
  read = functools.partial(
    _read_file, path, files, labels, ids or files, image_size
  )
  return Labelled(len(files), read, functools.partial(operator.getitem, labels))


def absent(path: epath.PathLike, files: Sequence[str]) -> set[str]:
  """Returns those of the files that are not there, by listing each folder."""
  path, names_of = epath.Path(path).expanduser(), collections.defaultdict(set)
  for file in files:
    folder, _, name = file.rpartition("/")
    names_of[folder].add(name)
  missing = set()
  for folder, names in names_of.items():
    parent = path / folder
    if parent.is_dir():
      names = names - {entry.name for entry in parent.iterdir()}
    missing |= {f"{folder}/{name}" if folder else name for name in names}
  return missing


def check_present(
  path: epath.PathLike, files: Sequence[str], advice: str
) -> None:
  """Raises a UserError that counts the files that are not there."""
  if missing := absent(path, files):
    some = ", ".join(sorted(missing)[:5])
    raise UserError(
      f"{len(missing)} of {len(files)} images are not in {path}, such as "
      f"{some}: {advice}."
    )


def is_image(path: epath.Path) -> bool:
  """Returns whether a file is named as an image."""
  return path.suffix.lower() in ENDINGS


def list_images(folder: epath.Path) -> list[str]:
  """Returns the sorted names of the images in a folder."""
  return sorted(file.name for file in folder.iterdir() if is_image(file))


def to_rgb(image: Image.Image) -> Image.Image:
  """Returns an image of any mode as RGB, over white where it is transparent."""
  if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  if image.mode.startswith("I;16"):  # 16 bits: convert() would clip, not scale
    scaled = np.asarray(image) >> 8
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
  return image.convert("RGB")


def to_square(image: Image.Image, size: int) -> Image.Image:
  """Resizes the shorter side to `size` and crops the middle of the longer."""
  width, height = image.size
  side = min(width, height)
  left, top = (width - side) // 2, (height - side) // 2
  box = (left, top, left + side, top + side)
  return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def to_pixels(image: Image.Image, image_size: int | None) -> np.ndarray:
  """Returns an image as uint8 [h, w, 3], a square if `image_size` is given."""
  image = to_rgb(image)
  if image_size is not None and image.size != (image_size, image_size):
    image = to_square(image, image_size)
  return np.asarray(image)


def read_pixels(file: epath.Path, image_size: int | None = None) -> np.ndarray:
  """Reads a file as uint8 [h, w, 3], a square if `image_size` is given.

  Raises:
    UserError: if it is no image, or is damaged.
  """
  with (
    reading(file),
    file.open("rb") as opened,
    Image.open(opened) as image,
  ):
    return to_pixels(image, image_size)


def decode(
  content: bytes, image_size: int | None = None, *, name: str
) -> np.ndarray:
  """Reads a file's content as `read_pixels` reads a file; `name` is for errors.

  Unlike `codecs.decode_image`, it takes any mode and format.
  """
  with reading(name), Image.open(io.BytesIO(content)) as image:
    return to_pixels(image, image_size)


@contextlib.contextmanager
def reading(name: Any, *errors: type[Exception]) -> Iterator[None]:
  """Turns what Pillow raises about a bad image, and `errors`, into a UserError.

  Args:
    name: of the image, and where it is.
    *errors: further ones.
  """
  try:
    yield
  except (OSError, SyntaxError, ValueError, *errors) as error:
    raise UserError(
      f"{name} cannot be read as an image ({error}): copy the file again, or "
      "move it away."
    ) from error


def _read_file(
  path: epath.Path,
  files: Sequence[str],
  labels: Sequence[int],
  ids: Sequence[str],
  image_size: int | None,
  index: int,
) -> Example:
  pixels = read_pixels(path / files[index], image_size)
  return {"image": pixels, "label": labels[index], "id": ids[index]}
