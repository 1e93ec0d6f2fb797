"""Errors that are a user's to mend, and the words that help to mend them."""

import difflib
from collections.abc import Iterable


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
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    lines.append(f"There is no {kind} {str(name)!r}{hint}")
  listed = ", ".join(sorted(allowed)) or "none at all"
  return UserError(" ".join([*lines, f"Allowed: {listed}."]))
