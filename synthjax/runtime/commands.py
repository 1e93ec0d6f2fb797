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

  An exception may be lost where the signal came. Long loops call this by
  `progress.counter`.
  """
  if _again and threading.current_thread() is threading.main_thread():
    _again[-1]()


@contextlib.contextmanager
def on_stop(
  receive: Callable[[int], None], signals: Sequence[int] = STOPS
) -> Iterator[None]:
  """Gives `receive` the first signal to stop; a second one ends all at once.

  Python drops what `receive` raises where the signal came while an object was
  removed, as in JAX's callback of the garbage collection. Then `receive` is
  called again: right after it where Python tells of it, by `stop_if_told`, and
  at the end of the block. Signals that a shell has let the process ignore, as
  SIGINT in the background of a script, are received, too.

  Args:
    receive: takes the number of the signal, in the main thread.
    signals: that are meant.
  """

  def first(number, frame):
    del frame
    for each in signals:
      signal.signal(each, signal.SIG_DFL)
    if len(_again) == known:
      _again.append(functools.partial(receive, number))
    receive(number)

  def dropped(what):
    if len(_again) == known or not issubclass(what.exc_type, SystemExit):
      return tell(what)
    number = _again[-1].args[0]
    signal.signal(number, first)
    # Not from here, where it would be dropped as well.
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()

  known, tell = len(_again), sys.unraisablehook
  before = {each: signal.signal(each, first) for each in signals}
  sys.unraisablehook = dropped
  try:
    yield
    stop_if_told()
  finally:
    del _again[known:]
    sys.unraisablehook = tell
    for each, handler in before.items():
      signal.signal(each, handler)
