"""Errors that are a user's to mend, and the words that help to mend them."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


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


class Kind(NamedTuple):
  """What a field may hold, beside None."""

  fits: Callable[[Any], bool]
  words: str


def _whole(least: int) -> Callable[[Any], bool]:
  return lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least


def _number(x: Any) -> bool:
  real = isinstance(x, int | float) and not isinstance(x, bool)
  return real and math.isfinite(x)


def _are_seeds(x: Any) -> bool:
  given = isinstance(x, tuple | list) and all(map(_whole(0), x))
  return given and 0 < len(set(x)) == len(x)


COUNT = Kind(_whole(1), "a whole number, 1 or more")
WHOLE = Kind(_whole(0), "a whole number, 0 or more")
POSITIVE = Kind(lambda x: _number(x) and x > 0, "a number above 0")
NOT_NEGATIVE = Kind(lambda x: _number(x) and x >= 0, "a number, 0 or more")
SHARE = Kind(lambda x: _number(x) and 0 <= x <= 1, "a number from 0 to 1")
SEEDS = Kind(
  _are_seeds,
  "whole numbers, 0 or more, each once, such as (0, 1); what a command line "
  "gives a tuple twice adds up",
)
DTYPES = ("float32", "bfloat16", "float16")
DTYPE = Kind(lambda x: x in DTYPES, f"one of {', '.join(DTYPES)}")


def check_values(
  name: str, fields: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> None:
  """Checks the values of those fields that are there and not None.

  Args:
    name: of what holds them, such as "config.tune".
    fields: that were given.
    kinds: of some of them.

  Raises:
    UserError: naming every value that does not fit.
  """
  if problems := [
    f"{name}.{key}={fields[key]!r}: needed {kind.words}."
    for key, kind in kinds.items()
    if fields.get(key) is not None and not kind.fits(fields[key])
  ]:
    raise UserError(" ".join(problems))
