"""Looks at the files of images before hours are spent on what they hold.

Each header is read, one image of each class is decoded, and what was read gives
the identity of the images. The cache keeps an inspection by the names, sizes
and times of the files, so that the next one only lists them.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.pipeline import image_files, orientation
from synthjax.data.pipeline.rows import Source
from synthjax.runtime import atomic, buckets, cache, specifications
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json
from synthjax.runtime.threads import in_threads

_VERSION = 1  # of an inspection; another one has all files read again
_END = 32 * 1024  # bytes that are read at each end of a file
_DECODING = 4  # threads, each of which may hold a photograph of full size
_SHOWN = 10  # images that an error lists
# How a whole file of a format ends, if nothing was appended to it.
_LAST = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}


def identify(sources: Mapping[str, Source | None]) -> dict[str, Any]:
  """Returns the part of a specification that identifies images in files.

  Images are the same ones if the names of their files below the folder, their
  labels or boxes, their sizes and both ends of each file are. So a folder may
  be moved, copied or unpacked anew, all of which give files other times. Times
  only tell that a file must be read again. To read every byte would take longer
  than many a training.

  Args:
    sources: by the name of the split, such as "test"; None is one that is not
      opened yet.

  Returns:
    {IMAGE_FILES: entries}, where a source that does not name its files has the
    entry None; {} if none of them does.

  Raises:
    UserError: as `inspect`.
  """
  entries = {
    name: None if source is None else inspect(source)
    for name, source in sources.items()
  }
  return {specifications.IMAGE_FILES: entries} if any(entries.values()) else {}


def inspect(source: Source) -> dict[str, Any] | None:
  """Finds out early whether the images of a source can be read.

  One image of each class is decoded, as are all whose header is odd or whose
  file looks cut short. If a source does not name its files, only its first
  image is decoded.

  Returns:
    The `path` of the folder, the number of `files`, and their `sha256`; None if
    the source does not name its files.

  Raises:
    UserError: listing the images that cannot be read.
  """
  files = getattr(source, "files", None)
  if files is None:
    _decode(source, range(min(1, len(source))))
    return None
  folder = os.fspath(files.path)
  about = {"path": folder, "files": len(files.names)}
  paths = [os.path.join(folder, name) for name in files.names]
  # The labels in an archive change with its bytes, and take long to read.
  notes = _notes(source) if files.are_rows else []
  stats = in_threads(_stat, paths)
  listed = _digest([_VERSION, len(source)], paths, stats, notes)
  kept = cache.private_folder() / "inspected" / f"{listed}.json"
  with contextlib.suppress(OSError, ValueError):  # none yet, or damaged
    return about | parse_json(kept.read_bytes(), dict)
  looks = in_threads(_look, paths)
  first: dict[int, int] = {}
  for row, (labels, _) in enumerate(notes or _notes(source)):
    for label in labels:
      first.setdefault(label, row)
  rows = {*first.values()} or {0}
  if files.are_rows:
    sizes = getattr(source, "sizes", np.full((len(looks), 2), -1)).tolist()
    for row, (look, size) in enumerate(zip(looks, sizes, strict=True)):
      if look.is_odd or (size[0] >= 0 and [*look.size] != size):
        rows.add(row)
  _decode(source, sorted(rows))
  ends = [look.ends for look in looks]
  content = {"sha256": _digest(files.names, [s for s, _ in stats], ends, notes)}
  with contextlib.suppress(OSError, UserError):  # the next one reads it anew
    with atomic.replace(kept.parent, kept.name) as path:
      path.write_text(json.dumps(content))
  return about | content


def _notes(source: Source) -> list[tuple[list[int], Any]]:
  """Returns the labels of each row, and all that is known without its image."""
  if hasattr(source, "annotate"):
    rows = map(source.annotate, range(len(source)))
    columns = ("labels", "boxes", "difficult")
    plain = [[row[name].tolist() for name in columns] for row in rows]
    sizes = source.sizes.tolist()
    return [(x[0], [*x, size]) for x, size in zip(plain, sizes, strict=True)]
  labels = source.labels.tolist() if hasattr(source, "labels") else ()
  return [([label], None) for label in labels]


def _stat(path: str) -> tuple[int, float]:
  """Returns the size and the time of a file; -1 if it cannot be found."""
  try:
    if not buckets.is_bucket(path):
      stat = os.stat(path)
      return stat.st_size, stat.st_mtime
    stat = epath.Path(path).stat()
    return stat.length, stat.mtime
  except OSError:
    return -1, 0.0


class _Look(NamedTuple):
  """What the ends of a file show."""

  ends: str  # a hash of them
  is_odd: bool  # it may be no image, or be cut short
  size: tuple[int, int] = (0, 0)  # height and width, turned as viewers do


def _look(path: str) -> _Look:
  digest, file = hashlib.sha256(), epath.Path(path)
  try:
    with image_files.open_file(file) as opened:
      digest.update(opened.read(_END))
      size = opened.seek(0, os.SEEK_END)
      opened.seek(max(0, size - _END))
      digest.update(tail := opened.read())
    with image_files.opened(file) as image:
      is_whole = tail.endswith(_LAST.get(image.format, b""))
      shown = orientation.header(image).shown
    return _Look(digest.hexdigest(), not is_whole, shown)
  except (OSError, UserError):  # the source reads the image, and says it
    return _Look(digest.hexdigest(), True)


def _decode(source: Source, rows: Collection[int]) -> None:
  """Reads rows; raises a UserError about those that cannot be read."""

  def problem(row):
    try:
      source[row]
    except UserError as error:
      return str(error)
    return None

  answers = in_threads(problem, rows, threads=_DECODING)
  if problems := [*filter(None, answers)]:
    more = len(problems) - _SHOWN
    raise UserError(
      *problems[:_SHOWN], *[f"... and {more} more images."] * (more > 0)
    )


def _digest(*columns: Iterable[Any]) -> str:
  digest = hashlib.sha256()
  for column in columns:
    for value in column:
      digest.update(json.dumps(value).encode() + b"\n")
    digest.update(b"\n")
  return digest.hexdigest()
