"""What a command line may set: arguments of a config file, and its fields."""

import types
from collections.abc import Callable, Iterable, Mapping
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


def check_strategies(
  config: Mapping,
  names: Iterable[str],
  *,
  tasks: Iterable[str] = ("prompts", "generate"),
) -> None:
  """Checks that a run draws images by the prompt strategies that are used.

  A run without these tasks is not checked: images that are there decide.

  Args:
    config: with the block `prompts` and maybe `generate`.
    names: of strategies; "rg16" is real guidance by 16 shots.
    tasks: that draw images, or write the prompts of scores.

  Raises:
    UserError: naming those that no prompts are written by.
  """
  if "prompts" not in config or not {*tasks} <= {*config.tasks}:
    return
  guided = (config.get("generate") or {}).get("real_guidance")
  drawn = {*config.prompts.strategies}
  drawn |= {f"rg{shots}" for shots in (guided.shots if guided else ())}
  if unknown := sorted({*names} - drawn):
    raise unknown_names("prompt strategy of this run", unknown, drawn)


def unknown_fields(
  config: Mapping,
  fields: Iterable[str],
  known: Callable[[Mapping, str], Iterable[str]] = lambda config, block: (),
) -> UserError | None:
  """Returns an error about the dotted `fields` that a config cannot hold.

  Args:
    config: the config, as its file has it.
    fields: of it, such as "tune.lr".
    known: the config and the name of a block, such as "tune" or
      "detect.options", -> the fields that it may hold besides those that it
      holds.
  """
  problems = []
  for field in fields:
    if problem := _why_unknown(config, field, known):
      problems.append(problem)
  return UserError("\n".join(problems)) if problems else None


def _why_unknown(config: Mapping, field: str, known: Callable) -> str | None:
  block, path = config, []
  for key in (keys := field.split(".")):
    name = ".".join(["config", *path])
    if not hasattr(block, "keys"):
      return f"{name} is a value and has no fields."
    if key not in block:
      more = [*known(config, ".".join(path))]
      if key not in more:
        return str(unknown_names(f"{name} field", [key], {*block, *more}))
      if [*path, key] == keys:
        return None
      return (
        f"{name} has no {key} yet: give all of it at once, as in "
        f"--{name}.{key}=\"{{'{keys[-1]}': ...}}\"."
      )
    block, path = block[key], [*path, key]
  return None
