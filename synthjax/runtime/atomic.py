"""Writes files that get their names only when they are whole."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator

from etils import epath

from synthjax.runtime import buckets
from synthjax.runtime.errors import UserError
from synthjax.runtime.threads import in_threads

_PREFIX = ".tmp-"  # of temporary names
_GROUP = 1024  # small files that reach the disk together
_STALE_AFTER = 3600  # seconds without a write: its process has ended
_discards = False


@contextlib.contextmanager
def discarding(discard: bool) -> Iterator[None]:
  """Makes `replace` keep nothing, where another process writes the same."""
  global _discards
  before, _discards = _discards, discard
  try:
    yield
  finally:
    _discards = before


def discards() -> bool:
  """Returns whether this process leaves writing to another."""
  return _discards


@contextlib.contextmanager
def replace(
  folder: epath.PathLike, name: str, *, need: int | None = None
) -> Iterator[pathlib.Path]:
  """Yields a temporary path that becomes folder/name if all goes well.

  The new file is on the disk before it gets its name, so that a killed run or
  a power cut leaves the old file or none, never half of one. An error removes
  the temporary file.

  Args:
    folder: of the file; for a bucket the temporary file is in a local folder.
    name: of the file, possibly with folders ("train/a.npz").
    need: bytes that will be written, for the message.

  Raises:
    UserError: if the disk is full.
  """
  target = epath.Path(folder) / name
  if _discards:
    with tempfile.TemporaryDirectory() as home:
      yield pathlib.Path(home) / target.name
    return
  local = not buckets.is_bucket(target)
  home = pathlib.Path(target.parent if local else tempfile.mkdtemp())
  home.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(home, target.name)
  try:
    yield temporary
    _sync(temporary)
    if local:
      os.replace(temporary, target)
      _sync(home)
    else:  # an object of a bucket appears whole or not at all
      buckets.put(temporary, target)
  except Exception as error:
    if says_full(error):
      written = temporary.stat().st_size if temporary.exists() else 0
      needed = f" of {need:,} needed" if need else ""
      what = f"{written:,} bytes{needed} of {target} were written"
      raise disk_full(home, what) from error
    raise
  finally:
    temporary.unlink(missing_ok=True)
    if not local:
      home.rmdir()


@contextlib.contextmanager
def replace_many(
  folder: epath.PathLike,
) -> Iterator[Callable[[str, bytes], None]]:
  """Yields a function that writes small files, as `replace` does one.

  A disk writes a thousand files as fast as it can if it is asked for all at
  once, and a few dozen in a second one by one. So files get their names in
  groups, once a whole group is on the disk, and the last ones at the end. A
  run that is killed, or a power cut, leaves whole files or none.

  Args:
    folder: local or gs://. The function gets a name below it, and the content.

  Raises:
    UserError: if the disk is full.
  """
  folder, group = epath.Path(folder), {}

  def write(name, content):
    if _discards or buckets.is_bucket(folder):
      with replace(folder, name) as path:
        path.write_bytes(content)
      return
    target = pathlib.Path(folder / name)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target.parent, target.name)
    try:
      temporary.write_bytes(content)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise
    group[temporary] = target
    if len(group) == _GROUP:
      name_group()

  def name_group():
    in_threads(_sync, group, threads=32)
    for temporary, target in group.items():
      os.replace(temporary, target)
    in_threads(_sync, {target.parent for target in group.values()})
    group.clear()

  try:
    try:
      yield write
    finally:  # whatever stopped it, those that are whole stay
      name_group()
  except Exception as error:
    if says_full(error):
      what = f"the last {len(group) + 1:,} of many files could not be written"
      raise disk_full(folder, what) from error
    raise
  finally:
    for temporary in group:
      temporary.unlink(missing_ok=True)


def _temporary(home: pathlib.Path, name: str) -> pathlib.Path:
  """Returns a path that no other process writes to.

  It keeps the ending, as np.savez and others add one that is missing.
  """
  return home / f"{_PREFIX}{uuid.uuid4().hex[:8]}-{name}"


def remove_stale(folder: epath.Path) -> None:
  """Removes the temporary files of killed runs, and nothing else."""
  if not buckets.is_bucket(folder):
    for path in pathlib.Path(folder).rglob(f"{_PREFIX}*"):
      with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _STALE_AFTER:
          path.unlink()


def _sync(path: pathlib.Path) -> None:
  """Waits until a file, or the names in a folder, are on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def says_full(error: BaseException) -> bool:
  """Returns whether an error is that of a full disk or a used-up quota."""
  # Writers in C++ raise their own kinds of error, with the text of the code.
  codes = (errno.ENOSPC, errno.EDQUOT)
  return getattr(error, "errno", None) in codes or any(
    os.strerror(code) in str(error) for code in codes
  )


def disk_full(folder: epath.PathLike, what: str) -> UserError:
  """Returns the error about a full disk.

  Args:
    folder: on it.
    what: could not be written, as the message goes on behind a colon.
  """
  free = shutil.disk_usage(folder).free
  return UserError(
    f"The disk of {folder} is full: {what}, {free:,} are free. Complete files "
    "are kept. Free some space and run the same command to go on; or give "
    "another --workdir."
  )
