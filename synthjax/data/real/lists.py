"""Lists of images in publishers' archives: lines, tables, files of MATLAB."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.io
from etils import epath

from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_text


def find(
  path: epath.PathLike, below: Sequence[str], needed: Sequence[str]
) -> epath.Path:
  """Returns the first of the folders that holds all files.

  Raises:
    UserError: if none does.
  """
  path = epath.Path(path).expanduser()
  for folder in (path / name for name in below):
    if all((folder / name).exists() for name in needed):
      return folder
  raise UserError(
    f"{path} does not hold {', '.join(needed)}, nor does {' or '.join(below)} "
    "in it: give the folder that the archive unpacks to."
  )


# --- texts --------------------------------------------------------------------


def lines(path: epath.PathLike) -> list[str]:
  """Returns the lines of a text that hold anything, without outer spaces.

  Raises:
    UserError: as `read_text`.
  """
  return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def pairs(path: epath.PathLike, what: str) -> list[list[str]]:
  """Returns what stands before and behind the first space of each line.

  Args:
    path: of the text.
    what: each line is, for messages.

  Raises:
    UserError: as `lines`, and about a line without a space.
  """
  rows = [line.split(" ", 1) for line in lines(path)]
  if odd := [row for row in rows if len(row) != 2]:
    raise UserError(f"{path}: {odd[0]} is not {what}.")
  return rows


def table(
  path: epath.PathLike, needed: Sequence[str], between: str = "\t"
) -> list[dict[str, str]]:
  """Reads a table whose first line names its columns.

  Args:
    path: of the table.
    needed: columns that every row must have.
    between: columns, of which none holds it.

  Raises:
    UserError: as `lines`, and about a row or a header without such a column.
  """
  header, *others = [line.split(between) for line in lines(path)] or [[]]
  if missing := [name for name in needed if name not in header]:
    raise UserError(
      f"{path} has the columns {header}, without {' and '.join(missing)}."
    )
  rows = [dict(zip(header, line, strict=False)) for line in others]
  for row in rows:
    if missing := [name for name in needed if not row.get(name)]:
      raise UserError(f"{path} has a row without {', '.join(missing)}: {row}.")
  return rows


# --- files of MATLAB ----------------------------------------------------------


def mat(path: epath.Path, key: str) -> np.ndarray:
  """Returns an array of a file, [n] or of more axes.

  Raises:
    UserError: if the file is not there, damaged, or lacks the array.
  """
  try:
    with path.open("rb") as file:
      return np.atleast_1d(scipy.io.loadmat(file, squeeze_me=True)[key])
  except Exception as error:  # SciPy raises a dozen kinds for damage
    raise _damaged(path, error) from error


def mat_numbers(path: epath.Path, key: str, most: int) -> list[int]:
  """Returns the whole numbers, from 1 to `most`, of an array.

  Raises:
    UserError: as `mat`, and about other values.
  """
  numbers = mat(path, key).ravel()
  if not np.isin(numbers, np.arange(1, most + 1)).all():
    raise _damaged(path, f"{key} must be whole numbers from 1 to {most}")
  return numbers.astype(int).tolist()


def mat_rows(
  path: epath.Path, key: str, fields: Mapping[str, Callable[[Any], Any]]
) -> list[tuple]:
  """Returns the fields of each struct of an array, as the given types.

  Raises:
    UserError: as `mat`, and about structs without such fields.
  """
  structs = mat(path, key)
  try:
    return [
      tuple(f(row[name]) for name, f in fields.items()) for row in structs
    ]
  except (LookupError, TypeError, ValueError) as error:
    raise _damaged(path, error) from error


def _damaged(path: epath.Path, why: Any) -> UserError:
  return UserError(
    f"{path} cannot be read ({why}): fetch it again, or unpack the archive "
    "anew."
  )
