"""Detections in the text files of PASCAL VOC, one a class.

A line of `comp4_det_test_<class>.txt` holds the name of an image, a score with
3 decimals and a box with 1: xmin, ymin, xmax and ymax, inclusive and counted
from 1. These files are what VOC's own tools and its server read. A space in a
name would end the column: it becomes %20, and % becomes %25.
"""

import urllib.parse
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime import atomic
from synthjax.runtime.errors import UserError

_MAX_LINES = 10  # of an error


class Detections(NamedTuple):
  """The detections in an image, in the order in which ties count."""

  boxes: np.ndarray  # [d, 4] px, (xmin - 1, ymin - 1, xmax, ymax) of VOC
  scores: np.ndarray  # [d]
  labels: np.ndarray  # [d] int


def file_name(class_name: str) -> str:
  return f"comp4_det_test_{class_name}.txt"


def write(
  folder: epath.PathLike,
  detections: Mapping[str, Detections],
  classes: Sequence[str],
) -> dict[str, int]:
  """Writes a file for each class, also for one without detections.

  Args:
    folder: made if it is not there.
    detections: of each image, by its name, such as "000001".
    classes: names of the labels 0, 1, ...

  Returns:
    The number of lines of each file, by its name.
  """
  folder = epath.Path(folder)
  lines: dict[int, list[str]] = {label: [] for label in range(len(classes))}
  for name, detected in detections.items():
    boxes, scores = as_written(detected.boxes, detected.scores)
    rows = zip(
      np.asarray(detected.labels).tolist(),
      scores.tolist(),
      boxes.tolist(),
      strict=True,
    )
    for label, score, (x, y, right, low) in rows:
      lines[label].append(
        f"{_one_word(name)} {score:.3f} {x:.1f} {y:.1f} {right:.1f} {low:.1f}\n"
      )
  folder.mkdir(parents=True, exist_ok=True)
  counts = {}
  for label, class_name in enumerate(classes):
    name = file_name(class_name)
    with atomic.replace(folder, name) as path:
      path.write_text("".join(lines[label]))
    counts[name] = len(lines[label])
  return counts


def _one_word(name: str) -> str:
  """Returns a name as it stands in a column."""
  return "".join(
    urllib.parse.quote(c) if c.isspace() or c == "%" else c for c in name
  )


def read(
  folder: epath.PathLike, classes: Sequence[str], images: Sequence[str]
) -> list[Detections]:
  """Reads the files of `write` or of another detector.

  Args:
    folder: of the files.
    classes: names of the labels 0, 1, ...; each has a file.
    images: names of all images of the test set.

  Returns:
    An entry for each of `images`.

  Raises:
    UserError: listing files that are missing; or, with file and line, lines
      that are cut short, garbled or about an image that is none of `images`.
  """
  folder = epath.Path(folder)
  missing = [n for n in map(file_name, classes) if not (folder / n).exists()]
  if missing:
    raise UserError(
      f"{folder} lacks {', '.join(missing)}: each class needs its file, which "
      "may be empty."
    )
  problems: list[str] = []
  rows: dict[str, list[tuple]] = {name: [] for name in images}
  for label, name in enumerate(map(file_name, classes)):
    text = (folder / name).read_bytes().decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
      try:
        image, score, box = _parse(line, rows)
        rows[image].append((box, score, label))
      except ValueError as error:
        problems.append(f"{folder / name}, line {number}: {error}")
    # A last line that lost its end may still look whole.
    if text and not text.endswith("\n"):
      problems.append(f"{folder / name}, line {number}: it has no end of line")
  if problems:
    more = len(problems) - _MAX_LINES
    shown = problems[:_MAX_LINES] + ([f"... and {more} more"] * (more > 0))
    raise UserError(
      "Cannot read detections. A line must hold the name of an image, a score, "
      "xmin, ymin, xmax and ymax, such as `000001 0.987 48.0 240.5 195.0 371.2`"
      ".\n  " + "\n  ".join(shown)
    )
  return [_pack(rows[name]) for name in images]


def _parse(line: str, images: Container[str]) -> tuple[str, float, list[float]]:
  columns = line.split()
  if len(columns) != 6:
    raise ValueError(f"found {len(columns)} columns of 6 in {line[:60]!r}")
  image = urllib.parse.unquote(columns[0])
  score, *box = map(_number, columns[1:])
  if image not in images:
    raise ValueError(f"found the unknown image {image!r}")
  # VOC counts from 1, our boxes from 0.
  return image, score, [box[0] - 1, box[1] - 1, box[2], box[3]]


def _number(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = np.nan
  if not np.isfinite(value):
    raise ValueError(f"found {text[:20]!r} in place of a number")
  return value


def _pack(rows: Sequence[tuple]) -> Detections:
  boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
  return Detections(
    np.array(boxes, np.float64).reshape(-1, 4),
    np.array(scores, np.float64),
    np.array(labels, np.int64),
  )


# --- boxes and scores as the files hold them --------------------------------


def as_inclusive(boxes: np.ndarray) -> np.ndarray:
  """Returns boxes [n, 4] with VOC's xmin and ymin, which count from 1."""
  return np.asarray(boxes, np.float64).reshape(-1, 4) + [1, 1, 0, 0]


def as_written(
  boxes: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns inclusive boxes [n, 4] and scores [n], rounded as in the files."""
  scores = _round(np.asarray(scores, np.float64), 3)
  return _round(as_inclusive(boxes), 1), scores


def _round(values: np.ndarray, digits: int) -> np.ndarray:
  """Rounds as printing does, by the exact binary value."""
  scaled = values * 10**digits
  rounded = np.rint(scaled) / 10**digits
  # The product above is rounded too, so that near a half it may mislead.
  near = np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5) < 1e-6
  rounded[near] = [round(x, digits) for x in values[near].tolist()]
  return rounded
