"""Shows progress on standard error: one live line on a terminal, else a log."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from synthjax.runtime import commands
from synthjax.runtime.threads import count_cores

_REDRAWN = 0.2  # seconds between two states of a live line
_LOGGED = (10, 300)  # seconds between lines of a log: at first, and at most
_open = False  # whether the last line on the terminal is live
_muted = False


def mute(muted: bool = True) -> None:
  """Leaves counting to the process that this one works for."""
  global _muted
  _muted = muted


def is_muted() -> bool:
  """Returns whether another process shows the progress of this one."""
  return _muted


def counter(
  label: str,
  total: int,
  *,
  unit: str = "images",
  done: int = 0,
  processes: int = 1,
  shown: bool = True,
  watched: bool = True,
) -> Callable[..., float | None]:
  """Returns a function that counts work and shows how far it is.

  Args:
    label: the name of the work.
    total: the units of the whole work.
    unit: the name of the units, in the plural.
    done: the units that were done before this run.
    processes: the number that share the rest of the work.
    shown: false where another process shows the same.
    watched: shows the use of the devices; false where others do the work.

  Returns:
    (count=1, note="") -> the rate per second, None until it is known. The
    first call starts the clock, as most of the time before it is compilation.
    `note` is shown too. The call that reaches `total` ends the live line, with
    the rate of the whole run.
  """
  watch, show = watch_devices(), paced()
  first, before, began, since = time.monotonic(), done, None, 0

  def count_on(count: int = 1, note: str = "") -> float | None:
    nonlocal began, done, since
    commands.stop_if_told()
    done, now = done + count, time.monotonic()
    rate = None
    if began is None:
      began = now
    else:
      since += count
      rate = since / max(now - began, 1e-9)
    last = done >= total
    if last:  # of the whole run, as is the time that is shown
      rate = (done - before) / max(now - first, 1e-9)

    def line():
      parts = [f"{label}: {done:,}/{total:,} {unit}", note]
      parts.append(f"{_short(rate)} {unit}/s" if rate else "")
      if last:
        parts.append(f"in {duration(now - first)}")
      elif rate:
        parts.append(f"{duration((total - done) / rate / processes)} left")
      parts.append(watch() if watched else "")
      return "  ".join(filter(None, parts))

    if shown and not _muted:
      show(line, last=last)
    return rate

  return count_on


def transfer(name: str, start: int, total: int | None) -> Callable[..., None]:
  """Returns (size, last=False) -> None, which shows the progress of a download.

  Args:
    name: of the file.
    start: bytes that were there before, for the rate.
    total: bytes of the whole file, where known.
  """
  began, show = time.monotonic(), paced()

  def receive(size: int, last: bool = False) -> None:
    def line():
      rate = (size - start) / max(time.monotonic() - began, 1e-3)
      of = f" of {total / 1e6:,.1f}" if total else ""
      text = f"{name}: {size / 1e6:,.1f}{of} MB, {rate / 1e6:,.1f} MB/s"
      if total and rate and size < total:
        text += f", {duration((total - size) / rate)} left"
      return text

    show(line, last=last)

  return receive


def paced() -> Callable[..., None]:
  """Returns (() -> line, last) -> None, which shows a line now and then.

  It makes only the lines that it shows, so it may be called for every image.
  """
  began = shown = time.monotonic()

  def show(make_line: Callable[[], str], *, last: bool) -> None:
    nonlocal shown
    now, pause = time.monotonic(), _REDRAWN
    if not _is_live():
      # A run of a day should not fill its log.
      pause = min(max(_LOGGED[0], (now - began) / 60), _LOGGED[1])
    if last or now - shown >= pause:
      shown = now
      say(make_line(), last=last)

  return show


def say(line: str, *, last: bool = True) -> None:
  """Prints a line on standard error; a terminal replaces it unless `last`."""
  global _open
  if not _is_live():
    print(line, file=sys.stderr, flush=True)
    return
  if not last:  # a longer one would not be replaced whole
    line = line[: shutil.get_terminal_size().columns - 1]
  print(
    f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True
  )
  _open = not last


def end_line() -> None:
  """Ends the live line, so that other output starts below it."""
  global _open
  if _open:
    print(file=sys.stderr, flush=True)
  _open = False


def duration(seconds: float) -> str:
  """Writes a time as "40 s", "3 min" or "2 h 5 min"."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  hours, minutes = divmod(round(seconds / 60), 60)
  return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def _short(rate: float) -> str:
  return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _is_live() -> bool:
  return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


# --- how busy the devices are -------------------------------------------------

_ASKED = 10  # seconds between two calls of nvidia-smi, which takes a while


def watch_devices() -> Callable[[], str]:
  """Returns () -> the use of this process's devices, as a short text.

  On a CPU it shows the cores at work since the last call, as "1.9 of 2 cores".
  On accelerators it shows the memory in use and, on NVIDIA's, the share of time
  that they computed, as "97 % busy, 41 of 80 GB". TPUs report no such share.
  """
  cpu, wall, busy, asked = time.process_time(), time.monotonic(), None, None

  def use() -> str:
    nonlocal cpu, wall, busy, asked
    import jax

    devices, now = jax.local_devices(), time.monotonic()
    if devices[0].platform == "cpu":
      spent, passed = time.process_time() - cpu, now - wall
      cpu, wall = cpu + spent, now
      if passed < 1e-3:
        return ""
      return f"{spent / passed:.1f} of {count_cores()} cores"
    if devices[0].platform == "gpu" and (asked is None or now - asked > _ASKED):
      busy, asked = _busy(), now
    share = f"{busy:.0f} % busy" if busy is not None else ""
    return ", ".join(filter(None, [share, _memory(devices)]))

  return use


def _memory(devices: list) -> str:
  """Tells the bytes that arrays hold, of those that JAX may take."""
  stats = [device.memory_stats() or {} for device in devices]
  used, limit = (
    sum(stat.get(key, 0) for stat in stats) / 1e9
    for key in ("bytes_in_use", "bytes_limit")
  )
  return f"{used:.3g} of {limit:.3g} GB" if limit else ""


def _busy() -> float | None:
  """Returns the mean share of time, in %, that NVIDIA's devices computed."""
  command = ["nvidia-smi", "--query-gpu=utilization.gpu"]
  command.append("--format=csv,noheader,nounits")
  if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
    command.append(f"--id={visible}")
  try:
    output = subprocess.run(
      command, capture_output=True, text=True, timeout=2, check=True
    ).stdout
    shares = [float(line) for line in output.split()]
  except (OSError, subprocess.SubprocessError, ValueError):
    return None  # a line of progress is no reason to fail
  return sum(shares) / len(shares) if shares else None
