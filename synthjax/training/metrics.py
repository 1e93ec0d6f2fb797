"""Metrics of a training run: a file, lines of progress, and loggers."""

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from synthjax.runtime import atomic, progress
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import duration, paced, say
from synthjax.runtime.text_files import parse_json
from synthjax.training.loggers import Logger
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
  logger: Logger | None = None,
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
    kept: says what is left where a metric is not finite; `run.newest`.
    logger: gets the metrics, too, of the first process.

  Returns:
    A hook, which raises UserError when a metric is not finite.
  """
  file, first = epath.Path(file), jax.process_index() == 0
  if first:
    _drop_after(file, first_step)
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
    if logger:
      logger.write(step, _numbers(row) | speed)

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
      if logger:
        logger.write(step, _numbers(monitored))
    if row:
      show_progress(step, row)

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


def _numbers(row: Mapping[str, float]) -> dict[str, float]:
  return {name: x for name, x in row.items() if name != "step"}


def _line(row: Mapping[str, float]) -> str:
  return "  ".join(f"{k} {x:.4g}" for k, x in _numbers(row).items())


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
