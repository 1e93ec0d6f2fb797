"""Image files as rows, whatever lists them: which are images, how they decode.

Every loader decodes by `decode` or `read_pixels`, opens headers by `opened` or
`read_headers`, and lists by `list_images` or `is_leftover`. So they agree on
what an image is: its pixels as a viewer shows them, turned by EXIF; and on the
error about one that is not: a UserError with its name.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import operator
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from absl import logging
from etils import epath
from PIL import Image, UnidentifiedImageError

from synthjax.data.pipeline import jpeg, orientation
from synthjax.data.pipeline.orientation import Header
from synthjax.data.pipeline.rows import Example, Files, Source
from synthjax.data.pipeline.rows import subset as rows_subset
from synthjax.runtime import buckets
from synthjax.runtime.errors import UserError
from synthjax.runtime.threads import in_threads

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# Pillow would try others too, some of which start programs, as EPS does.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# What Pillow raises about files that are damaged, forged or of another kind.
BAD_IMAGE = (
  OSError,
  EOFError,
  SyntaxError,
  ValueError,
  TypeError,
  LookupError,
  ArithmeticError,
  AttributeError,
  AssertionError,
  MemoryError,
  RuntimeError,
  struct.error,
  zlib.error,
  Image.DecompressionBombError,
)
# Names that systems, and the disks of networks, leave in folders; hidden ones
# begin with a dot.
_LEFTOVERS = {
  *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found"),
  *("$recycle.bin", "system volume information", "thumbs.db", "desktop.ini"),
  *("ehthumbs.db", "network trash folder", "temporary items", "__pycache__"),
}
_SHOWN = 5  # names that a message lists

# It comes from half of the pixels on that are refused, and names no file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclasses.dataclass(frozen=True)
class Labelled(Source):
  """Rows whose labels are known without decoding an image."""

  label: Callable[[int], int]  # a top-level function, or a partial of one

  @property
  def labels(self) -> np.ndarray:
    """The labels of all rows, int64 [n]."""
    return np.array([self.label(i) for i in range(self.size)], np.int64)


def subset(source: Labelled, rows: Sequence[int]) -> Labelled:
  """Returns the source that holds these rows, in their order."""
  part, labels = rows_subset(source, rows), source.labels[np.asarray(rows, int)]
  label = functools.partial(operator.getitem, labels.tolist())
  return Labelled(part.size, part.read, label, files=part.files)


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
    ids: of each; by default its path below `path`. Bytes of a name that are no
      UTF-8 are written out, as ids stand in pages and lists.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str. A
    file that is no image raises a UserError when its row is read.
  """
  path, files, labels = epath.Path(path).expanduser(), list(files), list(labels)
  ids = [i.encode(errors="backslashreplace").decode() for i in ids or files]
  read = functools.partial(_read_file, path, files, labels, ids, image_size)
  return Labelled(
    len(files),
    read,
    functools.partial(operator.getitem, labels),
    files=Files(path, files, are_rows=True),
  )


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
  """Returns whether a file is named as an image, and is no leftover."""
  return path.suffix.lower() in ENDINGS and not is_leftover(path.name)


def is_leftover(name: str) -> bool:
  """Returns whether a file or folder is hidden, or left by a system."""
  is_hidden = name.startswith(".") and name not in (".", "..")
  return is_hidden or name.lower() in _LEFTOVERS


def list_images(
  path: epath.Path, folder: str, left_out: list[str]
) -> list[str]:
  """Returns the sorted paths, below `path`, of the images in a folder.

  Args:
    path: local or gs://.
    folder: of this name in it.
    left_out: gets the paths of what else is there, for `warn_left_out`.
  """
  names = sorted(entry.name for entry in (path / folder).iterdir())
  images = []
  for name in names:
    kept = images if is_image(epath.Path(name)) else left_out
    kept.append(f"{folder}/{name}")
  return images


@functools.cache  # once a process, as a folder may be opened many times
def warn_left_out(path: epath.PathLike, names: tuple[str, ...]) -> None:
  """Counts what lies in a folder and is not read; nothing if there is none."""
  if names:
    logging.warning("%s", left_out(path, names))


def left_out(path: epath.PathLike, names: Sequence[str]) -> str:
  """Returns the sentence that counts what is not read."""
  kind = "entry" if len(names) == 1 else "entries"
  listed = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
  return (
    f"{path}: {len(names):,} {kind} passed over, as hidden, left by a system "
    f"or not named as an image: {listed}."
  )


# --- decoding -----------------------------------------------------------------


def to_rgb(image: Image.Image) -> Image.Image:
  """Returns an image of any mode as RGB, over white where it is transparent."""
  if image.mode.startswith("I;16"):  # 16 bits: convert() would clip, not scale
    values = np.asarray(image)
    scaled = (values >> 8).astype(np.uint8)
    if (clear := image.info.get("transparency")) is not None:
      scaled[values == clear] = 255
    return Image.fromarray(scaled).convert("RGB")
  if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  return image.convert("RGB")


def to_square(image: Image.Image, size: int) -> Image.Image:
  """Resizes the shorter side to `size` and crops the middle of the longer."""
  width, height = image.size
  side = min(width, height)
  left, top = (width - side) // 2, (height - side) // 2
  box = (left, top, left + side, top + side)
  return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def to_pixels(image: Image.Image, image_size: int | None = None) -> np.ndarray:
  """Returns an image of `opened` as `read_pixels` returns a file."""
  stays = image_size is None or image.size == (image_size, image_size)
  stays = stays and orientation.orientation(image) == 1
  if stays and image.format == "JPEG":
    if (pixels := jpeg.decode(image.fp)) is not None:
      return pixels
  image = to_rgb(orientation.turned(image))
  if image_size is not None and image.size != (image_size, image_size):
    image = to_square(image, image_size)
  return np.asarray(image)


def read_pixels(file: epath.Path, image_size: int | None = None) -> np.ndarray:
  """Reads a file as uint8 [h, w, 3], a square if `image_size` is given.

  Raises:
    UserError: if it is no image, is damaged, or is too large.
  """
  with opened(file) as image:
    return to_pixels(image, image_size)


def decode(
  content: bytes, image_size: int | None = None, *, name: str
) -> np.ndarray:
  """Reads a file's content as `read_pixels` reads a file; `name` is for errors.

  `codecs.decode_image` is for what this package encoded.
  """
  with opened(content, name) as image:
    return to_pixels(image, image_size)


def read_headers(files: Sequence[epath.Path]) -> list[Header | None]:
  """Reads the size and the orientation of images, and decodes none.

  It is None where reading the image will raise a UserError.
  """

  def read(file):
    with contextlib.suppress(UserError), opened(file) as image:
      return orientation.header(image)

  return in_threads(read, files)


@contextlib.contextmanager
def opened(
  content: epath.Path | bytes, name: Any = None
) -> Iterator[Image.Image]:
  """Opens an image by its header alone: its size and mode are known.

  Args:
    content: a file, or its content.
    name: of the image, and where it is, for errors; by default the file's.

  Raises:
    UserError: if it is no image, has too many pixels for the memory, or pixels
      of no known white; and for what Pillow raises about it in the block.
  """
  name = content if name is None else name
  is_bytes = isinstance(content, bytes)
  with (
    reading(name),
    io.BytesIO(content) if is_bytes else open_file(content) as file,
  ):
    try:
      image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
      file.seek(0)
      if not (start := file.read(16)):
        raise ValueError("it is empty") from None
      raise ValueError(
        f"it is no {', '.join(_FORMATS)} of a known kind, and begins with "
        f"{start!r}"
      ) from None
    with image:
      if image.mode in ("I", "F"):
        raise UserError(
          f"{name} has pixels of 32 bits or with a sign, and it is not known "
          "which is white: save it with 8 or 16 bits, or move it away."
        )
      yield image


def open_file(file: epath.Path) -> BinaryIO:
  """Opens a file to read; an OSError is raised about what is none.

  To read a pipe waits for who writes into it, which may be nobody; `is_file`
  of epath takes it for a file.
  """
  is_local = not buckets.is_bucket(file)
  if is_local and os.path.exists(file) and not os.path.isfile(file):
    raise OSError("it is a folder, a pipe or a device")
  return file.open("rb")


@contextlib.contextmanager
def reading(name: Any, *errors: type[Exception]) -> Iterator[None]:
  """Turns what Pillow raises about a bad image, and `errors`, into a UserError.

  Args:
    name: of the image, and where it is.
    *errors: further ones.
  """
  try:
    yield
  except UserError:
    raise
  except Image.DecompressionBombError as error:
    # Pillow raises it by the header, before it takes the memory.
    sizes = str(error).partition(",")[0]
    raise UserError(
      f"{name} is too large an image ({sizes}): make it smaller, or move it "
      "away."
    ) from error
  except (*BAD_IMAGE, *errors) as error:
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
