"""A folder of image files for each class, as Hugging Face's imagefolder reads.

`<split>/<class>/<image>.png`, or `.jpg` or `.webp` where the images are stored
so; `<split>/metadata.jsonl`, a row of file_name, label, class_name, prompt,
seed and id for each image; and README.md, which tells `datasets` the split.
`open_folder` also reads folders without the list.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from synthjax.config.schema import Count
from synthjax.data.formats import export_rows, hub_readme
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Example
from synthjax.labels import class_names, file_names
from synthjax.runtime import file_groups
from synthjax.runtime.atomic import replace, replace_many
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json

METADATA = "metadata.jsonl"
# Names that are taken beside the folders of the classes.
RESERVED = (METADATA, "metadata.csv", "metadata.parquet")


def lists(split: str) -> tuple[str, ...]:
  """Returns the files that list the images, for `artifacts.finish`."""
  return (f"{split}/{METADATA}",)


def write(
  folder: epath.PathLike,
  rows: Sequence[Example],
  names: Sequence[str],
  *,
  split: str,
  keys: Sequence[str],
) -> dict[str, int]:
  """Writes the image files that are not there yet, and then their list.

  Args:
    folder: see `export_rows`, as for the others.
    rows: to export.
    names: of the classes.
    split: the folder that holds those of the classes.
    keys: names of the classes' folders, as far as any system can have them.

  Returns:
    The rows of the list and of README.md; the list names the images.
  """
  folder, seen = epath.Path(folder), np.zeros(len(rows), np.uint64)
  folders = file_names.folder_names(keys, RESERVED)
  [list_file] = lists(split)
  with (
    replace(folder, list_file) as path,
    path.open("w") as metadata,
    replace_many(folder) as write_file,
  ):
    for i in range(len(rows)):
      row = rows[i]
      name = export_rows.class_of(row, names)
      ending = export_rows.ending_of(row["encoded"])
      key = file_names.key_of(row["id"])
      file = f"{folders[row['label']]}/{key}.{ending}"
      seen[i] = file_groups.key_of(file)
      if not (folder / (place := f"{split}/{file}")).exists():
        write_file(place, row["encoded"])
      about = {n: row[n] for n in ("label", "prompt", "seed", "id")}
      about |= {"file_name": file, "class_name": name}
      metadata.write(json.dumps(about, sort_keys=True) + "\n")
    _check_ids(rows, seen)
  readme = hub_readme.write(
    folder, names, split=split, files=f"{split}/**", count=len(rows)
  )
  return {list_file: len(rows)} | readme


def _check_ids(rows: Sequence[Example], keys: np.ndarray) -> None:
  """Raises a UserError if rows with these keys [n] of files share an id."""
  order = np.argsort(keys, kind="stable")
  same = np.flatnonzero(np.diff(keys[order]) == 0)
  for one, other in zip(order[same], order[same + 1], strict=True):
    if rows[int(one)]["id"] == (image_id := rows[int(other)]["id"]):
      raise UserError(f"Two images have the id {image_id!r}.")


def open_folder(
  path: epath.PathLike,
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
  complete: bool = True,
) -> Labelled:
  """Opens a folder that holds one folder of image files for each class.

  Args:
    path: local or gs://.
    classes: name of each class folder -> label; by default those of
      `class_folders`. Labels never follow from the order of folders, which
      changes with each class that is added.
    image_size: crops and resizes the images to squares of this side.
    space: the label space.
    complete: whether each class must have a folder, and each folder be that of
      a class. If not, images in folders of no class get NO_CLASS; see
      `class_names.check`.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str, which is
    the path below `path`, or what metadata.jsonl says. Rows are sorted by
    folder and file name.

  Raises:
    UserError: listing every folder that is missing, empty, or in no class. A
      file that is no image is reported when its row is read. What is hidden,
      left by a system or not named as an image is passed over, with a warning.
  """
  if classes is None:
    classes = class_folders(space)
  path = epath.Path(path).expanduser()
  if not path.is_dir():
    raise UserError(f"There is no folder {path} of class folders.")
  folders, left_out = [], []
  for entry in path.iterdir():
    # Whatever the name of a class is.
    if entry.name not in classes and image_files.is_leftover(entry.name):
      left_out.append(entry.name)
    elif entry.is_dir():
      folders.append(entry.name)
    elif image_files.is_image(entry):
      left_out.append(entry.name)
  labels_of = class_names.resolve(folders, classes)
  named = {label: name for name, label in reversed(classes.items())}
  unknown = sorted(n for n, label in labels_of.items() if label is None)
  problems = []
  if complete:
    problems += [class_names.no_class(name, classes) for name in unknown]
    problems += [
      f"{name}: there is no such folder"
      for label, name in named.items()
      if label not in labels_of.values()
    ]
  else:
    class_names.check(
      classes, unknown, labels_of.values(), where=str(path), complete=False
    )
  files, labels = [], []
  for name, label in sorted(labels_of.items()):
    if complete and label is None:
      continue
    images = image_files.list_images(path, name, left_out)
    files += images
    labels += [class_names.NO_CLASS if label is None else label] * len(images)
    if not images and label is not None:
      endings = ", ".join(sorted(image_files.ENDINGS))
      others = {
        epath.Path(n).suffix for n in left_out if n.startswith(f"{name}/")
      }
      but = ", ".join(sorted(filter(None, others)))
      but = but and f", but files of {but}: save them as one of these kinds"
      problems.append(f"{name}: holds no image ({endings}){but}")
  if problems:
    listed = "\n  ".join(sorted(problems))
    raise UserError(
      f"{path} does not fit its {len(named)} classes:\n  {listed}"
    )
  image_files.warn_left_out(path, tuple(sorted(left_out)))
  stored = _stored_ids(path)
  ids = [stored.get(file, file) for file in files]
  return image_files.open_files(path, files, labels, image_size, ids)


def class_folders(space: Any) -> dict[str, int]:
  """Returns the names that each class's folder may have -> label.

  They are the class's key, or its name where there is none; and what `write`
  has made of it, which any system can have.
  """
  written = file_names.folder_names(space.keys, RESERVED)
  return {
    name: label
    for names in (space.keys, written)
    for label, name in enumerate(names)
  }


def _stored_ids(path: epath.PathLike) -> Mapping[str, str]:
  """Returns the id of each file that the list of a folder gives one.

  Raises:
    UserError: if the list is damaged.
  """
  path = epath.Path(path).expanduser() / METADATA
  ids: dict[str, str] = {}
  if not path.exists():
    return ids
  lines = path.read_bytes().split(b"\n")
  for number, line in enumerate(lines, start=1):
    try:
      row = parse_json(line, dict) if line.strip() else {}
      if "id" in row:
        ids[str(row["file_name"])] = str(row["id"])
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f"{path}, line {number}, is damaged ({error}): put the file back, or "
        "move it away; the images are then called by their paths."
      ) from error
  return ids
