"""Metrics of a training run: files, lines of progress, and TensorBoard."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.runtime import atomic, progress
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import duration, paced, say
from synthjax.runtime.text_files import parse_json
from synthjax.training.loop import Hook

# state -> numbers that a run measures now and then, besides those of its steps.
Monitor = Callable[[Any], Mapping[str, float]]


def progress_hook(
  file: epath.PathLike,
  *,
  label: str,
  every: int,
  num_steps: int,
  first_step: int = 0,
  batch_size: int = 0,
  monitor: Monitor | None = None,
  monitor_every: int = 0,
  kept: Callable[[], str] = lambda: "The checkpoints before it are unharmed.",
  tensorboard: epath.PathLike | None = None,
  parameters: str = "",
) -> Hook:
  """Writes metrics to files and to the terminal or log.

  With several processes the first one does; the others count along.

  Args:
    file: JSON lines, one for each `every` steps and one for each of the
      monitor's. What an interrupted run wrote after `first_step` is dropped, so
      that steps ascend and none has two rows.
    label: what is being trained, for people.
    every: steps.
    num_steps: of the whole training.
    first_step: where this run starts.
    batch_size: images of a step, for the rate.
    monitor: state -> numbers, called each `monitor_every` steps and at the
      last; it must be done with the state's arrays when it returns, as the
      next step takes their memory.
    monitor_every: steps; 0 monitors the last alone.
    kept: says what is left where a metric is not finite; `checkpoint.newest`.
    tensorboard: gets the metrics as event files, too; None writes none.
    parameters: a table of them, which TensorBoard shows.

  Returns:
    A hook, which raises UserError when a metric is not finite.
  """
  file, first = epath.Path(file), jax.process_index() == 0
  if first:
    _drop_after(file, first_step)
  events = None
  if first and tensorboard is not None:
    events = open_events(tensorboard, first_step=first_step)
    if parameters:
      events.text("parameters", f"```\n{parameters}\n```")
  show, watch = paced(), progress.watch_devices()
  began, monitored, timed_from = time.monotonic(), {}, None

  def read(step, metrics):
    row = {"step": step} | finite(label, step, metrics, kept=kept)
    if first:
      with file.open("a") as f:
        f.write(json.dumps(row) + "\n")
    return row

  def show_progress(step, row):
    seconds = max(time.monotonic() - began, 1e-9)
    rate = (step - timed_from) / seconds
    speed = {}
    if batch_size and rate:
      speed = {"images_per_second": rate * batch_size}

    def line():
      parts = [f"{label}: {step:,}/{num_steps:,} steps", _line(row | monitored)]
      parts += [f"{per_second:,.1f} images/s" for per_second in speed.values()]
      if step == num_steps:
        parts.append(f"in {duration(seconds)}")
      elif rate:
        parts.append(f"{duration((num_steps - step) / rate)} left")
      return "  ".join(filter(None, [*parts, watch()]))

    if first:
      show(line, last=step == num_steps)
    if events:
      events.write(step, row | speed)

  def hook(step: int, state: Any, metrics: Mapping) -> None:
    nonlocal began, monitored, timed_from
    if timed_from is None:
      float(next(iter(metrics.values())))  # waits: compiling is not training
      began, timed_from = time.monotonic(), step
    row = None
    if _due(step, every, num_steps):
      row = read(step, metrics)
    if monitor is not None and _due(step, monitor_every, num_steps):
      jax.block_until_ready(state)
      paused = time.monotonic()
      monitored = read(step, monitor(state))
      began += time.monotonic() - paused  # nor is monitoring
      if events:
        events.write(step, monitored)
    if row:
      show_progress(step, row)
    if events and step == num_steps:
      events.close()

  return hook


def _due(step: int, every: int, num_steps: int) -> bool:
  return step == num_steps or (every > 0 and step % every == 0)


def finite(
  label: str, step: int, metrics: Mapping, *, kept: Callable[[], str]
) -> dict[str, float]:
  """Returns metrics as numbers.

  Args:
    label: of the run, for people.
    step: that they are of.
    metrics: scalars, on whatever device.
    kept: says which checkpoint is left.

  Raises:
    UserError: naming those that are not finite.
  """
  row = {k: float(np.asarray(v)) for k, v in metrics.items()}
  if bad := [name for name, x in row.items() if not math.isfinite(x)]:
    raise UserError(
      f"{label}: {', '.join(bad)} is not finite at step {step}. {kept()} Lower "
      "the learning rate or clip gradients (lr, clip_norm) and start in "
      "another workdir."
    )
  return row


def _line(row: Mapping[str, float]) -> str:
  return "  ".join(f"{k} {x:.4g}" for k, x in row.items() if k != "step")


def _drop_after(file: epath.Path, step: int) -> None:
  """Drops the rows after a step, and a line that a crash cut short."""
  if not file.exists():
    return
  kept = [row for row in read_rows(file) if row["step"] <= step]
  text = "".join(json.dumps(row) + "\n" for row in kept)
  if text.encode() != file.read_bytes():
    with atomic.replace(file.parent, file.name) as path:
      path.write_text(text)


def read_rows(file: epath.PathLike) -> list[dict[str, float]]:
  """Reads metrics; a last line that a crash cut short is left out.

  So is what follows a line that is damaged, and this is said.
  """
  file = epath.Path(file)
  if not file.exists():
    return []
  rows, lines = [], file.read_bytes().splitlines()
  for number, line in enumerate(lines, start=1):
    try:
      row = parse_json(line, dict)
      if type(row.get("step")) is not int:
        raise ValueError("it has no step")
    except ValueError as error:
      if number < len(lines):
        say(
          f"{file}, line {number}, is damaged ({error}): it and the rows "
          "behind it are left out."
        )
      break
    rows.append(row)
  return rows


# --- TensorBoard --------------------------------------------------
# `clu.metric_writers` would write them, but imports TensorFlow, as do
# `clu.periodic_actions` and `clu.checkpoint`; tensorboardX does without. We
# use its files and not its `SummaryWriter`: that one's thread dies of a full
# disk, and then its queue blocks the training.

_HELD_BACK = 30  # seconds, at most, before what is written can be seen


class Events(NamedTuple):
  """One run in TensorBoard."""

  write: Callable[[int, Mapping[str, float]], None]  # of a step
  text: Callable[[str, str], None]  # a name, and Markdown
  close: Callable[[], None]


def open_events(folder: epath.PathLike, *, first_step: int = 0) -> Events:
  """Opens a new event file in a folder, which is made if needed.

  Reports a file that cannot be written once, and goes on: the same numbers are
  in the metrics.

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
      say(f"Cannot write TensorBoard's events to {folder}: {error}")

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
