"""A folder of image files for each class, as Hugging Face's imagefolder reads.

`<split>/<class>/<image>.png`, or `.jpg` or `.webp` where the images are stored
so; and `<split>/metadata.jsonl`, a row of file_name, label, class_name, prompt,
seed and id for each image. Opened by the source "folder".
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from synthjax.data.formats import export_rows
from synthjax.data.pipeline.rows import Example
from synthjax.labels import file_names
from synthjax.runtime.artifacts import replace
from synthjax.runtime.errors import UserError

METADATA = "metadata.jsonl"
# Names that are taken beside the folders of the classes.
RESERVED = (METADATA, "metadata.csv")


def write(
  folder: epath.PathLike,
  rows: Sequence[Example],
  names: Sequence[str],
  *,
  split: str,
  keys: Sequence[str],
) -> dict[str, int]:
  """Writes image files, those that are not there; and their list at last.

  Args:
    folder: local or gs://.
    rows: of `stored.rows`.
    names: of the classes, by label.
    split: the folder that holds those of the classes.
    keys: what the classes' folders are called, as far as they can be.

  Returns:
    The rows of each file, for the manifest.

  Raises:
    UserError: about a label without a name, or two images of one id.
  """
  folder, written = epath.Path(folder) / split, {}
  folders = file_names.folder_names(keys, RESERVED)
  with replace(folder, METADATA) as path, path.open("w") as metadata:
    for i in range(len(rows)):
      row = rows[i]
      name = export_rows.class_of(row, names)
      ending = export_rows.ending_of(row["encoded"])
      key = file_names.key_of(row["id"])
      file = f"{folders[row['label']]}/{key}.{ending}"
      if file in written:
        raise UserError(f"Two images have the id {row['id']!r}.")
      written[file] = 1
      if not (folder / file).exists():
        with replace(folder, file) as image:
          image.write_bytes(row["encoded"])
      about = {n: row[n] for n in ("label", "prompt", "seed", "id")}
      about |= {"file_name": file, "class_name": name}
      metadata.write(json.dumps(about, sort_keys=True) + "\n")
  written[METADATA] = len(rows)
  return {f"{split}/{file}": count for file, count in written.items()}


def class_folders(path: epath.PathLike, space: Any) -> dict[str, int]:
  """Returns the name of each class's folder -> label.

  It is the class's key, or its name where there is none; or what `write` has
  made of that for any system to have it.
  """
  keys = [each.key or each.name for each in space.classes]
  path = epath.Path(path).expanduser()
  there = {each.name for each in path.iterdir()} if path.is_dir() else set()
  safe = file_names.folder_names(keys, RESERVED)
  return {
    (name if name in there and key not in there else key): label
    for label, (key, name) in enumerate(zip(keys, safe, strict=True))
  }


def stored_ids(path: epath.PathLike) -> Mapping[str, str]:
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
      row = json.loads(line) if line.strip() else {}
      if "id" in row:
        ids[str(row["file_name"])] = str(row["id"])
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f"{path}, line {number}, is damaged ({error}): put the file back, or "
        "move it away; the images are then called by their paths."
      ) from error
  return ids
