"""Errors that a user can correct, and messages that say how."""

import contextlib
import difflib
import errno
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


class UserError(ValueError):
  """Says what was found, what is allowed and what to change.

  A command prints its message alone and exits with code 2 (`as_message`).
  Every other error but those of a user's disk is a bug of ours, and keeps its
  traceback.

  Args:
    *problems: the message; several, if there are several things to change.
  """

  def __init__(self, *problems: str):
    self.problems = tuple(dict.fromkeys(problems))
    super().__init__("\n".join(map(str, self.problems)))


_long: list[Callable[[], Any]] | None = None  # what `lastly` was given


@contextlib.contextmanager
def gathered() -> Iterator[Callable]:
  """Yields a function that calls others; at the end, raises all their problems.

  Example:
    with errors.gathered() as attempt:
      attempt(check_encoder, **config.encoder)
      attempt(check_images, config.test)

  Raises:
    UserError: with the problems of every UserError that the calls raised, each
      once.
  """
  problems: list[str] = []

  def attempt(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Returns what the function does; None if it raises a UserError."""
    try:
      return function(*args, **kwargs)
    except UserError as error:
      problems.extend(error.problems)
      return None

  global _long
  if is_outer := _long is None:
    _long = []
  try:
    yield attempt
    while is_outer and _long and not problems:
      attempt(_long.pop(0))
  except UserError as error:  # what the rest of the block cannot do without
    problems.extend(error.problems)
  finally:
    if is_outer:
      _long = None
  if problems:
    raise UserError(*problems)


def lastly(function: Callable, *args: Any, **kwargs: Any) -> None:
  """Calls a function at the end of all that is gathered, or at once.

  For checks that take seconds, such as to trace a large network: they are not
  made if something is missing already.
  """
  if _long is None:
    function(*args, **kwargs)
  else:
    _long.append(functools.partial(function, *args, **kwargs))


# What the system says of a disk or a path, wherever it is met.
_OF_DISKS = {
  *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
  *(errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG),
  *(errno.ENOTDIR, errno.EISDIR),
}


@contextlib.contextmanager
def as_message() -> Iterator[None]:
  """Makes an error that a user can correct one message and exit code 2.

  Ctrl-C is a message, too, and exit code 130.
  """
  code = 2
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
  except KeyboardInterrupt:
    message, code = (
      "interrupted. What is complete is kept, and the same command goes on.",
      130,
    )
  else:
    return
  print(f"synthjax: {message}", file=sys.stderr)
  sys.exit(code)


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
