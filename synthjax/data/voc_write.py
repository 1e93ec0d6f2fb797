"""Writes images with boxes in the layout of PASCAL VOC."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath
from PIL import Image

from synthjax import atomic
from synthjax.data.rows import Example
from synthjax.data.voc_xml import TO_EDGES
from synthjax.errors import UserError


def write_voc(
  path: epath.PathLike,
  rows: Iterable[Example],
  classes: Sequence[str],
  *,
  year: str = "2007",
  split: str = "trainval",
  quality: int = 95,
) -> int:
  """Writes rows in the layout of VOC: VOCdevkit/VOC2007/JPEGImages, ...

  Each file appears when it is whole, and the list of the split, without which
  nothing is read, comes last.

  Args:
    path: of the folder that gets VOCdevkit.
    rows: as those of `voc`; boxes come back as they are, images as JPEG.
    classes: name of each label, as annotations will hold it.
    year: of the folder.
    split: of the list.
    quality: of the JPEGs.

  Returns:
    The number of images.

  Raises:
    UserError: about an id that can be no file's name, or one that was there
      before, or a label without a name.
  """
  folder = epath.Path(path).expanduser() / "VOCdevkit" / f"VOC{year}"
  ids: dict[str, None] = {}
  for row in rows:
    name = row["id"]
    if len(name.split()) != 1 or "/" in name or name in ids:
      raise UserError(
        f"{name!r} cannot be the name of an image's file: it must be one word "
        "without a slash, and of one image only. Give the rows other ids."
      )
    ids[name] = None
    if unknown := {int(i) for i in row["labels"]} - set(range(len(classes))):
      raise UserError(
        f"The image {name!r} has the labels {sorted(unknown)}, but there are "
        f"{len(classes)} classes, from 0. Give each label a name."
      )
    with atomic.replace(folder, f"JPEGImages/{name}.jpg") as file:
      Image.fromarray(row["image"]).save(file, "JPEG", quality=quality)
    objects = [
      (classes[label], box, difficult)
      for label, box, difficult in zip(
        row["labels"], row["boxes"], row["difficult"], strict=True
      )
    ]
    size = row["image"].shape[:2]
    xml = _to_xml(f"{name}.jpg", size, objects, folder=f"VOC{year}")
    with atomic.replace(folder, f"Annotations/{name}.xml") as file:
      file.write_bytes(xml)
  with atomic.replace(folder, f"ImageSets/Main/{split}.txt") as file:
    file.write_text("".join(f"{name}\n" for name in ids))
  return len(ids)


def _to_xml(
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
    each = ElementTree.SubElement(root, "object")
    _add(each, name=name, pose="Unspecified", truncated=0)
    _add(each, difficult=int(difficult))
    corners = np.asarray(box, np.float64) + TO_EDGES
    values = [int(v) if v == int(v) else float(v) for v in corners]
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True))
    _add(ElementTree.SubElement(each, "bndbox"), **sides)
  ElementTree.indent(root, "\t")
  return ElementTree.tostring(root, encoding="utf-8") + b"\n"


def _add(parent: ElementTree.Element, **fields: object) -> None:
  for name, value in fields.items():
    ElementTree.SubElement(parent, name).text = str(value)
