"""How the commands beside `synthjax.main` end."""

import os
import sys
from collections.abc import Callable

from synthjax.runtime.errors import as_message


def end_well(run: Callable[[], None]) -> None:
  """Runs a command: a UserError is one message and exit code 2."""
  try:
    with as_message():
      run()
      sys.stdout.flush()
  except BrokenPipeError:  # of `list | head`, which has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except KeyboardInterrupt:
    print(
      "\nsynthjax: interrupted. What was fetched is kept, and the same command "
      "goes on from there.",
      file=sys.stderr,
    )
    sys.exit(130)
