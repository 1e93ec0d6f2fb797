"""Annotations of PASCAL VOC: the XML about one image, read and written.

VOC counts pixels from 1 and includes both ends. Our boxes are edges counted
from 0: (xmin - 1, ymin - 1, xmax, ymax), so that xmax - xmin is a width.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from synthjax.data.pipeline import image_files, orientation

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
  width, height = (_number(root, f"size/{s}") for s in ("width", "height"))
  if width % 1 or height % 1 or width < 1 or height < 1:
    raise ValueError(f"has an image of {width:g} x {height:g} pixels")
  size, objects = (int(height), int(width)), root.findall("object")
  return Annotation(
    size,
    _to_boxes(
      [[_number(x, f"bndbox/{s}") for s in _SIDES] for x in objects], size
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
