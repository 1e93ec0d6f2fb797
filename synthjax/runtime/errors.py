"""Errors that a user can correct, and messages that say how."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    lines.append(f"There is no {kind} {str(name)!r}{_hint(name, allowed)}")
  listed = ", ".join(sorted(allowed)) or "none at all"
  return UserError(" ".join([*lines, f"Allowed: {listed}."]))


def _hint(name: Any, allowed: Sequence[str]) -> str:
  near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
  return f"; did you mean {near[0]!r}?" if near else "."


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


def check_names(name: str, names: Sequence[str], taken: Iterable[str]) -> None:
  """Checks names that tell things apart, such as the arms of an experiment.

  Args:
    name: of what lists them, such as "config.tune.arms".
    names: that were given.
    taken: that none may have.

  Raises:
    UserError: if there are none, one is given twice, or is taken.
  """
  taken = list(taken)
  if not names or len({*names, *taken}) < len([*names, *taken]):
    raise UserError(
      f"{name} has the names {list(names)}: at least one is needed, each "
      f"once, and {', '.join(map(repr, taken))} is taken."
    )


class Kind(NamedTuple):
  """What a field may hold, beside None."""

  fits: Callable[[Any], bool]
  words: str
  choices: Sequence[str] = ()  # of which the nearest is told


def _whole(least: int) -> Callable[[Any], bool]:
  return lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least


def _number(x: Any) -> bool:
  real = isinstance(x, int | float) and not isinstance(x, bool)
  return real and math.isfinite(x)


def _text(x: Any) -> bool:
  return isinstance(x, str)


def _block(x: Any) -> bool:
  return hasattr(x, "keys")


def _several(
  fits: Callable[[Any], bool], *, once: bool = False
) -> Callable[[Any], bool]:
  def all_fit(x):
    listed = isinstance(x, tuple | list) and len(x) > 0 and all(map(fits, x))
    return listed and not (once and len(set(x)) < len(x))

  return all_fit


def one_of(names: Iterable[str]) -> Kind:
  """Returns the kind of a field that names one of a few choices."""
  names = tuple(names)
  words = f"one of {', '.join(names)}"
  return Kind(lambda x: _text(x) and x in names, words, names)


FLAG = Kind(lambda x: isinstance(x, bool), "True or False")
COUNT = Kind(_whole(1), "a whole number, 1 or more")
SEVERAL = Kind(_whole(2), "a whole number, 2 or more")
WHOLE = Kind(_whole(0), "a whole number, 0 or more")
NUMBER = Kind(_number, "a number")
POSITIVE = Kind(lambda x: _number(x) and x > 0, "a number above 0")
NOT_NEGATIVE = Kind(lambda x: _number(x) and x >= 0, "a number, 0 or more")
SHARE = Kind(lambda x: _number(x) and 0 <= x <= 1, "a number from 0 to 1")
INSIDE = Kind(lambda x: _number(x) and 0 < x < 1, "a number between 0 and 1")
BELOW_ONE = Kind(
  lambda x: _number(x) and 0 <= x < 1, "a number from 0, and below 1"
)
_ONCE = "each once, such as"
_ADDS_UP = "what a command line gives a tuple twice adds up"
SEEDS = Kind(
  _several(_whole(0), once=True),
  f"whole numbers, 0 or more, {_ONCE} (0, 1); {_ADDS_UP}",
)
SHOTS = Kind(
  _several(lambda x: x is None or _whole(1)(x), once=True),
  f"whole numbers, 1 or more, {_ONCE} (1, 16); {_ADDS_UP}",
)
RANGE = Kind(
  lambda x: _several(_whole(0))(x) and len(x) == 2 and x[0] <= x[1],
  "two whole numbers in ascending order, such as (100, 600)",
)
COUNTS = Kind(_several(_whole(1)), "whole numbers, 1 or more, such as (8, 16)")
SIDES = Kind(
  _several(lambda x: _number(x) and x > 0), "numbers above 0, such as (16, 32)"
)
NUMBERS = Kind(_several(_number), "numbers, such as (0.5, 0.75)")
TEXT = Kind(_text, "text")
TEXTS = Kind(_several(_text), "names, such as ('one', 'other')")
PAIRS = Kind(
  lambda x: x == () or _several(lambda y: TEXTS.fits(y) and len(y) == 2)(x),
  "pairs of names",
)
BLOCK = Kind(_block, "fields of its own, such as {'split': 'test'}")
BLOCK_LIST = Kind(_several(_block), "one or more blocks of fields")
NAMED = Kind(lambda x: _text(x) or _block(x), "a name, or fields of its own")
DTYPES = ("float32", "bfloat16", "float16")
DTYPE = one_of(DTYPES)


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
    f"{name}.{key}={fields[key]!r}: needed {kind.words}"
    f"{_hint(fields[key], kind.choices)}"
    for key, kind in kinds.items()
    if fields.get(key) is not None and not kind.fits(fields[key])
  ]:
    raise UserError(" ".join(problems))
