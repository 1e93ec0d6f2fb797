"""Detections of some test images: read, judged, and drawn over them as SVG."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.pipeline.codecs import shrink
from synthjax.detection import average_precision
from synthjax.report import charts, checked_files
from synthjax.report.checked_files import number
from synthjax.report.summaries import dicts

LEAST_SCORE = 0.3  # of a detection that is drawn
_MAX_IMAGES = 4
_MAX_DRAWN = 20  # detections of an image
_SIDE = 480  # px, of the images in the page
_PIXELS = 128  # px; images up to here are enlarged without smoothing
_FILE = re.compile(r"examples/(.+)-(\d+)\.json")
_LETTER, _LINE = 6.6, 15  # px, of a name beside a box
_MARKS = {"right": "✓", "wrong": "✗", "ignored": "○"}
KINDS = {"right": "c0", "wrong": "c1", "ignored": "c2"}  # of the page's style


class Box(NamedTuple):
  """A detection, or an object where there is no score."""

  box: tuple[float, float, float, float]  # px, (left, top, right, bottom)
  label: str
  score: float | None
  verdict: str  # of KINDS; of an object "difficult" or ""


class Example(NamedTuple):
  """A test image and what a detector found in it."""

  init: str  # the detector's first weights
  index: int  # of the image
  size: tuple[float, float]  # px, height and width that the boxes are of
  mime: str
  data: bytes
  pixels: bool  # small: shown as squares
  found: Sequence[Box]  # the highest score first
  truth: Sequence[Box]


def choose(
  workdir: epath.PathLike, states: Mapping[str, dict]
) -> list[Example]:
  """Reads the examples of `detect`: the first images that most detectors have.

  Args:
    workdir: of the run.
    states: of its tasks, as by `reading.task_states`.

  Raises:
    UserError: naming a file that is not what the task wrote.
  """
  if states["detect"]["state"] != "complete":
    return []
  files, indices = states["detect"]["files"], {}
  for match in filter(None, map(_FILE.fullmatch, files)):
    indices.setdefault(int(match[2]), []).append(match[1])
  order = sorted(indices, key=lambda i: (-len(indices[i]), i))
  folder = epath.Path(workdir) / "detect"
  return [
    _read(folder, init, index, files)
    for index in sorted(order[:_MAX_IMAGES])
    for init in indices[index]
  ]


def _read(folder: epath.Path, init: str, index: int, files: Mapping) -> Example:
  name = f"examples/{init}-{index}"
  content = checked_files.read_json(folder, f"{name}.json", files)
  image = checked_files.read_image(folder, f"{name}.png", files)
  size = [number(x) for x in content.get("size") or ()]
  if len(size) != 2 or not all(size):
    size = image.shape[:2]
  found = _boxes(content.get("detections"))
  found.sort(key=lambda box: -(box.score or 0))
  truth = _boxes(content.get("truth"))
  return Example(
    init,
    index,
    (size[0], size[1]),
    *shrink(image, _SIDE),
    max(image.shape[:2]) <= _PIXELS,
    _judge(found, truth),
    truth,
  )


def _boxes(rows: Any) -> list[Box]:
  """Reads the boxes that are whole."""
  boxes = []
  for row in dicts(rows):
    box = [number(x) for x in row.get("box") or ()]
    if len(box) == 4 and None not in box:
      word = "difficult" if row.get("difficult") else ""
      score = number(row.get("score"))
      boxes.append(Box(tuple(box), str(row.get("label")), score, word))
  return boxes


def _judge(found: Sequence[Box], truth: Sequence[Box]) -> list[Box]:
  names = sorted({box.label for box in [*found, *truth]})
  labels = lambda boxes: np.array([names.index(b.label) for b in boxes], int)
  corners = lambda boxes: np.array([b.box for b in boxes]).reshape(-1, 4)
  words = average_precision.verdicts(
    average_precision.Detections(
      corners(found), np.array([b.score or 0.0 for b in found]), labels(found)
    ),
    average_precision.Truth(
      corners(truth),
      labels(truth),
      np.array([b.verdict == "difficult" for b in truth], bool),
    ),
  )
  return [b._replace(verdict=w) for b, w in zip(found, words, strict=True)]


# --- drawing ----------------------------------------------------------------


def drawn(example: Example) -> list[Box]:
  """Returns the detections that are shown: those of high scores."""
  sure = [box for box in example.found if (box.score or 0) >= LEAST_SCORE]
  return sure[:_MAX_DRAWN]


def draw(example: Example, image: str) -> str:
  """Draws an example; `image` is the SVG of its image, or a link to it."""
  high, wide = example.size
  scale = charts.WIDTH / max(wide, high)
  width, height = scale * wide, scale * high
  shown = drawn(example)
  parts = [f'<g transform="scale({scale:.6g})">{image}</g>']
  for box in example.truth:
    path = _outline(box, scale)
    parts.append(f'<path class="halo" d="{path}"/>')
    parts.append(f'<path class="truth" d="{path}"/>')
  # The surest lies on top.
  for box in reversed(shown):
    path, kind = _outline(box, scale), KINDS[box.verdict]
    parts.append(f'<path class="halo" d="{path}"/>')
    parts.append(
      f'<path class="{kind} line" d="{path}">'
      f"<title>{escape(words(box))}</title></path>"
    )
  parts += [_truth_name(box, scale, width, height) for box in example.truth]
  parts += _tags(shown, scale, width, height)
  listed = "; ".join(words(box) for box in shown) or "nothing"
  objects = ", ".join(words(box) for box in example.truth) or "none"
  label = f"{example.init} found {listed}. Objects: {objects}."
  kind = "boxes pixels" if example.pixels else "boxes"
  return (
    f'<svg class="{kind}" viewBox="0 0 {width:.1f} {height:.1f}" '
    'preserveAspectRatio="xMinYMin" role="img" '
    f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
  )


def image_of(example: Example, name: str) -> str:
  """Returns the image as SVG; `name` is an id for links to it."""
  high, wide = example.size
  code = base64.b64encode(example.data).decode()
  return (
    f'<image id="{name}" width="{wide:g}" height="{high:g}" '
    f'preserveAspectRatio="none" href="data:{example.mime};base64,{code}"/>'
  )


def words(box: Box) -> str:
  """Writes a detection or an object as a few words."""
  score = "" if box.score is None else f" {box.score:.2f}"
  return f"{box.label}{score}" + (f" ({box.verdict})" if box.verdict else "")


def _outline(box: Box, scale: float) -> str:
  left, top, right, low = (scale * x for x in box.box)
  return f"M{left:.1f} {top:.1f}H{right:.1f}V{low:.1f}H{left:.1f}Z"


def _truth_name(box: Box, scale: float, width: float, height: float) -> str:
  """Writes the class of an object into its lower right corner."""
  x = min(scale * box.box[2], width) - 4
  y = min(scale * box.box[3], height) - 4
  text = box.label + (", difficult" if box.verdict else "")
  return (
    f'<text class="named" x="{x:.1f}" y="{y:.1f}" text-anchor="end">'
    f"{escape(charts.cut(text, 22))}</text>"
  )


def _tags(
  boxes: Sequence[Box], scale: float, width: float, height: float
) -> list[str]:
  """Writes class and score above each box, where no other is written."""
  parts, taken = [], []
  for box in boxes:
    text = f"{_MARKS[box.verdict]} {charts.cut(box.label, 18)} {box.score:.2f}"
    size = _LETTER * len(text) + 6
    x = min(max(scale * box.box[0] - 1, 0), max(width - size, 0))
    y = scale * box.box[1] - _LINE
    y = start = min(max(y, 0), height - _LINE)
    beside = [at for at, a, b in taken if a < x + size and x < b]
    while any(abs(y - other) < _LINE for other in beside):
      y += 1
      if y > height - _LINE:  # no room: it lies on another one
        y = start
        break
    taken.append((y, x, x + size))
    parts.append(
      f'<rect class="{KINDS[box.verdict]} fill" x="{x:.1f}" y="{y:.1f}" '
      f'width="{size:.1f}" height="{_LINE}"/>'
      f'<text class="on" x="{x + 3:.1f}" y="{y + 11:.1f}" '
      f'textLength="{size - 6:.1f}" lengthAdjust="spacingAndGlyphs">'
      f"{escape(text)}</text>"
    )
  return parts
