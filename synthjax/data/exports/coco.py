"""COCO (Lin et al. 2014): images with boxes, and one JSON file for a split.

`annotations/instances_<split>.json` beside `<split>/<image>.png`. Boxes are
(x, y, width, height) in pixels from 0; categories count from 1, in the order
of the labels. What COCO has no place for stands in fields of our own: `name` of
an image, its id, and `difficult` of an object. `coco_read` opens it.
"""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from synthjax.artifacts import replace
from synthjax.data.encoded import encode_png
from synthjax.data.exports import safe_names
from synthjax.data.rows import Example
from synthjax.errors import UserError


def write(
  folder: epath.PathLike,
  rows: Sequence[Example],
  names: Sequence[str],
  *,
  split: str,
) -> dict[str, int]:
  """Writes images as PNG, those that are not there; and the JSON file at last.

  Args:
    folder: local or gs://.
    rows: of image, boxes, labels, difficult, id and size; see `data.voc`.
    names: of the classes, by label.
    split: of the data set.

  Returns:
    The rows of each file, for the manifest.

  Raises:
    UserError: about a label without a name, or two images of one id.
  """
  folder, written = epath.Path(folder), {}
  images, annotations = [], []
  for i in range(len(rows)):
    row = rows[i]
    file = f"{safe_names.key_of(row['id'])}.png"
    if f"{split}/{file}" in written:
      raise UserError(f"Two images have the id {row['id']!r}.")
    if not (folder / split / file).exists():
      with replace(folder / split, file) as path:
        path.write_bytes(encode_png(row["image"]))
    written[f"{split}/{file}"] = 1
    height, width = (int(side) for side in row["size"])
    about = {"id": i + 1, "file_name": file, "name": row["id"]}
    images.append(about | {"height": height, "width": width})
    for each in _objects(row, names):
      # pycocotools takes an annotation of the id 0 for none.
      own = {"id": len(annotations) + 1, "image_id": i + 1}
      annotations.append(own | each)
  content = {
    "info": {"description": "Scenes composed by synthjax.", "version": "1"},
    "licenses": [],
    "images": images,
    "annotations": annotations,
    "categories": [
      {"id": label + 1, "name": name, "supercategory": ""}
      for label, name in enumerate(names)
    ],
  }
  file = f"annotations/instances_{split}.json"
  with replace(folder, file) as path:
    path.write_text(json.dumps(content) + "\n")
  return written | {file: len(images)}


def _objects(row: Example, names: Sequence[str]) -> list[dict[str, Any]]:
  if unknown := {int(i) for i in row["labels"]} - set(range(len(names))):
    raise UserError(
      f"The image {row['id']!r} has the labels {sorted(unknown)}, but there "
      f"are {len(names)} classes, from 0. Give each label a name."
    )
  objects = []
  for box, label, difficult in zip(
    row["boxes"], row["labels"], row["difficult"], strict=True
  ):
    x0, y0, x1, y1 = (int(v) if v == int(v) else float(v) for v in box)
    objects.append(
      {
        "category_id": int(label) + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "segmentation": [],
        "iscrowd": 0,
        "difficult": int(difficult),
      }
    )
  return objects
