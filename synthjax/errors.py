"""Errors that are a user's to mend, and the words that help to mend them."""

import difflib
import inspect
from collections.abc import Callable, Iterable


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


def check_fields(
  name: str,
  fields: Iterable[str],
  allowed: Iterable[str],
  required: Iterable[str] = (),
) -> None:
  """Checks the names of fields.

  Args:
    name: of what holds them, such as "config.generate".
    fields: that were given.
    allowed: that it may hold, beside the required ones.
    required: that it must hold.

  Raises:
    UserError: naming every unknown field with the nearest allowed one, or every
      missing one.
  """
  fields, required = list(fields), list(required)
  allowed = {*allowed, *required}
  if unknown := [key for key in fields if key not in allowed]:
    raise unknown_names(f"{name} field", unknown, allowed)
  if missing := [key for key in required if key not in fields]:
    raise UserError(
      f"{name} lacks {', '.join(missing)}; "
      f"it holds {', '.join(sorted(fields)) or 'nothing'}."
    )


def check_arguments(
  name: str, fields: Iterable[str], function: Callable
) -> None:
  """Checks fields that are to be the arguments of a function; `check_fields`.

  Raises:
    UserError: if the function has no such argument, or needs another.
  """
  parameters = inspect.signature(function).parameters
  needed = [k for k, p in parameters.items() if p.default is inspect._empty]
  check_fields(name, fields, parameters, needed)
