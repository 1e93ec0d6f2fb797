"""What a config as a whole may hold: fields by name, and strategies."""

from collections.abc import Callable, Iterable, Mapping

from synthjax.runtime.errors import UserError, unknown_names


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
    names: of strategies; "rg16" is real guidance by 16 shots, and
      "lora_x16" are the adapters of the method x of `tune_generator`.
    tasks: that draw images, or write the prompts of scores.

  Raises:
    UserError: naming those that no prompts are written by.
  """
  if "prompts" not in config or not {*tasks} <= {*config.tasks}:
    return
  generate = config.get("generate") or {}
  guided = generate.get("real_guidance")
  drawn = {*config.prompts.strategies}
  drawn |= {f"rg{shots}" for shots in (guided.shots if guided else ())}
  if generate.get("adapters") is not None and "tune_generator" in config:
    tuned = config.tune_generator
    drawn |= {
      f"lora_{method['name']}{shots}"
      for method in tuned.methods
      for shots in tuned.shots
    }
  if unknown := sorted({*names} - drawn):
    raise unknown_names("prompt strategy of this run", unknown, drawn)


def unknown_fields(
  config: Mapping,
  fields: Iterable[str],
  fields_of: Callable[[Mapping, str], Iterable[str]] = lambda config, block: (),
) -> UserError | None:
  """Returns an error about the dotted `fields` that a config cannot hold.

  Args:
    config: the config, as its file has it.
    fields: of it, such as "tune.lr".
    fields_of: the config and the name of a block, such as "tune" or
      "detect.options", -> the fields that it may hold besides those that it
      holds.
  """
  problems = []
  for field in fields:
    if problem := _why_unknown(config, field, fields_of):
      problems.append(problem)
  return UserError("\n".join(problems)) if problems else None


def _why_unknown(
  config: Mapping, field: str, fields_of: Callable
) -> str | None:
  block, path = config, []
  for key in (keys := field.split(".")):
    name = ".".join(["config", *path])
    if not hasattr(block, "keys"):
      return f"{name} is a value and has no fields."
    if key not in block:
      more = [*fields_of(config, ".".join(path))]
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
