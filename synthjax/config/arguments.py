"""The argument behind the colon of --config=FILE:..."""

import types
from typing import Any

from synthjax.runtime.errors import UserError, unknown_names

_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def parse_arg(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
  """Reads the "runlocal,shots=16" behind the colon of --config=FILE:...

  Args:
    arg: names and values, separated by commas; a name alone means True. None
      and "" change nothing.
    **defaults: every name with its default. A value is read as the type of
      its default, bool, int, float or str; one whose default is None stays a
      str.

  Returns:
    A namespace of all names, so that `arg.shots` is 16.

  Raises:
    UserError: about an unknown name, a name given twice, or a bad value.
  """
  values = {}
  given = [item.partition("=") for item in (arg or "").split(",") if item]
  names = [name.strip() for name, _, _ in given]
  if unknown := [name for name in names if name not in defaults]:
    raise unknown_names("config argument", unknown, defaults)
  for name, (_, equals, text) in zip(names, given, strict=True):
    if name in values:
      raise UserError(f"Config argument {name!r} is given twice in {arg!r}.")
    if not equals and not isinstance(defaults[name], bool):
      raise UserError(
        f"Config argument {name!r} needs a value: "
        f"{name}={defaults[name]} is its default."
      )
    text = text.strip() if equals else "true"
    values[name] = _read_value(name, text, defaults[name])
  return types.SimpleNamespace(**defaults | values)


def _read_value(name: str, text: str, default: Any) -> Any:
  kind = str if default is None else type(default)
  if kind not in (bool, int, float, str):
    raise TypeError(f"{name}={default!r}: only bool, int, float and str work.")
  try:
    return _BOOLS[text.lower()] if kind is bool else kind(text)
  except (KeyError, ValueError):
    raise UserError(
      f"Config argument {name}={text} is not of type {kind.__name__}; "
      f"its default is {default}."
    ) from None
