"""Errors that a user can correct, and messages that say how."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class UserError(ValueError):
  """Says what was found, what is allowed and what to change.

  `synthjax.main` prints its message alone and exits with code 2. Every other
  error is a bug of ours, and keeps its traceback.
  """


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
