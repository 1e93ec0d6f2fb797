"""What a long wait shows: one live line on a terminal, else a line at times."""

import sys
import time
from collections.abc import Callable


def progress(name: str, start: int, total: int | None) -> Callable[..., None]:
  """Returns a function that tells how far the bytes of a file have come.

  Args:
    name: of the file.
    start: bytes that were there before, for the rate.
    total: bytes of the whole file, where known.

  Returns:
    (size, last=False) -> None, to be called as often as one likes; `last` ends
    the live line.
  """
  live = sys.stderr.isatty()
  began = told = time.monotonic()

  def tell(size: int, last: bool = False) -> None:
    nonlocal told
    now = time.monotonic()
    if not last and now - told < (0.2 if live else 10):
      return
    told = now
    rate = (size - start) / max(now - began, 1e-3)
    of = f" of {total / 1e6:,.1f}" if total else ""
    line = f"{name}: {size / 1e6:,.1f}{of} MB, {rate / 1e6:,.1f} MB/s"
    if total and rate and size < total:
      line += f", {duration((total - size) / rate)} left"
    if live:
      end = "\n" if last else ""
      print(f"\r\x1b[K{line}", end=end, file=sys.stderr, flush=True)
    else:
      say(line)

  return tell


def duration(seconds: float) -> str:
  """Writes a time as "40 s", "3 min" or "2 h 5 min"."""
  if seconds < 90:
    return f"{seconds:.0f} s"
  hours, minutes = divmod(round(seconds / 60), 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def say(line: str) -> None:
  """Prints a line beside the results: on standard error, at once."""
  print(line, file=sys.stderr, flush=True)
