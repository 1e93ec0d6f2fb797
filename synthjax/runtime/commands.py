"""How commands end: by themselves, or by a signal."""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from synthjax.runtime.errors import as_message

STOPS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what schedulers send
_again: list[Callable[[], None]] = []  # to call where an exception got lost


def end_well(run: Callable[[], None]) -> None:
  """Runs a command: a UserError is one message and exit code 2."""
  try:
    with as_message():
      run()
      sys.stdout.flush()
  except BrokenPipeError:  # of `list | head`, which has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stop_if_told() -> None:
  """Calls what has received a signal again, if the run goes on nevertheless.

  An exception is lost where the signal came while Python removed an object, or
  C++ called it. Long loops call this by `progress.counter`.
  """
  if _again and threading.current_thread() is threading.main_thread():
    _again.pop()()


@contextlib.contextmanager
def on_stop(
  receive: Callable[[int], None], signals: Sequence[int] = STOPS
) -> Iterator[None]:
  """Gives `receive` the first signal to stop; a second one ends all at once.

  Args:
    receive: takes the number of the signal, in the main thread.
    signals: that are meant.
  """

  def first(number, frame):
    del frame
    for each in signals:
      signal.signal(each, signal.SIG_DFL)
    _again.append(functools.partial(receive, number))
    receive(number)

  before = {each: signal.signal(each, first) for each in signals}
  known = len(_again)
  try:
    yield
  finally:
    del _again[known:]
    for each, handler in before.items():
      signal.signal(each, handler)
