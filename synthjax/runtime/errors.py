"""Errors that a user can correct, and messages that say how."""

import contextlib
import difflib
import errno
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class UserError(ValueError):
  """Says what was found, what is allowed and what to change.

  A command prints its message alone and exits with code 2 (`as_message`).
  Every other error but those of a user's disk is a bug of ours, and keeps its
  traceback.
  """


# What the system says of a disk or a path, wherever it is met.
_OF_DISKS = {
  *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
  *(errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG),
  *(errno.ENOTDIR, errno.EISDIR),
}


@contextlib.contextmanager
def as_message() -> Iterator[None]:
  """Makes an error that a user can correct one message and exit code 2."""
  try:
    yield
  except UserError as error:
    message = str(error)
  except OSError as error:
    if error.errno not in _OF_DISKS:
      raise
    path = f"{error.filename}: " if error.filename else ""
    message = (
      f"{path}{error.strerror}. Files that are complete are kept: make the "
      "path one that can be read and written, and run the same command again."
    )
  else:
    return
  print(f"synthjax: {message}", file=sys.stderr)
  sys.exit(2)


def unknown_names(
  kind: str, names: Iterable[str], allowed: Iterable[str]
) -> UserError:
  """Returns an error about all of `names`, with the nearest allowed ones.

  Args:
    kind: what is named, as it reads in a sentence, such as "task".
    names: the names found that are not allowed.
    allowed: every name that is.
  """
  allowed = [str(name) for name in allowed]
  lines = []
  for name in names:
    lines.append(f"There is no {kind} {str(name)!r}{_hint(name, allowed)}")
  listed = ", ".join(sorted(allowed)) or "none at all"
  return UserError(" ".join([*lines, f"Allowed: {listed}."]))


def _hint(name: Any, allowed: Sequence[str]) -> str:
  near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
  return f"; did you mean {near[0]!r}?" if near else "."
