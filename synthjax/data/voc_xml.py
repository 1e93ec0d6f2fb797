"""Annotations of PASCAL VOC: the boxes of one image in an XML file.

VOC counts pixels from 1 and includes both ends. Our boxes are edges counted
from 0: (xmin - 1, ymin - 1, xmax, ymax), so that xmax - xmin is a width.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Tools that count from 0 pass the border by so many pixels; more is a mistake.
_SLACK = 1
# What to take off a corner of VOC for an edge.
TO_EDGES = np.array([1, 1, 0, 0], np.float64)


class Annotation(NamedTuple):
  """What an XML file says of its image."""

  size: tuple[int, int]  # height and width
  boxes: np.ndarray  # [k, 4] float32, edges in pixels
  names: tuple[str, ...]  # [k], of the classes
  difficult: np.ndarray  # [k] bool


def parse(xml: bytes) -> Annotation:
  """Reads an annotation.

  A box that passes the border by at most a pixel is clipped.

  Raises:
    ValueError: with a line for each problem, without the name of the file.
  """
  try:
    root = ElementTree.fromstring(xml)
  except ElementTree.ParseError as error:
    raise ValueError(f"is no XML ({error})") from None
  width, height = (_number(root, f"size/{s}") for s in ("width", "height"))
  if width % 1 or height % 1 or width < 1 or height < 1:
    raise ValueError(f"has an image of {width:g} x {height:g} pixels")
  size, objects = (int(height), int(width)), root.findall("object")
  sides = ("xmin", "ymin", "xmax", "ymax")
  corners = [[_number(each, f"bndbox/{s}") for s in sides] for each in objects]
  return Annotation(
    size,
    to_boxes(corners, size),
    tuple(_text(each, "name") for each in objects),
    np.array([_flag(each, "difficult") for each in objects], bool),
  )


def to_boxes(
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
  boxes, limit = corners - TO_EDGES, np.array([size[1], size[0]] * 2)
  problems = []
  for number, (corner, box) in enumerate(zip(corners, boxes, strict=True), 1):
    words = (
      f"object {number} has the box ({', '.join(f'{v:g}' for v in corner)})"
    )
    if not np.isfinite(box).all():
      problems.append(f"{words}, which is not finite")
    elif (box[2:] <= box[:2]).any():
      problems.append(f"{words}, which ends before it starts")
    elif (box < -_SLACK).any() or (box > limit + _SLACK).any():
      problems.append(
        f"{words}, outside of its image of {size[1]} x {size[0]} pixels"
      )
  boxes = np.clip(boxes, 0, limit)
  if not problems and (boxes[:, 2:] <= boxes[:, :2]).any():
    problems.append("has a box of which nothing is inside of the image")
  if problems:
    raise ValueError("\n".join(problems))
  return boxes.astype(np.float32)


def _text(parent: ElementTree.Element, path: str) -> str:
  # findtext takes children alone: the parts of a person have boxes as well.
  text = (parent.findtext(path) or "").strip()
  if not text:
    raise ValueError(f"has no <{path}> in <{parent.tag}>")
  return text


def _number(parent: ElementTree.Element, path: str) -> float:
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
