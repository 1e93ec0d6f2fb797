"""Locks that a crash releases: of a workdir, and of the parts of a task.

They are POSIX record locks, shared or of single bytes, which the kernel holds
for a process and drops when it ends, however it ends. NFS (with its lock
daemon), Lustre (mounted with `flock`) and local disks have them. A bucket
(`gs://`, `s3://`) has none: a note with a heartbeat stands for the lock of a
workdir, and `leases` for those of parts.
"""

import contextlib
import datetime
import errno
import json
import math
import os
import pathlib
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from synthjax.runtime import buckets, commands, leases
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.runtime.text_files import parse_json

WORKDIR = ".lock"  # in a workdir
_IDENTITY = ("host", "pid", "since")  # of a run, in its note
_TURN = ".turn"  # in the folder of a task
_is_shared = False  # whether the workdir that this process holds is
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
    UserError: about the run that holds it, a folder that cannot be made or
      written, or a bucket that shared runs cannot claim parts in.
  """
  folder = epath.Path(folder)
  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      if buckets.is_bucket(folder):
        buckets.forget_listings(folder)
        if shared and (why := buckets.why_not_shared(folder)):
          raise _not_shared(folder, why)
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
    except ImportError as error:
      raise buckets.not_installed(folder, error) from error
    stack.enter_context(_sharing(shared))
    yield


@contextlib.contextmanager
def _sharing(shared: bool) -> Iterator[None]:
  global _is_shared
  before, _is_shared = _is_shared, shared
  try:
    yield
  finally:
    _is_shared = before


def is_shared() -> bool:
  """Returns whether other runs may be at work in the workdir of this one."""
  return _is_shared


class Claims(Protocol):
  """Takes parts of a task, by their numbers, from other processes."""

  def claim(self, part: int) -> bool:
    """Takes a part; False while another process has it."""

  def release(self, part: int) -> None:
    """Gives up a part, whose file is there."""

  def clear(self) -> None:
    """Removes what claims have left in the folder, which is complete."""


@contextlib.contextmanager
def claims(folder: epath.PathLike) -> Iterator[Claims]:
  """Yields the claims of this process, which end with the context.

  They end with the process too, however it ends: at once on a disk, after
  `leases.DEAD_AFTER` in a bucket. One that cannot make objects conditionally
  has no claims: there, processes may do a part twice, to the same bytes.
  `workdir` has refused shared runs there.

  Args:
    folder: of the task; must exist.
  """
  if not buckets.is_bucket(folder):
    path = pathlib.Path(folder) / leases.FOLDER
    with opened(path) as descriptor:
      yield _ByteLocks(path, descriptor)
  elif not _is_shared and buckets.why_not_shared(folder):
    yield _NoClaims()
  else:
    with leases.Leases(folder) as held:
      yield held


class _ByteLocks:
  """Claims by locks of single bytes of a file."""

  def __init__(self, path: pathlib.Path, descriptor: int):
    self._path, self._descriptor = path, descriptor

  def claim(self, part: int) -> bool:
    return _take(self._descriptor, part)

  def release(self, part: int) -> None:
    pass  # one that is held does no harm

  def clear(self) -> None:
    self._path.unlink(missing_ok=True)


class _NoClaims:
  """Admits every part."""

  def claim(self, part: int) -> bool:
    return True

  def release(self, part: int) -> None:
    pass

  def clear(self) -> None:
    pass


@contextlib.contextmanager
def one_at_a_time(folder: epath.PathLike, what: str) -> Iterator[None]:
  """Waits until no other process is in the context of this folder.

  Args:
    folder: of a task; must exist. A bucket without claims lets all in, so what
      is done must bear being done twice.
    what: is done, for the line that says why this process waits.
  """
  folder = epath.Path(folder)
  with _turns(folder) as take:
    if not take():
      say(f"{folder.name}: waits for another process, which {what}")
      while not take():
        commands.stop_if_told()
        time.sleep(_PAUSE)
    yield


@contextlib.contextmanager
def _turns(folder: epath.Path) -> Iterator[Callable[[], bool]]:
  """Yields a function that takes the turn, False while another one has it."""
  if buckets.is_bucket(folder):
    with claims(folder / _TURN) as held:
      yield lambda: held.claim(0)
  else:
    with opened(pathlib.Path(folder) / _TURN) as descriptor:
      yield lambda: _take(descriptor, 0)


def share(
  folder: epath.PathLike,
  names: Sequence[str],
  held: Claims,
  *,
  process: tuple[int, int] = (0, 1),
  wait: float = 2.0,
  offset: int = 0,
) -> Iterator[int]:
  """Yields the parts that this process should do, one after the other.

  Skips parts whose file exists and those that other processes have claimed.
  Where these are all that is left, it ends if it has yielded any part. Else it
  waits, and yields those whose process is lost. So call it as long as files are
  missing: then an error about the last file of each process ends it, and none
  waits with that part in hand for another one that waits as well.

  Args:
    folder: of the task.
    names: of the file of each part.
    held: of `claims`. They should not end before the files are there.
    process: the index of this one, and how many there are: each begins
      elsewhere.
    wait: seconds between two checks of the parts that others have claimed.
    offset: is added to the number of a part to claim it.
  """
  folder = epath.Path(folder)
  first = _first(folder, len(names), *process)
  files, left = _Files(folder, names), missing(folder, names)
  left = [i for i in left if i >= first] + [i for i in left if i < first]
  own, any_yielded, waits = list[int](), False, False
  while left:
    taken = []
    for part in left:
      for done in filter(files.has, [*own]):
        held.release(done + offset)
        own.remove(done)
      if files.has(part):
        continue
      if not held.claim(part + offset):
        taken.append(part)
      elif files.has_now(part):  # another one has finished it meanwhile
        held.release(part + offset)
      else:
        own.append(part)
        any_yielded = True
        yield part
    left = taken
    if not left or any_yielded:
      return
    if not waits:
      waits = True
      more = f" and {len(left) - 1:,} more" if len(left) > 1 else ""
      say(f"{folder.name}: other processes make {names[left[0]]}{more}; waits")
    commands.stop_if_told()
    time.sleep(wait)


class _Files:
  """Which files of a folder are there; a bucket is listed now and then."""

  def __init__(self, folder: epath.Path, names: Sequence[str]):
    self._folder, self._names = folder, names
    self._listed, self._missing = -math.inf, set[int]()

  def has(self, part: int) -> bool:
    if not buckets.is_bucket(self._folder):
      return self.has_now(part)
    if time.monotonic() - self._listed > leases.LOOK:
      self._listed = time.monotonic()
      self._missing = {*missing(self._folder, self._names)}
    return part not in self._missing

  def has_now(self, part: int) -> bool:
    if (self._folder / self._names[part]).exists():
      self._listed = -math.inf  # others were here since
      return True
    return False


def missing(folder: epath.PathLike, names: Sequence[str]) -> list[int]:
  """Returns the positions of the names that are no file in a folder."""
  # By listings: asking for thousands of names takes minutes on a bucket.
  folder, existing = epath.Path(folder), set()
  if buckets.is_bucket(folder):
    buckets.forget_listings(folder)
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
  if buckets.is_bucket(folder):
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
    "network disk or a bucket."
  )


def _first(folder: epath.Path, total: int, index: int, count: int) -> int:
  """Returns the part to begin with, so that processes keep apart."""
  if count == 1 and buckets.is_bucket(folder) and total:
    # To find parts that others have claimed costs requests.
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
    "for it, stop it, or give another --workdir. To draw, score or export the "
    "images of one workdir by several commands, give --shared to each of them."
  )


def _not_shared(folder: epath.Path, why: str) -> UserError:
  return UserError(
    f"--shared needs a bucket that makes an object only if none is there, so "
    f"that one of several processes gets a shard; {folder} does not: {why}. "
    "Google's buckets (gs://) and Amazon's S3 (s3://) do, with gcsfs and s3fs "
    "of 2024.12 or later; or give a --workdir on a disk that all share. "
    "Without --shared, one command works there."
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
