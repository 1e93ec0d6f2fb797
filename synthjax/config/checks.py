"""Checks of the fields of a config: their names, and their values."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from synthjax.runtime.errors import (
  Kind,
  UserError,
  check_fields,
  check_names,
  check_values,
  unknown_names,
)


def validate(
  block: Mapping[str, Any],
  allowed: Iterable[str] | Mapping[str, Kind],
  *,
  name: str,
  required: Iterable[str] = (),
) -> None:
  """Checks the keys of a block of a config.

  Args:
    block: the block, such as `config.generate`.
    allowed: every key that it may hold, and the kind of each if that is known.
    name: of the block, for the message.
    required: the keys that it must hold.

  Raises:
    UserError: naming every unknown key with the nearest allowed one, or every
      missing key, or every value that is not of its kind.
  """
  there = [k for k in block if k not in required or block[k] is not None]
  check_fields(f"config.{name}", there, allowed, required)
  if isinstance(allowed, Mapping):
    check_values(f"config.{name}", block, allowed)


def read_named(
  blocks: Iterable[Mapping[str, Any]],
  make: Callable[..., Any],
  known: Mapping[str, Kind],
  *,
  name: str,
  required: Iterable[str],
  taken: Iterable[str],
) -> list[Any]:
  """Reads blocks that each have a name, such as the arms of an experiment.

  Args:
    blocks: of a config.
    make: the fields of a block -> what is returned for it, with a `name`.
    known: the kind of every field.
    name: of what lists the blocks, such as "tune.arms".
    required: the fields that each must hold.
    taken: names that none may have.

  Raises:
    UserError: about fields or values that do not fit, no block at all, or names
      that are not unique.
  """
  for i, block in enumerate(blocks):
    validate(block, known, name=f"{name}[{i}]", required=required)
  read = [make(**block) for block in blocks]
  check_names(f"config.{name}", [each.name for each in read], taken)
  return read


def check_strategies(config: Mapping, names: Iterable[str]) -> None:
  """Checks that a run draws images by the prompt strategies that are used.

  A run that writes no prompts is not checked: images that are there decide.

  Args:
    config: with the block `prompts` and maybe `generate`.
    names: of strategies; "rg16" is real guidance by 16 shots.

  Raises:
    UserError: naming those that no prompts are written by.
  """
  if "prompts" not in config.tasks or "prompts" not in config:
    return
  guided = (config.get("generate") or {}).get("real_guidance")
  drawn = {*config.prompts.strategies}
  drawn |= {f"rg{shots}" for shots in (guided.shots if guided else ())}
  if unknown := sorted({*names} - drawn):
    raise unknown_names("strategy that this run draws by,", unknown, drawn)


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
