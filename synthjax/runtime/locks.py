"""Locks that a crash releases: of a workdir, and of the parts of a task.

They are POSIX record locks, shared or of single bytes, which the kernel holds
for a process and drops when it ends, however it ends. NFS (with its lock
daemon), Lustre (mounted with `flock`) and local disks have them. A bucket
(`gs://`) has none: a note with a heartbeat stands for the lock of a workdir,
and parts are not claimed, so that two processes may do the same part twice, to
the same bytes.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from synthjax.runtime import commands
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.runtime.text_files import parse_json

WORKDIR = ".lock"  # in a workdir
_IDENTITY = ("host", "pid", "since")  # of a run, in its note
_TURN = ".turn"  # in the folder of a task
_PAUSE = 0.2  # seconds between two tries to get a turn
_BEAT = 60  # seconds between signs of life on a bucket
_DEAD_AFTER = 5 * _BEAT
_SETTLE = 5.0  # seconds in which another run that begins has written its note
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def workdir(folder: epath.PathLike, *, shared: bool = False) -> Iterator[None]:
  """Holds a workdir against other runs.

  Args:
    folder: made if it is not there.
    shared: admits other runs that are shared too.

  Raises:
    UserError: about the run that holds it, or a folder that cannot be made or
      written.
  """
  folder = epath.Path(folder)
  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      if "://" in os.fspath(folder):
        stack.enter_context(_noted(folder / WORKDIR, shared=shared))
      else:
        lock = pathlib.Path(folder) / WORKDIR
        descriptor = stack.enter_context(opened(lock))
        if not _take(descriptor, 0, shared=shared):
          raise _held(folder, _read_note(os.pread(descriptor, 4096, 0)))
        os.ftruncate(descriptor, os.pwrite(descriptor, _note().encode(), 0))
        os.fsync(descriptor)  # other machines compare it; see `check_seen`
    except OSError as error:
      raise _no_workdir(folder, error) from error
    yield


@contextlib.contextmanager
def claims(folder: epath.PathLike) -> Iterator[Callable[[int], bool]]:
  """Yields a function that claims a part by its number.

  It returns False while another process has the part. Claims end with the
  context or the process, by when the part has its name or is unfinished.

  Args:
    folder: of the task; must exist.
  """
  if "://" in os.fspath(folder):
    yield lambda part: True
    return
  with opened(pathlib.Path(folder) / ".claims") as descriptor:
    yield lambda part: _take(descriptor, part)


@contextlib.contextmanager
def one_at_a_time(folder: epath.PathLike, what: str) -> Iterator[None]:
  """Waits until no other process is in the context of this folder.

  Args:
    folder: of a task; must exist. A bucket has no locks: there nothing waits,
      so that what is done must bear being done twice.
    what: is done, for the line that says why this process waits.
  """
  if "://" in os.fspath(folder):
    yield
    return
  with opened(pathlib.Path(folder) / _TURN) as descriptor:
    if not _take(descriptor, 0):
      say(
        f"{pathlib.Path(folder).name}: waits for another process, which {what}"
      )
      while not _take(descriptor, 0):
        commands.stop_if_told()
        time.sleep(_PAUSE)
    yield


def share(
  folder: epath.PathLike,
  names: Sequence[str],
  *,
  process: tuple[int, int] = (0, 1),
  wait: float = 2.0,
) -> Iterator[int]:
  """Yields the parts that this process should do, one after the other.

  Skips parts whose file exists and those that other processes have claimed.
  Ends when all files exist, so that the part of a killed process is done by
  another one.

  Args:
    folder: of the task.
    names: of the file of each part.
    process: the index of this one, and how many there are: each begins
      elsewhere.
    wait: seconds between two checks of the parts that others have claimed.
  """
  folder = epath.Path(folder)
  first = _first(folder, len(names), *process)
  left = missing(folder, names)
  left = [i for i in left if i >= first] + [i for i in left if i < first]
  with claims(folder) as claim:
    while left:
      taken = []
      for part in left:
        if (folder / names[part]).exists():
          continue
        if not claim(part):
          taken.append(part)
        elif not (folder / names[part]).exists():  # not finished meanwhile
          yield part
      left = taken
      if left:
        time.sleep(wait)


def missing(folder: epath.PathLike, names: Sequence[str]) -> list[int]:
  """Returns the positions of the names that are no file in a folder."""
  # By listings: asking for thousands of names takes minutes on a bucket.
  folder, existing = epath.Path(folder), set()
  for place in {os.path.dirname(name) for name in names}:
    if (folder / place).exists():
      listed = (folder / place).iterdir()
      existing |= {os.path.join(place, path.name) for path in listed}
  return [i for i, name in enumerate(names) if name not in existing]


def holder(folder: epath.PathLike) -> dict[str, Any]:
  """Returns the note of the run that holds a workdir, {} if there is none."""
  path = epath.Path(folder) / WORKDIR
  note = _read_note(path.read_bytes()) if path.exists() else {}
  return {key: note.get(key) for key in _IDENTITY} if note else {}


def check_seen(folder: epath.PathLike, holding: Mapping[str, Any]) -> None:
  """Checks that this machine has the workdir that another one holds.

  Args:
    folder: of the run.
    holding: what `holder` returns there.

  Raises:
    UserError: if it is a folder of another disk, or another run has it now.
  """
  if "://" in os.fspath(folder):
    return  # the same everywhere
  found, host = holder(folder), socket.gethostname()
  if found == holding:
    return
  other = ", ".join(f"{key} {value}" for key, value in found.items())
  what = (
    f"another {folder} than this run, of {other}"
    if found
    else (f"no {folder} of this run")
  )
  raise UserError(
    f"{host} has {what}: give a --workdir that all machines share, of a "
    "network disk or gs://."
  )


def _first(folder: epath.Path, total: int, index: int, count: int) -> int:
  """Returns the part to begin with, so that processes keep apart."""
  if count == 1 and "://" in os.fspath(folder) and total:
    # On a bucket there are no locks to keep processes apart that were started
    # separately.
    return random.randrange(total)
  return index * total // count


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[int]:
  """Yields the descriptor of a file to lock, made if it is not there.

  Raises:
    OSError: also about a symbolic link, which is not followed: what it names
      could be anything, and is written to.
  """
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def _take(descriptor: int, start: int, *, shared: bool = False) -> bool:
  """Locks one byte, which need not exist; False if another process has it.

  Returns True where the file system has no locks.
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
  """Describes this process, for the message that another run will show."""
  process = {
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": " ".join(sys.argv)[:1000],
  }
  return json.dumps(process)


def _read_note(text: bytes | str) -> dict[str, Any]:
  try:
    return parse_json(text, dict)
  except ValueError:  # being written, or by another version
    return {}


def _held(folder: epath.Path, holder: dict[str, Any]) -> UserError:
  note = ", ".join(f"{key} {value}" for key, value in holder.items())
  return UserError(
    f"Another run is at work in {folder} ({note or 'it left no note'}). Wait "
    "for it, stop it, or give another --workdir. To draw or score the images "
    "of one workdir by several commands, give --shared to each of them."
  )


def _no_workdir(folder: epath.Path, error: OSError) -> UserError:
  """Says why a folder cannot be one of results."""
  path, what = pathlib.Path(folder), error.strerror or str(error)
  if error.errno == errno.ELOOP and (path / WORKDIR).is_symlink():
    what = f"{WORKDIR} in it is a link to {os.readlink(path / WORKDIR)}"
  elif os.path.exists(lock := path / WORKDIR) and not os.path.isfile(lock):
    what = f"{WORKDIR} in it is no file ({what})"
  elif error.errno == errno.EEXIST:
    with contextlib.suppress(OSError):  # of os.readlink, about a file
      what = "it is a file"
      what = f"it is a link to {os.readlink(path)}, which is not there"
  return UserError(
    f"{folder} cannot be the folder of the results: {what}. Make it one that "
    "can be written, or give another --workdir."
  )


@contextlib.contextmanager
def _noted(path: epath.Path, *, shared: bool) -> Iterator[None]:
  """Holds a bucket's folder by a note that is written again each minute.

  Two runs that begin at once both find no note: each looks again, and the one
  whose note was overwritten gives up. So does one whose note is another's when
  it comes to write it, as one that was asleep for minutes.
  """
  _wait_for_silence(path)
  if shared:  # shared runs cannot harm each other, and need no note
    yield
    return
  note, over = json.loads(_note()), threading.Event()

  def others():
    """Returns the note of another run, {} if it is still ours."""
    found = _read_note(path.read_text()) if path.exists() else {}
    is_ours = all(found.get(key) == note[key] for key in _IDENTITY)
    return {} if is_ours else found

  def beat():
    path.write_text(json.dumps(note | {"beat": time.time()}))

  def beat_on():
    while not over.wait(_BEAT):
      with contextlib.suppress(OSError):  # the next one may succeed
        if found := others():
          say(f"{_held(path.parent, found)} This run stops.")
          os.kill(os.getpid(), signal.SIGTERM)
          return
        beat()

  beat()
  time.sleep(_SETTLE)
  if found := others():
    raise _held(path.parent, found)
  thread = threading.Thread(target=beat_on, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()
    if not others():
      path.unlink(missing_ok=True)


def _wait_for_silence(path: epath.Path) -> None:
  """Waits until the run of a note would have written it again.

  Raises:
    UserError: once it has.
  """
  first = None
  while path.exists():
    holding = _read_note(path.read_text())
    beat = holding.pop("beat", 0)
    if first is None:
      first, until = beat, time.monotonic() + _DEAD_AFTER
      until -= max(time.time() - beat, 0)
      if time.monotonic() < until:
        say(f"{path.parent}: waits for a sign of life of the run that had it")
    if beat != first:
      raise _held(path.parent, holding)
    if time.monotonic() >= until:
      return
    time.sleep(_BEAT / 10)
