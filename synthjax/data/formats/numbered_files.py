"""A data set in numbered files, each of which is made whole or not at all.

They are named as Hugging Face names them, "train-00000-of-00012.tar": a missing
file is noticed, and the name says the split.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from etils import epath

from synthjax.data.pipeline import image_files
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


def write(
  folder: epath.PathLike,
  count: int,
  shard_size: int,
  write_file: Callable[[str, range], None],
  *,
  split: str,
  ending: str,
  parts: Iterable[int] | None = None,
) -> dict[str, int]:
  """Writes the files that are not there yet.

  Args:
    folder: local or gs://.
    count: see `plan`, as for the others.
    shard_size: rows of a file.
    write_file: writes some rows to a path; the file gets its name afterwards.
    split: of the data set; a folder may stand before it.
    ending: of the files.
    parts: numbers of the files to write; None for all.

  Returns:
    The rows of each file, of all parts, for the manifest.
  """
  folder = epath.Path(folder)
  files = list(plan(count, shard_size, split=split, ending=ending))
  for part in range(len(files)) if parts is None else parts:
    name, numbers = files[part]
    if not (folder / name).exists():
      with replace(folder, name) as path:
        write_file(path, numbers)
  return {name: len(numbers) for name, numbers in files}


def plan(
  count: int, shard_size: int, *, split: str, ending: str
) -> Iterator[tuple[str, range]]:
  """Yields the name of each file and the rows that it holds.

  Args:
    count: of all rows.
    shard_size: rows of a file; the last one may have fewer.
    split: of the data set.
    ending: of the files, such as ".tar".
  """
  total = -(-count // shard_size)
  for number in range(total):
    start = number * shard_size
    name = f"{split}-{number:05d}-of-{total:05d}{ending}"
    yield name, range(start, min(start + shard_size, count))


def sizes(
  count: int, shard_size: int, *, split: str, ending: str
) -> dict[str, int]:
  """Returns the rows of each file; see `plan`."""
  files = plan(count, shard_size, split=split, ending=ending)
  return {name: len(numbers) for name, numbers in files}


def find(
  path: epath.PathLike, ending: str, *, split: str | None = None
) -> list[epath.Path]:
  """Returns the files of a data set, in order.

  Args:
    path: of one file, or of a folder that holds them, itself or in `data`.
    ending: of the files, such as ".tar".
    split: of which the files are; None where there is only one.

  Raises:
    UserError: if there is none, some are missing, or they are of several
      splits.
  """
  path = epath.Path(path).expanduser()
  if path.suffix == ending and path.is_file():
    return [path]
  if not path.is_dir():
    raise UserError(f"There is no folder {path} of {ending} files.")
  files = _files(path, ending) or _files(path / "data", ending)
  splits: dict[str, dict[int, set[int]]] = {}  # numbers of the files, by total
  for match in filter(None, (_NAME.fullmatch(file.stem) for file in files)):
    totals = splits.setdefault(match[1], {})
    totals.setdefault(int(match[3]), set()).add(int(match[2]))
  if split is not None:
    files = [f for f in files if f.stem.startswith(f"{split}-")]
    splits = {name: totals for name, totals in splits.items() if name == split}
  if not files:
    of_split = f" of the split {split!r}" if split else ""
    raise UserError(f"{path} holds no {ending} file{of_split}.")
  if len(splits) > 1:
    raise UserError(
      f"{path} holds the splits {', '.join(sorted(splits))}: say which by "
      f"`split`, such as split={min(splits)!r}."
    )
  _check_whole(path, splits, ending)
  return files


def _files(folder: epath.Path, ending: str) -> list[epath.Path]:
  if not folder.is_dir():
    return []
  return sorted(
    file
    for file in folder.iterdir()
    if file.name.endswith(ending) and not image_files.is_leftover(file.name)
  )


def _check_whole(
  path: epath.Path, splits: dict[str, dict[int, set[int]]], ending: str
) -> None:
  for name, totals in splits.items():
    if len(totals) > 1:
      raise UserError(
        f"{path} mixes files of {' and '.join(map(str, sorted(totals)))} "
        "parts: those of two exports. Keep one of them."
      )
    total, numbers = next(iter(totals.items()))
    if missing := sorted(set(range(total)) - numbers):
      raise UserError(
        f"{path} lacks {len(missing)} of {total} files, such as "
        f"{name}-{missing[0]:05d}-of-{total:05d}{ending}: copy them as well, "
        "or export again, which goes on where it stopped."
      )
