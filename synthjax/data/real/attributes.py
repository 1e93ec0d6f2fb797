"""Background and pose of real images: what they show beside their class.

BOB (2025, arXiv 2510.24078) learns from captions of few images that say both,
and draws each class with those of all classes, so that neither goes with a
class.
"""

import csv
import functools
import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.pipeline.rows import Example
from synthjax.embedded.world import STYLE_WORDS
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json, read_text
from synthjax.weights import files

MEASURED = "measured"  # in place of a file, of the embedded images

# The colours that backgrounds are called by; RGB.
COLOURS = {
  "white": (255, 255, 255),
  "black": (0, 0, 0),
  "grey": (128, 128, 128),
  "red": (215, 45, 45),
  "orange": (240, 140, 40),
  "yellow": (245, 215, 60),
  "green": (80, 165, 70),
  "blue": (60, 120, 210),
  "purple": (140, 80, 170),
  "pink": (240, 150, 185),
  "brown": (120, 80, 50),
}
_COLUMNS = ("image", "background", "pose")


class Attributes(NamedTuple):
  """What a caption says beside the class; either may be empty."""

  background: str
  pose: str


def caption(text: str, attributes: Attributes) -> str:
  """Adds attributes to a prompt of a class: "a photo of a cat, a sofa, asleep".

  As BOB has it, the background comes first.
  """
  return ", ".join(filter(None, (text, *attributes)))


def open_attributes(place: str) -> Callable[[Example], Attributes]:
  """Returns a function of an example of real images.

  Args:
    place: a file, see `read`, or MEASURED.

  Raises:
    UserError: as `read`. The function raises it about an example that the file
      has not, or that is no embedded one.
  """
  if place == MEASURED:
    return measure
  return functools.partial(_look_up, read(place), place)


def identify(place: str) -> str:
  """Returns what identifies the attributes of a place: the file's hash."""
  return place if place == MEASURED else files.sha256(epath.Path(place))


def read(place: str) -> dict[str, Attributes]:
  """Reads the attributes of images by their ids.

  Args:
    place: JSON lines, or CSV with a header (`.csv`), of `image`, its id or the
      name of its file, `background` and `pose`.

  Raises:
    UserError: if there is no such file, or listing every line that is wrong.
  """
  text, rows, problems = read_text(place), {}, []
  if place.endswith(".csv"):
    lines = [*csv.DictReader(io.StringIO(text))]
    first = 2
  else:
    lines, first = text.splitlines(), 1
  for number, line in enumerate(lines, start=first):
    if isinstance(line, str) and not line.strip():
      continue
    try:
      row = parse_json(line, dict) if isinstance(line, str) else line
      image, *values = (row[name] for name in _COLUMNS)
      if not all(isinstance(x, str) for x in (image, *values)):
        raise ValueError("image, background and pose must be texts")
      values = [" ".join(value.split()).strip(".,") for value in values]
      if not any(values):
        raise ValueError("neither a background nor a pose")
      rows[image] = Attributes(*values)
    except KeyError as error:
      problems.append(f"line {number}: no {error}")
    except ValueError as error:
      problems.append(f"line {number}: {error}")
  if problems or not rows:
    listed = "\n  ".join(problems[:20] or ["no line"])
    raise UserError(
      f"{place}: each line needs an image, its background and its pose:\n"
      f"  {listed}"
    )
  return rows


def _look_up(
  rows: Mapping[str, Attributes], place: str, example: Example
) -> Attributes:
  image = str(example.get("id"))
  for name in (image, image.rpartition("/")[2]):
    if name in rows:
      return rows[name]
  raise UserError(
    f"{place} says nothing of the image {image!r}, which is a shot: add a line "
    "with its background and its pose."
  )


def measure(example: Mapping[str, Any]) -> Attributes:
  """Describes an embedded drawing, by its style in place of a pose.

  The background is the colour that is nearest to the median of the border.
  """
  words = STYLE_WORDS.get(example.get("style"))
  if words is None:
    raise UserError(
      f"attributes={MEASURED!r} is of the embedded drawings that are trained "
      "on: give a file with the background and the pose of each image."
    )
  image = np.asarray(example["image"])
  edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
  off = np.array([*COLOURS.values()]) - np.median(edge, axis=0)
  colour = [*COLOURS][int(np.square(off).sum(1).argmin())]
  return Attributes(f"{colour} background", words[0])
