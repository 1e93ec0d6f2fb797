"""The files of PASCAL VOC: detections as text, annotations as XML.

A line of `comp4_det_test_<class>.txt` holds the name of an image, a score with
3 decimals and a box with 1: xmin, ymin, xmax and ymax, inclusive and counted
from 1. These files are what VOC's own tools and its server read. A space in a
name would end the column: it becomes %20, and % becomes %25.
"""

import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.pipeline import image_files, orientation
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


# --- annotations -------------------------------------------------------------
# VOC counts pixels from 1 and includes both ends. Our boxes are edges counted
# from 0: (xmin - 1, ymin - 1, xmax, ymax), so that xmax - xmin is a width.

# Tools that count from 0 pass the border by so many pixels; more is a mistake.
_SLACK = 1
_TO_EDGES = np.array([1, 1, 0, 0], np.float64)  # a corner of VOC less an edge
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
  """The content of an XML file about an image."""

  size: tuple[int, int]  # height and width
  boxes: np.ndarray  # [k, 4] float32, edges in pixels
  names: tuple[str, ...]  # [k], of the classes
  difficult: np.ndarray  # [k] bool
  file: str = ""  # the name of the image, if it says one


def parse(xml: bytes) -> Annotation:
  """Reads an annotation.

  A box that passes the border by at most a pixel is clipped.

  Raises:
    ValueError: with a line for each problem, without the name of the file.
  """
  try:
    root = ElementTree.fromstring(xml)
  except (ElementTree.ParseError, LookupError) as error:
    raise ValueError(f"is no XML ({error})") from None
  width, height = (_number_of(root, f"size/{s}") for s in ("width", "height"))
  if width % 1 or height % 1 or width < 1 or height < 1:
    raise ValueError(f"has an image of {width:g} x {height:g} pixels")
  size, objects = (int(height), int(width)), root.findall("object")
  return Annotation(
    size,
    _to_boxes(
      [[_number_of(x, f"bndbox/{s}") for s in _SIDES] for x in objects],
      size,
    ),
    tuple(_text(x, "name") for x in objects),
    np.array([_flag(x, "difficult") for x in objects], bool),
    (root.findtext("filename") or "").strip(),
  )


def from_tfds(record: Mapping[str, Any], names: Sequence[str]) -> Annotation:
  """Returns what TFDS keeps of an annotation, which is not its file.

  Args:
    record: of TFDS, whose image is not decoded.
    names: of its labels.

  Raises:
    ValueError: as `parse`, or about an image that cannot be read.
  """
  objects = record["objects"]
  with image_files.opened(record["image"], "its image") as image:
    header = orientation.header(image)
  height, width = header.size
  corners = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)
  corners = corners * [height, width, height, width]
  # float32 keeps a pixel of VOC's sizes to 3e-5; annotations that are no whole
  # numbers have one decimal.
  corners = corners.round(4)[:, [1, 0, 3, 2]]
  return Annotation(
    header.shown,
    orientation.turn_boxes(_to_boxes(corners, header.size), header),
    tuple(names[int(label)] for label in objects["label"]),
    np.asarray(objects["is_difficult"], bool),
  )


def _to_boxes(
  corners: Sequence[Sequence[float]], size: tuple[int, int]
) -> np.ndarray:
  """Checks VOC's corners and returns them as edges, [k, 4] float32.

  Args:
    corners: [k, 4] of xmin, ymin, xmax, ymax, from 1, both ends included.
    size: height and width of the image.

  Raises:
    ValueError: with a line for each box that is not finite, ends before it
      starts or lies outside of the image.
  """
  corners = np.asarray(corners, np.float64).reshape(-1, 4)
  boxes, limit = corners - _TO_EDGES, np.array([size[1], size[0]] * 2)
  problems = []
  for number, (corner, box) in enumerate(zip(corners, boxes, strict=True), 1):
    shown = ", ".join(f"{v:g}" for v in corner)
    if not np.isfinite(box).all():
      problem = ", which is not finite"
    elif (box[2:] <= box[:2]).any():
      problem = ", which ends before it starts"
    elif (box < -_SLACK).any() or (box > limit + _SLACK).any():
      problem = f", outside of its image of {size[1]} x {size[0]} pixels"
    else:
      continue
    problems.append(f"object {number} has the box ({shown}){problem}")
  boxes = np.clip(boxes, 0, limit)
  if not problems and (boxes[:, 2:] <= boxes[:, :2]).any():
    problems.append("has a box that lies outside of the image")
  if problems:
    raise ValueError("\n".join(problems))
  return boxes.astype(np.float32)


def _text(parent: ElementTree.Element, path: str) -> str:
  # findtext takes children alone: the parts of a person have boxes as well.
  text = (parent.findtext(path) or "").strip()
  if not text:
    raise ValueError(f"has no <{path}> in <{parent.tag}>")
  return text


def _number_of(parent: ElementTree.Element, path: str) -> float:
  text = _text(parent, path)
  try:
    return float(text)
  except ValueError:
    raise ValueError(f"has {text!r} for <{path}>, which is no number") from None


def _flag(parent: ElementTree.Element, path: str) -> bool:
  """Reads 0 or 1; where it is left out, 0."""
  text = (parent.findtext(path) or "0").strip()
  if text not in ("0", "1"):
    raise ValueError(f"has {text!r} for <{path}>, where 0 or 1 belongs")
  return text == "1"


def to_xml(
  file: str, size: tuple[int, int], objects: Sequence[tuple], *, folder: str
) -> bytes:
  """Writes an annotation; the same arguments give the same bytes.

  Args:
    file: name of the image, such as "000001.jpg".
    size: height and width.
    objects: (class name, box [4] in edges, difficult) of each.
    folder: such as "VOC2007".
  """
  root = ElementTree.Element("annotation")
  _add(root, folder=folder, filename=file)
  _add(
    ElementTree.SubElement(root, "size"), width=size[1], height=size[0], depth=3
  )
  _add(root, segmented=0)
  for name, box, difficult in objects:
    element = ElementTree.SubElement(root, "object")
    _add(element, name=name, pose="Unspecified", truncated=0)
    _add(element, difficult=int(difficult))
    corners = np.asarray(box, np.float64) + _TO_EDGES
    values = [int(v) if v == int(v) else float(v) for v in corners]
    sides = dict(zip(_SIDES, values, strict=True))
    _add(ElementTree.SubElement(element, "bndbox"), **sides)
  ElementTree.indent(root, "\t")
  return ElementTree.tostring(root, encoding="utf-8") + b"\n"


def _add(parent: ElementTree.Element, **fields: object) -> None:
  for name, value in fields.items():
    ElementTree.SubElement(parent, name).text = str(value)
