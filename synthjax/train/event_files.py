"""What TensorBoard reads: the metrics of each run, as event files.

`clu.metric_writers` would write them, but imports TensorFlow, as do
`clu.periodic_actions` and `clu.checkpoint`; tensorboardX does without. Of it,
the files and not the `SummaryWriter`: that one's thread dies of a full disk,
and then its queue blocks the training.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from synthjax.progress import say

_HELD_BACK = 30  # seconds, at most, before what is written can be seen


class Events(NamedTuple):
  """One run in TensorBoard."""

  write: Callable[[int, Mapping[str, float]], None]  # of a step
  text: Callable[[str, str], None]  # a name, and Markdown
  close: Callable[[], None]


def open_events(folder: epath.PathLike, *, first_step: int = 0) -> Events:
  """Opens a new event file in a folder, which is made if needed.

  A file that cannot be written is told of once, and is no reason to stop: the
  same numbers are in the metrics.

  Args:
    folder: of the run; those of interrupted attempts stay in it.
    first_step: steps that are done. TensorBoard drops what an attempt before
      this one wrote of later ones.
  """
  from tensorboardX import event_file_writer, record_writer, summary
  from tensorboardX.proto import event_pb2

  folder, writer = os.fspath(folder), None
  scheme, separator, _ = folder.partition("://")
  if separator:
    record_writer.register_writer_factory(scheme, _RemoteFiles)
  flushed = time.monotonic()

  def attempt(action: Callable[[], Any]) -> Any:
    nonlocal writer
    try:
      return action()
    except OSError as error:
      writer = None
      say(f"TensorBoard's events are not written to {folder}: {error}")

  def add(step: int, **content: Any) -> None:
    nonlocal flushed
    if not writer:
      return
    event = event_pb2.Event(step=step, wall_time=time.time(), **content)
    now = time.monotonic()
    attempt(lambda: writer.write_event(event))
    if writer and now - flushed > _HELD_BACK:
      flushed = now
      attempt(writer.flush)

  def open_file():
    record_writer.directory_check(folder)
    # The name holds the second, in which another attempt may have begun.
    return event_file_writer.EventsWriter(
      os.path.join(folder, "events"), f".{os.getpid()}.{first_step}"
    )

  def write(step: int, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      if name != "step":
        add(step, summary=summary.scalar(name, value))

  writer = attempt(open_file)
  if first_step:
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    add(first_step + 1, session_log=log)
  return Events(
    write,
    lambda name, text: add(0, summary=summary.text(name, text)),
    lambda: attempt(writer.close) if writer else None,
  )


class _RemoteFiles:
  """Opens event files where etils does, as on a bucket."""

  directory_check = staticmethod(lambda path: None)  # buckets have no folders

  @staticmethod
  def open(path: str) -> Any:
    return _RemoteFile(path)


class _RemoteFile:
  """A file that is written anew at each flush, as objects cannot grow."""

  def __init__(self, path: epath.PathLike):
    self._path, self._content = epath.Path(path), bytearray()

  def write(self, data: bytes) -> None:
    self._content += data

  def flush(self) -> None:
    self._path.write_bytes(bytes(self._content))

  close = flush
