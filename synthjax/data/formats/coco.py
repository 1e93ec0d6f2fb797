"""COCO (Lin et al. 2014): images with boxes, and one JSON file for a split.

`annotations/instances_<split>.json` beside `<split>/<image>.png`. Boxes are
(x, y, width, height) in pixels from 0; categories count from 1, in the order
of the labels. Two fields are ours, as COCO has no place for them: `name` of an
image, which is its id, and `difficult` of an object.

Images come as viewers show them, and the boxes with them: an image that EXIF
turns has the boxes of its stored pixels turned.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from synthjax.config.schema import Count
from synthjax.data.formats import export_rows
from synthjax.data.pipeline import image_files, orientation
from synthjax.data.pipeline.codecs import encode_png
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Detection, Example, Files
from synthjax.labels import class_names, file_names
from synthjax.runtime.atomic import replace, replace_many
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json


def write(
  folder: epath.PathLike,
  rows: Sequence[Example],
  names: Sequence[str],
  *,
  split: str,
) -> dict[str, int]:
  """Writes the images, as PNG, that are not there yet; the JSON file at last.

  Args:
    folder: see `export_rows`, as for the names.
    rows: of image, boxes, labels, difficult, id and size; see `detection.voc`.
    names: of the classes.
    split: of the data set.
  """
  folder, written = epath.Path(folder), {}
  images, annotations = [], []
  with replace_many(folder) as write_file:
    for i in range(len(rows)):
      row = rows[i]
      file = f"{file_names.key_of(row['id'])}.png"
      content = functools.partial(encode_png, row["image"])
      export_rows.write_image(
        folder, f"{split}/{file}", row["id"], content, written, write_file
      )
      height, width = (int(side) for side in row["size"])
      about = {"id": i + 1, "file_name": file, "name": row["id"]}
      images.append(about | {"height": height, "width": width})
      for fields in _objects(row, names):
        # pycocotools takes an annotation of the id 0 for none.
        ids = {"id": len(annotations) + 1, "image_id": i + 1}
        annotations.append(ids | fields)
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


# --- opening ----------------------------------------------------------------

_SLACK = 1  # pixels that a box may pass the border by, which clips it
# What each entry of a list must have.
_NEEDED = {
  "images": ("id", "file_name", "height", "width"),
  "annotations": ("image_id", "category_id", "bbox"),
  "categories": ("id", "name"),
}
_IDS = {"id", "image_id", "category_id"}  # which may be texts
_UNMARKED = (None, 0, "", "0")  # also by programs that write all as texts


def open_coco(
  path: epath.PathLike,
  split: str,
  classes: Mapping[str, int],
  drop_empty: bool = False,
) -> Detection:
  """Opens images with the boxes of COCO's instances.

  Crowds come as difficult, which evaluation passes over likewise. Boxes without
  an area, of which COCO has some, are left out with a warning.

  Args:
    path: of the folder that holds `annotations` and the images' folder.
    split: such as "val2017": the images lie in the folder of this name, and
      their boxes in `annotations/instances_<split>.json`.
    classes: name of a category -> label.
    drop_empty: leaves out images without an object, as training does.

  Returns:
    A source of the rows of `detection.voc`. The id is `name` of an image, or
    the name of its file without the ending.

  Raises:
    UserError: listing the images that are missing, the categories of no class,
      and the problems of any entry. A damaged image is reported when its row
      is read.
  """
  path = epath.Path(path).expanduser()
  file, folder = path / "annotations" / f"instances_{split}.json", path / split
  return open_instances(file, classes, drop_empty, folder=folder)


def open_instances(
  file: epath.PathLike,
  classes: Mapping[str, int],
  drop_empty: bool = False,
  *,
  folder: epath.PathLike | None = None,
  complete: bool = True,
) -> Detection:
  """Opens images by a file of COCO's instances.

  Args:
    file: of JSON.
    classes: see `open_coco`, as for `drop_empty`.
    drop_empty: leaves out images without an object.
    folder: of the images; by default that of `images_of`.
    complete: if not, objects of categories of no class are left out; see
      `class_names.check`.

  Raises:
    UserError: as `open_coco`.
  """
  file = epath.Path(file).expanduser()
  folder, notes, objects = _read_file(file, folder, classes, complete)
  kept = [i for i in notes if objects[i] or not drop_empty]
  if not kept:
    raise UserError(f"{file} has no image left to read.")
  files = Files(folder, [notes[i].pop("file") for i in kept], are_rows=True)
  headers = image_files.read_headers([folder / name for name in files.names])
  rows = [
    orientation.as_shown(notes[i] | _columns(objects[i]), header)
    for i, header in zip(kept, headers, strict=True)
  ]
  return Detection(
    size=len(rows),
    read=functools.partial(_read, rows, files),
    annotate=functools.partial(_item, rows),
    sizes=np.array([row["size"] for row in rows], np.int32),
    max_objects=max(1, *(len(row["labels"]) for row in rows)),
    files=files,
  )


def is_coco(file: epath.Path) -> bool:
  """Returns whether a JSON file has the lists of COCO's instances."""
  try:
    content = parse_json(file.read_bytes())
  except (OSError, ValueError):
    return False
  return isinstance(content, dict) and _NEEDED.keys() <= content.keys()


def open_labelled(
  file: epath.PathLike,
  classes: Mapping[str, int],
  image_size: Count | None = None,
  *,
  complete: bool = True,
) -> Labelled:
  """Opens images whose objects are all of one class, as images of that class.

  Args:
    file: of JSON.
    classes: name of a category -> label.
    image_size: crops and resizes the images to squares of this side.
    complete: if not, images without a class, and of several, get NO_CLASS.

  Raises:
    UserError: as `open_coco`; or listing images that have no class.
  """
  file = epath.Path(file).expanduser()
  folder, notes, objects = _read_file(file, None, classes, complete)
  labels, problems = [], []
  for number, note in notes.items():
    found = sorted({label for _, label, _ in objects[number]})
    labels.append(found[0] if len(found) == 1 else class_names.NO_CLASS)
    if len(found) != 1:
      problems.append(f"{note['file']}: has objects of {len(found)} classes")
  class_names.raise_problems(
    problems if complete else [],
    f"{file} cannot be opened as images of one class each",
    "Leave these images out.",
  )
  files = [note["file"] for note in notes.values()]
  return image_files.open_files(folder, files, labels, image_size)


def images_of(file: epath.Path, names: Sequence[str]) -> epath.Path:
  """Returns the folder that holds the images of a JSON file, or most of them.

  It is the file's own, or `images` or one called as the file's split in that
  folder or the one above, or that one itself.
  """
  split = file.stem.removeprefix("instances_")
  near = [file.parent, file.parent.parent]
  folders = [
    above / name for above in near for name in ("", "images", split)
  ] + [file.parent.parent / "images" / split]
  folders = [folder for folder in folders if folder.is_dir()]
  return min(folders, key=lambda f: len(image_files.absent(f, names)))


def _read_file(
  file: epath.Path,
  folder: epath.PathLike | None,
  classes: Mapping[str, int],
  complete: bool,
) -> tuple[epath.Path, dict[Any, dict[str, Any]], dict[Any, list[tuple]]]:
  """Returns the folder of the images, their notes, and their objects."""
  problems: list[str] = []
  content = _load(file, problems)
  notes = _images(content["images"], problems)
  files = [note["file"] for note in notes.values()]
  folder = images_of(file, files) if folder is None else epath.Path(folder)
  missing = sorted(image_files.absent(folder, files))
  problems += [f"{folder / name}: is not there" for name in missing]
  objects, unknown = _read_objects(content, notes, classes, problems)
  if complete:
    problems += [
      f"category {class_names.no_class(name, classes)}" for name in unknown
    ]
  class_names.raise_problems(
    problems,
    f"{file} cannot be opened as COCO",
    "Correct these entries, or copy the files again; objects of another label "
    "space need its classes.",
  )
  if not complete:
    labels = [label for rows in objects.values() for _, label, _ in rows]
    class_names.check(classes, unknown, labels, where=str(file), complete=False)
  return folder, notes, objects


def _load(file: epath.Path, problems: list[str]) -> dict[str, list[dict]]:
  """Returns the lists of a file, without the entries that lack something."""
  if not file.exists():
    raise UserError(f"{file} is not there: `path` or `split` is another one.")
  try:
    content = parse_json(file.read_bytes())
  except ValueError as error:
    raise UserError(f"{file} is damaged ({error}): copy it again.") from error
  lists = {
    name: content.get(name) if isinstance(content, dict) else None
    for name in _NEEDED
  }
  if lacking := [n for n, rows in lists.items() if not isinstance(rows, list)]:
    raise UserError(
      f"{file} lacks the lists {', '.join(lacking)}: it is no file of COCO's "
      "instances."
    )
  for name, entries in lists.items():
    complete = []
    for number, entry in enumerate(entries):
      fields = entry.keys() if isinstance(entry, dict) else ()
      if missing := [field for field in _NEEDED[name] if field not in fields]:
        problems.append(f"{name}[{number}]: lacks {', '.join(missing)}")
      elif odd := [
        f"the {field} {entry[field]!r:.60}"
        for field in _IDS & fields
        if not isinstance(entry[field], int | float | str)
      ]:
        problems.append(f"{name}[{number}]: has {', '.join(sorted(odd))}")
      else:
        complete.append(entry)
    lists[name] = complete
  return lists


def _images(
  entries: Sequence[dict], problems: list[str]
) -> dict[Any, dict[str, Any]]:
  """Returns file, id and size of each image, by COCO's number."""
  notes, names = {}, set()
  for entry in entries:
    file, sides = str(entry["file_name"]), (entry["height"], entry["width"])
    name = str(entry.get("name") or file.rsplit(".", 1)[0])
    wrong = []
    if not file_names.is_inside(file):
      wrong.append(f"has the file_name {file!r}, which leads elsewhere")
    if not all(isinstance(side, int) and side > 0 for side in sides):
      wrong.append(f"has {sides[1]} x {sides[0]} pixels")
    if entry["id"] in notes or name in names:
      wrong.append("is there twice")
    problems += [f"image {entry['id']} ({name}): {line}" for line in wrong]
    if not wrong:
      names.add(name)
      notes[entry["id"]] = {"file": file, "id": name, "size": sides}
  return notes


def _read_objects(
  content: Mapping[str, Sequence[dict]],
  notes: Mapping[Any, dict[str, Any]],
  classes: Mapping[str, int],
  problems: list[str],
) -> tuple[dict[Any, list[tuple]], list[str]]:
  """Returns (box, label, difficult) of each image's objects, and odd names."""
  names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
  labels_of = class_names.resolve(names.values(), classes)
  unknown: dict[str, None] = {}
  objects: dict[Any, list[tuple]] = {number: [] for number in notes}
  for entry in content["annotations"]:
    name, image = names.get(entry["category_id"]), entry["image_id"]
    if image not in notes:
      wrong = f"is of the image {image}, which is not listed"
    elif name is None:
      wrong = f"is of the category {entry['category_id']}, which is not listed"
    else:
      box, wrong = _box(entry["bbox"], *notes[image]["size"])
    if wrong:
      problems.append(f"annotation {entry.get('id')}: {wrong}")
    elif labels_of[name] is None:
      unknown[name] = None
    elif box[2] <= box[0] or box[3] <= box[1]:
      logging.warning("COCO: annotation %s has no area.", entry.get("id"))
    else:
      marks = (entry.get("iscrowd"), entry.get("difficult"))
      difficult = any(mark not in _UNMARKED for mark in marks)
      objects[image].append((box, labels_of[name], difficult))
  return objects, [*unknown]


def _box(bbox: Any, height: int, width: int) -> tuple[list[float], str]:
  """Returns the edges of a box, and what is wrong with it."""
  try:
    x, y, w, h = (float(side) for side in bbox)
  except (TypeError, ValueError, OverflowError):
    return [], f"has the bbox {bbox!r:.60}, which is not four numbers"
  if not all(map(math.isfinite, (x, y, w, h))) or min(w, h) < 0:
    return [], f"has the bbox {bbox!r}, which is no rectangle"
  x1, y1 = x + w, y + h
  if min(x, y) < -_SLACK or x1 > width + _SLACK or y1 > height + _SLACK:
    return [], f"has the bbox {bbox!r}, outside of {width} x {height} pixels"
  return [max(x, 0), max(y, 0), min(x1, width), min(y1, height)], ""


def _columns(objects: Sequence[tuple]) -> Example:
  boxes = np.array([box for box, _, _ in objects], np.float32)
  return {
    "boxes": boxes.reshape(-1, 4),
    "labels": np.array([label for _, label, _ in objects], np.int32),
    "difficult": np.array([passed for _, _, passed in objects], bool),
  }


def _item(rows: Sequence[Example], index: int) -> Example:
  return dict(rows[index])


def _read(rows: Sequence[Example], files: Files, index: int) -> Example:
  row, file = rows[index], files.path / files.names[index]
  pixels = image_files.read_pixels(file)
  if pixels.shape[:2] != row["size"]:
    raise UserError(
      f"{file} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but its "
      f"annotations are of {row['size'][1]} x {row['size'][0]}: they belong to "
      "another image."
    )
  return row | {"image": pixels}
