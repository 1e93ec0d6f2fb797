"""A table of image files and their classes, as spreadsheets save it.

The first line names the columns, or is an image already. Columns are parted by
commas, semicolons, tabs or bars. Paths start at the folder of the table.
"""

import csv
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from synthjax.config.schema import Count
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_text

ENDINGS = (".csv", ".tsv")
# The names that a column may have, without case and marks.
_PATHS = ("path", "file", "filename", "filepath", "image", "imagepath", "img")
_CLASSES = ("label", "class", "classname", "category", "species", "target")
_SPLITS = ("split", "set", "subset")


def open_list(
  path: epath.PathLike,
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  split: str | None = None,
  *,
  space: Any = None,
  complete: bool = True,
) -> Labelled:
  """Opens the images that a table lists.

  Args:
    path: of the table, local or gs://.
    classes: name -> label, those of the space by default. Numbers that are no
      names are labels.
    image_size: crops and resizes the images to squares of this side.
    split: as a column `split` says it, if there is one.
    space: the label space.
    complete: see `class_names.of_rows`. If not, rows without a class are
      allowed, and get NO_CLASS.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str, the path as
    it is listed. A file that is no image is reported when its row is read.

  Raises:
    UserError: about a table without such columns, or listing files that are
      missing or of two classes, and classes that are unknown or not there.
  """
  path = epath.Path(path).expanduser()
  if classes is None and space is not None:
    classes = class_names.lookup(space)
  class_of: dict[str, str] = {}
  problems = []
  for line, (file, name, part) in _rows(path):
    if split and part and part != split:
      continue
    file, name = file.replace("\\", "/"), class_names.composed(name)
    if not name and complete:
      problems.append(f"line {line}: {file} has no class")
    if class_of.setdefault(file, name) != name:
      problems.append(
        f"line {line}: {file} is {name!r} here, and {class_of[file]!r} above"
      )
  files = sorted(class_of)
  problems += [
    f"{f}: is not there" for f in image_files.absent(path.parent, files)
  ]
  class_names.raise_problems(
    sorted(problems),
    f"{path} cannot be opened as a list of images",
    f"Correct these lines; files are looked for in {path.parent}.",
  )
  if not files:
    of_split = f" of the split {split!r}" if split else ""
    raise UserError(f"{path} lists no image{of_split}.")
  names = [class_of[file] or None for file in files]
  numbers = [class_names.NO_CLASS if name is None else None for name in names]
  if all(name is None or name.isdecimal() for name in names):
    resolved = class_names.resolve(filter(None, names), classes or {})
    if set(resolved.values()) == {None}:  # no class is called so
      numbers = [class_names.NO_CLASS if n is None else int(n) for n in names]
      names = [None] * len(names)
  labels = class_names.of_rows(
    numbers, names, classes, where=str(path), complete=complete
  )
  return image_files.open_files(path.parent, files, labels, image_size)


def splits(path: epath.PathLike) -> set[str]:
  """Returns the values of the column `split`; none if there is no such one."""
  return {part for _, (_, _, part) in _rows(epath.Path(path)) if part}


def _rows(path: epath.Path) -> list[tuple[int, tuple[str, str, str]]]:
  """Returns the line, and path, class and split, of each row.

  Raises:
    UserError: if no column has the paths, or none the classes.
  """
  lines = read_text(path, "the list").splitlines()
  if lines and lines[0].lower().startswith("sep="):  # for spreadsheets
    lines[0] = ""
  first = next(filter(None, lines), "")
  between = max(",;\t|", key=first.count)
  table = [
    (number, [cell.strip() for cell in row])
    for number, row in enumerate(csv.reader(lines, delimiter=between), start=1)
    if any(cell.strip() for cell in row)
  ]
  header = [_plain(cell) for cell in table[0][1]] if table else []
  find = lambda names: next((header.index(n) for n in names if n in header), -1)
  file, name, part = find(_PATHS), find(_CLASSES), find(_SPLITS)
  if file < 0 and name < 0 and len(header) >= 2:
    if image_files.is_image(epath.Path(table[0][1][0])):  # there is no header
      file, name, part = 0, 1, -1
  else:
    table = table[1:]
  if file < 0 or name < 0:
    raise UserError(
      f"{path} has the columns {first!r}: needed one of paths ("
      f"{', '.join(_PATHS)}) and one of classes ({', '.join(_CLASSES)}). Name "
      "them so in the first line."
    )
  if odd := [n for n, row in table if len(row) <= max(file, name)]:
    raise UserError(
      f"{path}, line {odd[0]}, has too few columns: needed {first!r}. Put a "
      "path that holds a comma in quotes."
    )
  return [
    (n, (row[file], row[name], row[part] if 0 <= part < len(row) else ""))
    for n, row in table
  ]


def _plain(text: str) -> str:
  return re.sub(r"[\W_]+", "", text).casefold()
