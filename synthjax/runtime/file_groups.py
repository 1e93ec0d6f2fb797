"""Files that a manifest names in groups, as there may be millions of them.

A list beside the files names them: a file of JSON lines, each of which has
`file_name`, relative to the folder of the list. A manifest has an entry for
each SIZE of its rows, in their order: `rows`; `bytes`, of their files together;
`sha256`, of what `sha256sum` prints about these files, called as from the
folder of the manifest; and `marks`, the first digits of the SHA-256 of each
file, by which a file that was changed is named. Of four million images that is
20 MB, where an entry for each file takes 0.7 GB.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime import buckets
from synthjax.runtime.text_files import parse_json
from synthjax.runtime.threads import count_cores, in_threads

SIZE = 1024  # files of a group
MISSING, CHANGED = "it is missing", "its content has changed"
_MARK = 4  # hex digits of a file: one in 65,536 changes needs the SHA-256
_FIELDS = {"rows": int, "bytes": int, "sha256": str, "marks": str}

Entries = Sequence[Mapping[str, Any]]  # of the groups of one list


class _File(NamedTuple):
  size: int  # in bytes
  sha256: str


def names(folder: epath.PathLike, list_file: str) -> Iterator[list[str]]:
  """Yields the names of the files of each group, relative to the folder.

  Args:
    folder: of the manifest.
    list_file: the name of the list, relative to it.

  Raises:
    ValueError: about a row that names no file.
  """
  top = list_file.rpartition("/")[0]
  with (epath.Path(folder) / list_file).open("rb") as lines:
    while group := list(itertools.islice(lines, SIZE)):
      yield [f"{top}/{_file_of(line)}".lstrip("/") for line in group]


def _file_of(line: bytes) -> str:
  name = parse_json(line, dict).get("file_name")
  if not isinstance(name, str):
    raise ValueError("a row has no file_name")
  return name


def measure(folder: epath.PathLike, list_file: str) -> list[dict[str, Any]]:
  """Reads the files of a list, and returns the entry of each group.

  Raises:
    FileNotFoundError: if one of them is missing.
  """
  return [
    _entry(group, _hash(folder, group)) for group in names(folder, list_file)
  ]


def are_entries(value: Any) -> bool:
  """Returns whether plain data are what `measure` returns, of any lists."""
  return isinstance(value, dict) and all(
    isinstance(entries, list)
    and all(
      isinstance(entry, dict)
      and all(isinstance(entry.get(k), kind) for k, kind in _FIELDS.items())
      for entry in entries
    )
    for entries in value.values()
  )


def damage(
  folder: epath.PathLike,
  list_file: str,
  entries: Entries,
  *,
  read: bool,
  report: Callable[[int], Any] = lambda count: None,
) -> dict[str, str]:
  """Returns what is wrong with the files of a list, by their names.

  Args:
    folder: of the manifest.
    list_file: which is as it was written, as far as the caller knows.
    entries: of the manifest.
    read: checks contents, and not sizes alone.
    report: gets the bytes of each group, once it has been checked.
  """
  problems, first = {}, 1
  try:
    groups = names(folder, list_file)
    for entry in entries:
      group = next(groups, [])
      if len(group) != entry["rows"]:
        raise ValueError(f"it has no {entry['rows']} rows from row {first} on")
      rows = f"{list_file}, rows {first} to {first + len(group) - 1}"
      problems |= _damage_of(folder, group, entry, rows, read=read)
      first += len(group)
      report(entry["bytes"])
  except ValueError as error:
    problems[list_file] = f"it is not the list of the files ({error})"
  return problems


def _damage_of(
  folder: epath.PathLike,
  group: Sequence[str],
  entry: Mapping[str, Any],
  rows: str,
  *,
  read: bool,
) -> dict[str, str]:
  """Returns what is wrong with the files of a group, called `rows`."""
  sizes = _sizes(folder, group)
  problems = {
    name: MISSING
    for name, size in zip(group, sizes, strict=True)
    if size is None
  }
  there = [name for name in group if name not in problems]
  # Without `read`, contents tell which of the files has another size.
  if not (read or problems or sum(sizes) != entry["bytes"]):
    return {}
  hashed = dict(zip(there, _hash(folder, there), strict=True))
  for at, name in enumerate(group):
    mark = entry["marks"][_MARK * at : _MARK * (at + 1)]
    if name in hashed and not hashed[name].sha256.startswith(mark):
      problems[name] = CHANGED
  if problems or _entry(group, hashed.values()) == entry:
    return problems
  return {rows: "one of the files that they name has changed"}


def _entry(group: Sequence[str], hashed: Iterable[_File]) -> dict[str, Any]:
  hashed = list(hashed)
  lines = (f"{f.sha256}  {n}\n" for f, n in zip(hashed, group, strict=True))
  text = "".join(lines).encode("utf-8", "surrogatepass")
  return {
    "rows": len(group),
    "bytes": sum(file.size for file in hashed),
    "sha256": hashlib.sha256(text).hexdigest(),
    "marks": "".join(file.sha256[:_MARK] for file in hashed),
  }


def _hash(folder: epath.PathLike, group: Sequence[str]) -> list[_File]:
  """Reads files; raises a FileNotFoundError if one is missing."""
  top = os.fspath(folder)

  def read(name):
    with _open(f"{top}/{name}") as file:
      content = file.read()
    return _File(len(content), hashlib.sha256(content).hexdigest())

  return in_threads(read, group, threads=count_cores())


def _sizes(folder: epath.PathLike, group: Sequence[str]) -> list[int | None]:
  """Returns the bytes of files, and None for those that are missing."""
  top = os.fspath(folder)

  def size(name):
    try:
      return _size(f"{top}/{name}")
    except (FileNotFoundError, NotADirectoryError):
      return None

  each = in_threads if buckets.is_bucket(top) else map
  return list(each(size, group))


# Paths of `epath`, and of pathlib, take longer than a small file on a disk.


def _open(path: str) -> BinaryIO:
  if buckets.is_bucket(path):
    return epath.Path(path).open("rb")
  return open(path, "rb")


def _size(path: str) -> int:
  if buckets.is_bucket(path):
    return epath.Path(path).stat().length
  return os.path.getsize(path)


def not_listed(
  folder: epath.PathLike, lists: Iterable[str], found: Iterable[str]
) -> Iterator[str]:
  """Yields the names that no list has.

  Args:
    folder: of the manifest.
    lists: names of them, which are as they were written.
    found: names of files, as of `names`.
  """
  listed = itertools.chain.from_iterable(names(folder, each) for each in lists)
  keys = np.sort(
    np.fromiter(map(key_of, itertools.chain.from_iterable(listed)), np.uint64)
  )
  for name in found:
    at = np.searchsorted(keys, key := np.uint64(key_of(name)))
    if at == len(keys) or keys[at] != key:
      yield name


def key_of(name: str) -> int:
  """Returns 64 bits for a name, where all names would take too much memory.

  Two of four million names have the same ones with a chance of 5e-7.
  """
  text = name.encode("utf-8", "surrogatepass")  # as a disk may have it
  return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
