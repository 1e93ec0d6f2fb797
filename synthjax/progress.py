"""What a long wait shows: one live line on a terminal, else a line at times."""

import os
import shutil
import sys
import time
from collections.abc import Callable

from synthjax import device_use

_REDRAWN = 0.2  # seconds between two states of a live line
_LOGGED = (10, 300)  # seconds between lines of a log: at first, and at most
_open = False  # whether the last line on the terminal is live


def counter(
  label: str,
  total: int,
  *,
  unit: str = "images",
  done: int = 0,
  processes: int = 1,
  shown: bool = True,
) -> Callable[..., float | None]:
  """Returns a function that counts what has been done, and tells of it.

  Args:
    label: what is at work, for people.
    total: of all that is to do.
    unit: what is counted, in the plural.
    done: of `total`, before this run.
    processes: that share the work; this one does its part of what is left.
    shown: false where another process tells the same.

  Returns:
    (count=1, note="") -> the rate per second, None until it is known. The
    first call starts the clock, as what comes before it is mostly compilation.
    `note` is told as well. The call that reaches `total` ends the live line,
    with the rate of everything.
  """
  watch, tell = device_use.watch(), paced()
  first, before, began, since = time.monotonic(), done, None, 0

  def count_on(count: int = 1, note: str = "") -> float | None:
    nonlocal began, done, since
    done, now = done + count, time.monotonic()
    rate = None
    if began is None:
      began = now
    else:
      since += count
      rate = since / max(now - began, 1e-9)
    last = done >= total
    if last:  # of all, as is the time behind it
      rate = (done - before) / max(now - first, 1e-9)

    def line():
      words = [f"{label}: {done:,}/{total:,} {unit}", note]
      words.append(f"{_short(rate)} {unit}/s" if rate else "")
      if last:
        words.append(f"in {duration(now - first)}")
      elif rate:
        words.append(f"{duration((total - done) / rate / processes)} left")
      return "  ".join(filter(None, [*words, watch()]))

    if shown:
      tell(line, last=last)
    return rate

  return count_on


def transfer(name: str, start: int, total: int | None) -> Callable[..., None]:
  """Returns a function that tells how far the bytes of a file have come.

  Args:
    name: of the file.
    start: bytes that were there before, for the rate.
    total: bytes of the whole file, where known.

  Returns:
    (size, last=False) -> None, to be called as often as one likes; `last` ends
    the live line.
  """
  began, tell = time.monotonic(), paced()

  def come(size: int, last: bool = False) -> None:
    def line():
      rate = (size - start) / max(time.monotonic() - began, 1e-3)
      of = f" of {total / 1e6:,.1f}" if total else ""
      text = f"{name}: {size / 1e6:,.1f}{of} MB, {rate / 1e6:,.1f} MB/s"
      if total and rate and size < total:
        text += f", {duration((total - size) / rate)} left"
      return text

    tell(line, last=last)

  return come


def paced() -> Callable[..., None]:
  """Returns (() -> line, last) -> None, which shows some of the lines.

  Only those are made that are shown: it may be called for every image.
  """
  began = told = time.monotonic()

  def tell(make_line: Callable[[], str], *, last: bool) -> None:
    nonlocal told
    now, pause = time.monotonic(), _REDRAWN
    if not _is_live():
      # A run of a day should not fill its log.
      pause = min(max(_LOGGED[0], (now - began) / 60), _LOGGED[1])
    if last or now - told >= pause:
      told = now
      say(make_line(), last=last)

  return tell


def say(line: str, *, last: bool = True) -> None:
  """Shows a line beside the results: on standard error, at once.

  Args:
    line: of text.
    last: false for one that the next line replaces, on a terminal.
  """
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
  """Leaves a live line as it is; what follows stands below it."""
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
