"""Locks that a crash releases: of a workdir, and of the parts of a task.

They are POSIX record locks, which the kernel holds for a process and drops when
it ends, however it ends. NFS (with its lock daemon), Lustre (mounted with
`flock`) and local disks have them. A bucket (`gs://`) has none: there a note
with a heartbeat stands for the lock of a workdir, and nothing is claimed, so
that two processes may do the same part twice, to the same bytes.
"""

import contextlib
import datetime
import errno
import itertools
import json
import os
import pathlib
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from synthjax.runtime.errors import UserError

WORKDIR = ".lock"  # in a workdir
_BEAT = 60  # seconds between signs of life on a bucket
_DEAD_AFTER = 5 * _BEAT
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def workdir(folder: epath.PathLike, *, shared: bool = False) -> Iterator[None]:
  """Holds a workdir against other runs.

  Args:
    folder: made if it is not there.
    shared: lets others in that are shared as well, but no others.

  Raises:
    UserError: saying who holds it.
  """
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if "://" in os.fspath(folder):
    with _noted(folder / WORKDIR, shared=shared):
      yield
    return
  with _opened(pathlib.Path(folder) / WORKDIR) as descriptor:
    if not _take(descriptor, 0, shared=shared):
      raise _held(folder, _read_note(os.pread(descriptor, 4096, 0)))
    os.ftruncate(descriptor, os.pwrite(descriptor, _note().encode(), 0))
    yield


@contextlib.contextmanager
def claims(folder: epath.PathLike) -> Iterator[Callable[[int], bool]]:
  """Yields a function that claims a part by its number.

  It returns False while another process has the part. What was claimed is
  given back when the context ends, or the process does; by then the part is
  there under its name, or was not finished.

  Args:
    folder: of the task, which is there.
  """
  if "://" in os.fspath(folder):
    yield lambda part: True
    return
  with _opened(pathlib.Path(folder) / ".claims") as descriptor:
    yield lambda part: _take(descriptor, part)


def share(
  folder: epath.PathLike,
  names: Sequence[str],
  *,
  process: tuple[int, int] = (0, 1),
  wait: float = 2.0,
) -> Iterator[int]:
  """Yields the parts that are for this process to do, one after the other.

  Those that are there are left out, and so are those that others are at. It
  ends when all are there, so that what a lost process had in hand is done by
  one that is left.

  Args:
    folder: of the task.
    names: of the file of each part.
    process: which one this is, and of how many: each begins elsewhere.
    wait: seconds between looks at what others are at.
  """
  folder = epath.Path(folder)
  # One listing: asking for thousands of names takes minutes on a bucket.
  there = {path.name for path in folder.iterdir()}
  first = _first(folder, len(names), *process)
  left = [i for i in _turned(len(names), first) if names[i] not in there]
  with claims(folder) as claim:
    while left:
      taken = []
      for part in left:
        if (folder / names[part]).exists():
          continue
        if not claim(part):
          taken.append(part)
        elif not (folder / names[part]).exists():  # nor done just before
          yield part
      left = taken
      if left:
        time.sleep(wait)


def _first(folder: epath.Path, total: int, index: int, count: int) -> int:
  """Returns the part to begin with, so that processes keep apart."""
  if count == 1 and "://" in os.fspath(folder) and total:
    # A bucket has no locks to tell processes apart that know nothing of others.
    return random.randrange(total)
  return index * total // count


def _turned(count: int, first: int) -> Iterator[int]:
  return itertools.chain(range(first, count), range(first))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[int]:
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def _take(descriptor: int, start: int, *, shared: bool = False) -> bool:
  """Locks one byte, which need not be there; False if another has it.

  Where the file system has no locks, a process is on its own.
  """
  import fcntl  # not on Windows, where nothing else of this works either

  kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
  try:
    fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, 1, start)
  except OSError as error:
    if error.errno in _TAKEN:
      return False
    if error.errno not in _NO_LOCKS:
      raise
  return True


# --- who holds it -----------------------------------------------------------


def _note() -> str:
  """Writes who this is, for the message that another run will show."""
  who = {
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": " ".join(sys.argv)[:1000],
  }
  return json.dumps(who)


def _read_note(text: bytes | str) -> dict[str, Any]:
  try:
    return dict(json.loads(text))
  except (ValueError, TypeError):  # being written, or by another version
    return {}


def _held(folder: epath.Path, who: dict[str, Any]) -> UserError:
  what = ", ".join(f"{key} {value}" for key, value in who.items())
  return UserError(
    f"Another run is at work in {folder} ({what or 'it left no note'}). Wait "
    "for it, stop it, or give another --workdir. Commands that shall draw and "
    "score one workdir's images together need --shared, each of them."
  )


@contextlib.contextmanager
def _noted(path: epath.Path, *, shared: bool) -> Iterator[None]:
  """Holds a bucket's folder by a note that is written again each minute."""
  if shared:  # they do no harm to each other, and a run would find its own
    yield
    return
  found = _read_note(path.read_text()) if path.exists() else {}
  if time.time() - found.get("beat", 0) < _DEAD_AFTER:
    found.pop("beat")
    raise _held(path.parent, found)
  mine, over = json.loads(_note()), threading.Event()

  def beat():
    path.write_text(json.dumps(mine | {"beat": time.time()}))

  def keep_on():
    while not over.wait(_BEAT):
      with contextlib.suppress(OSError):  # the next one may pass
        beat()

  beat()
  thread = threading.Thread(target=keep_on, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()
    path.unlink(missing_ok=True)
