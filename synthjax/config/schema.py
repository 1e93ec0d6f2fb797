"""Reads a block of a config into a frozen dataclass, which is its schema.

A function or a flax module is a schema as well: its arguments are the fields.
This module lists no fields: those of config.TASK are FIELDS of tasks/TASK.py.
It lists all problems of one block, `config.arguments` those of a config's
names, and `main` joins them with what `check` of each task finds.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import operator
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from synthjax.runtime.errors import UserError, unknown_names


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a value must be beyond its type: `Annotated[int, Rule(...)]`."""

  holds: Callable[[Any], Any]  # asked about values of the right type alone
  words: str  # what is needed, such as "a number above 0"
  choices: tuple = ()  # a message suggests the nearest
  shown: Callable[[Any], Any] = lambda value: value  # in a message


@dataclasses.dataclass(frozen=True, eq=False)
class Arguments:
  """A schema: the arguments of a function, or the fields of a class.

  A block becomes a `functools.partial` of a function or a flax module, or of a
  class that has `filled` arguments; it becomes an instance of other classes.
  """

  target: Callable
  filled: Collection[str] = ()  # arguments that the caller gives later

  def fields(self) -> dict[str, tuple[Any, bool]]:
    """Returns the type of each field, and whether a block must have it."""
    target, omitted = self.target, {*self.filled}
    while isinstance(target, functools.partial):
      target = target.func
    if _is_module(target):
      omitted |= {"parent", "name"}
    elif isinstance(target, type) and not _is_block(target):
      target = target.__init__
    hints = typing.get_type_hints(target, include_extras=True)
    return {
      name: (hints.get(name, Any), p.default is p.empty)
      for name, p in inspect.signature(self.target).parameters.items()
      if name not in omitted and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """A schema that a field of the block chooses: `Annotated[Any, Choice(...)]`.

  A name alone is a block too: "sgd" is {"name": "sgd"}. The chosen dataclass or
  function gets the name as well, if it has a field of that name.
  """

  field: str  # such as "name"
  table: Mapping[str, Any]  # see `resolve`; of dataclasses, functions, ...
  default: str | None = None  # what is chosen by a block without the field
  filled: Collection[str] = ()  # see `Arguments`
  member: str = "load"  # the function of a module, if a name stands for one

  def pick(self, name: Any) -> Arguments:
    """Returns the schema called `name`; raises what `resolve` does."""
    target = resolve(name, self.table)
    if isinstance(target, types.ModuleType):
      target = getattr(target, self.member, None)
    if not isinstance(target, Arguments) and not callable(target):
      raise UserError(
        f"{name!r}: needed a function, a class or a module with the function "
        f"{self.member!r}"
      )
    if isinstance(target, Arguments):
      return target
    return Arguments(target, self.filled)


def one_of(names: Iterable[str]) -> Rule:
  """Returns the rule of a few choices: `Annotated[str, one_of(SAMPLERS)]`."""
  names = tuple(names)
  is_one = lambda x: any(type(x) is type(name) and x == name for name in names)
  return Rule(is_one, f"one of {', '.join(map(str, names))}", names)


def unique_names(*reserved: str) -> Rule:
  """Returns the rule of a tuple of blocks that have different names.

  There must be at least one: `Annotated[tuple[Arm, ...], unique_names("all")]`.

  Args:
    *reserved: names that no block may have.
  """
  names_of = lambda blocks: [block.name for block in blocks]
  are_unique = lambda names: len({*names} - {*reserved}) == len(names) > 0
  words = "one block or more, each with a name of its own"
  if reserved:
    words += f" that is not {' or '.join(map(repr, reserved))}"
  return Rule(lambda x: are_unique(names_of(x)), words, shown=names_of)


def _different(least: str, example: str) -> Rule:
  return Rule(
    lambda numbers: 0 < len(numbers) == len({*numbers}),
    f"different whole numbers, {least}, such as {example}; a flag that is "
    "given twice adds up, as it appends to the tuple",
  )


# 3 is a Number; True, nan and inf are not.
Flag, Number, Text = bool, float, str
Count = Annotated[int, Rule(lambda x: x >= 1, "a whole number, 1 or more")]
Several = Annotated[int, Rule(lambda x: x >= 2, "a whole number, 2 or more")]
Whole = Annotated[int, Rule(lambda x: x >= 0, "a whole number, 0 or more")]
Positive = Annotated[float, Rule(lambda x: x > 0, "a number above 0")]
NotNegative = Annotated[float, Rule(lambda x: x >= 0, "a number, 0 or more")]
Share = Annotated[float, Rule(lambda x: 0 <= x <= 1, "a number from 0 to 1")]
Inside = Annotated[float, Rule(lambda x: 0 < x < 1, "a number between 0 and 1")]
BelowOne = Annotated[
  float, Rule(lambda x: 0 <= x < 1, "a number from 0, and below 1")
]
Dtype = Literal["float32", "bfloat16", "float16"]
# How float32 is multiplied. "highest" is float32; "default" is what a device
# takes for it: TF32 on NVIDIA, bfloat16 on TPUs. To a CPU both are the same.
Precision = Literal["highest", "default"]
# None of these tuples may be empty but Pairs; a plain tuple[int, ...] may.
Seeds = Annotated[tuple[Whole, ...], _different("0 or more", "(0, 1)")]
# None takes the whole pool.
Shots = Annotated[tuple[Count | None, ...], _different("1 or more", "(1, 16)")]
Range = Annotated[
  tuple[Whole, Whole],
  Rule(lambda x: x[0] <= x[1], "two ascending whole numbers, as (100, 600)"),
]
Counts = Annotated[tuple[Count, ...], Rule(len, "whole numbers, as (8, 16)")]
Sides = Annotated[tuple[Positive, ...], Rule(len, "numbers above 0, as (1, 2)")]
Numbers = Annotated[tuple[float, ...], Rule(len, "numbers, as (0.5, 0.75)")]
Texts = Annotated[tuple[str, ...], Rule(len, "names, as ('one', 'other')")]
Pairs = tuple[Annotated[tuple[str, str], Rule(len, "a pair of names")], ...]
Block = Mapping[str, Any]  # becomes a dict, as does every block inside of it
Blocks = Annotated[tuple[Block, ...], Rule(len, "one or more blocks of fields")]


def read(cls: Any, block: Any, name: str) -> Any:
  """Reads a block of a config.

  None stands for the default of a field. A field without a default is then
  missing, unless its type is a union with None. Lists become tuples.

  Args:
    cls: a dataclass, function, flax module, `Arguments` or `Choice`. A method
      `problems(self) -> Iterable[str]` of a dataclass yields what is wrong
      between fields that are right by themselves.
    block: a ConfigDict or dict; None is an empty one.
    name: of the block, for messages, such as "config.tune".

  Returns:
    An instance of the dataclass; for functions and modules see `Arguments`.

  Raises:
    UserError: listing every problem, one a line.

  Example:
    tune = read(Tune, config.tune, "config.tune")
  """
  lines: list[str] = []
  value = _read(cls, {} if block is None else block, name, lines)
  if lines:
    raise UserError("\n".join(lines))
  return value


def read_checked(cls: Any, block: Any, name: str) -> functools.partial:
  """Reads a block into a function, and has its module check the arguments.

  Args:
    cls: of functions, such as the `Choice` of a generator. The module of the
      function may have a `check` with the same arguments.
    block: as in `read`.
    name: as in `read`.

  Raises:
    UserError: as `read`, or as the module's `check`.
  """
  function = read(cls, block, name)
  check = getattr(inspect.getmodule(function.func), "check", None)
  if check:
    check(**function.keywords)
  return function


def whole_block(
  kind: str,
  name: str | None,
  fields: Mapping[str, Any],
  table: Mapping[str, str],
  whole: Mapping[str, Callable[..., Mapping[str, Any]]],
) -> dict[str, Any]:
  """Returns the block of a name, for which all fields may stand already.

  Args:
    kind: of what is chosen, for the message.
    name: a key of `table` or a dotted path, whose fields are given; or a key of
      `whole`, whose fields `fields` replace.
    fields: of the block.
    table: of `Choice`.
    whole: name -> its block; a key such as "hf://" stands for all names that
      begin with it, and its value takes the name.

  Raises:
    UserError: with the nearest name.
  """
  if name in whole:
    return dict(whole[name]()) | fields
  for start in (key for key in whole if key.endswith("://")):
    if isinstance(name, str) and name.startswith(start):
      return dict(whole[start](name)) | fields
  is_path = isinstance(name, str) and ("." in name or ":" in name)
  if name is not None and name not in table and not is_path:
    raise unknown_names(kind, [name], {*table, *whole})
  return {"name": name} | fields


def problems(cls: Any, block: Any, name: str) -> list[str]:
  """Returns the lines of the error that `read` raises with these arguments.

  Example:
    lines = problems(Tune, config.tune, "config.tune")
    lines += problems(Card, config.get("card"), "config.card")
  """
  lines: list[str] = []
  _read(cls, {} if block is None else block, name, lines)
  return lines


def fields_of(cls: Any, block: Any, path: str = "") -> list[str]:
  """Returns the names of the fields that may stand at a path inside of a block.

  Args:
    cls: what `read` takes.
    block: a ConfigDict or dict. It decides about each `Choice`; an unknown name
      leaves the choosing field alone. It names the blocks of a mapping.
    path: dotted, such as "detector.options"; "" is the block itself.

  Example:
    fields_of(Pretrain, config.pretrain, "optimizer")  # ["name", "lr", ...]
  """
  return [*dict.fromkeys(_names(cls, block, [*filter(None, path.split("."))]))]


def resolve(name: Any, table: Mapping[str, Any]) -> Any:
  """Returns what a name stands for.

  Args:
    name: a key of the table; or the dotted path of something outside of it, as
      "package.module", "package.module.attribute", "package.module:attribute".
    table: values that are strings are dotted paths, imported when asked for.

  Raises:
    UserError: about an unknown name, with the nearest; about a failing import.

  Example:
    sample = resolve("my_package.samplers.euler", SAMPLERS)
  """
  is_key = isinstance(name, str) and name in table
  target = table[name] if is_key else name
  if is_key and not isinstance(target, str):
    return target
  needed = f"needed one of {', '.join(table)}{_hint(name, table)}"
  is_path = is_key or (isinstance(name, str) and {*".:"} & {*name})
  if not is_path:
    raise UserError(f"{name!r}: {needed}")
  try:
    return _import(target)
  except Exception as error:  # an imported module raises what it likes
    reason = f"{type(error).__name__}: {error}".replace("\n", " ")
    raise UserError(
      f"{name!r}: cannot import {target} ({reason}); {needed}, or a dotted path"
    ) from error


def _import(path: str) -> Any:
  module, _, attribute = path.partition(":")
  try:
    target = importlib.import_module(module)
  except ModuleNotFoundError as error:
    if attribute or error.name != module or "." not in module:
      raise  # such as an existing module that imports a missing one
    module, _, attribute = module.rpartition(".")
    target = importlib.import_module(module)
  return operator.attrgetter(attribute)(target) if attribute else target


_UNIONS = (typing.Union, types.UnionType)
_SEQUENCES = (tuple, list, Sequence, Collection, Iterable)
_MAPPINGS = (dict, Mapping)


def _read(annotation: Any, value: Any, name: str, lines: list[str]) -> Any:
  """Returns the value as its type has it; adds what is wrong to `lines`."""
  (kind, rules), start = _split(annotation), len(lines)
  origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
  if origin in _UNIONS:
    value = _read_union(kind, value, name, lines)
  elif not _fits(kind, value):
    lines.append(_refusal(name, value, annotation))
  elif isinstance(kind, Choice):
    value = _read_choice(kind, value, name, lines)
  elif _is_block(kind):
    value = _read_block(_arguments(kind), value, name, lines)
  elif origin in _SEQUENCES:
    value = tuple(
      _read(_item_kind(origin, args, i), item, f"{name}[{i}]", lines)
      for i, item in enumerate(value)
    )
  elif origin in _MAPPINGS and args:
    value = {
      k: _read(args[1], value[k], f"{name}.{k}", lines) for k in [*value]
    }
  else:  # a dtype checks itself
    value = kind(value) if _is_dtype(kind) else _plain(value)
  if len(lines) == start and value is not None:
    for rule in rules:
      if not rule.holds(value):
        lines.append(_refusal(name, rule.shown(value), Annotated[Any, rule]))
  return value


def _read_union(union: Any, value: Any, name: str, lines: list[str]) -> Any:
  kinds = typing.get_args(union)
  if value is None and types.NoneType in kinds:
    return None
  attempts = []
  for kind in kinds:
    attempt: list[str] = []
    result = _read(kind, value, name, attempt)
    if not attempt:
      return result
    attempts.append(attempt)
  # A value is meant to be of the kind by which only its inside is wrong.
  inside = [a for a in attempts if not a[0].startswith(f"{name}=")]
  refusal = [_refusal(name, value, union)]
  lines += min(inside, key=len, default=refusal)
  return None


def _read_choice(
  choice: Choice, value: Any, name: str, lines: list[str]
) -> Any:
  chosen, is_name = _name_in(choice, value), isinstance(value, str)
  try:
    schema = choice.pick(chosen)
  except UserError as error:
    where = name if is_name else f"{name}.{choice.field}"
    needed = f"needed one of {', '.join(choice.table)}"
    missing = f"{name} lacks {choice.field}: {needed}"
    lines.append(missing if chosen is None else f"{where}={error}")
    return None
  block = {} if is_name else {key: value[key] for key in [*value]}
  block[choice.field] = chosen
  return _read_block(schema, block, name, lines, (choice.field,))


def _read_block(
  schema: Arguments,
  block: Any,
  name: str,
  lines: list[str],
  chosen_by: tuple[str, ...] = (),
) -> Any:
  fields, values, start = schema.fields(), {}, len(lines)
  allowed = [*dict.fromkeys([*chosen_by, *fields])]
  for field in [*block]:
    if field not in allowed:
      lines.append(
        f"{name} has no field {field!r}{_hint(field, allowed) or '.'} "
        f"Allowed: {', '.join(allowed) or 'none at all'}"
      )
    elif field in fields:
      kind, is_needed = fields[field]
      allows_none = types.NoneType in typing.get_args(_split(kind)[0])
      if block[field] is not None or (is_needed and allows_none):
        values[field] = _read(kind, block[field], f"{name}.{field}", lines)
  for field, (kind, is_needed) in fields.items():
    if is_needed and field not in values:
      lines.append(f"{name} lacks {field}: needed {_needed(kind)[0]}")
  if len(lines) > start:
    return None
  cls, filled = schema.target, {*schema.filled}
  is_open = filled & {*inspect.signature(cls).parameters}
  if is_open or not isinstance(cls, type) or _is_module(cls):
    return functools.partial(cls, **values)
  made = cls(**values)
  if hasattr(made, "problems"):
    lines += [f"{name}: {line}" for line in made.problems()]
  return made


def _names(annotation: Any, block: Any, keys: list[str]) -> list[str]:
  """Returns the fields at the path `keys`; see `fields_of`."""
  kind, _ = _split(annotation)
  origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
  if origin in _UNIONS:
    return [name for arg in args for name in _names(arg, block, keys)]
  if origin in _SEQUENCES:
    return _names(_item_kind(origin, args, 0), None, keys)
  names, kinds = [], {}
  if isinstance(kind, Choice):
    names = [kind.field]
    try:
      kind = kind.pick(_name_in(kind, block))
    except UserError:
      return [] if keys else names
  if _is_block(kind):
    kinds = {k: v for k, (v, _) in _arguments(kind).fields().items()}
  elif origin in _MAPPINGS and _is_mapping(block):
    kinds = dict.fromkeys([*block], args[1] if args else Any)
  if not keys:
    return names + [*kinds]
  if keys[0] not in kinds:
    return []
  is_given = _is_mapping(block) and keys[0] in block
  return _names(kinds[keys[0]], block[keys[0]] if is_given else None, keys[1:])


def _split(annotation: Any) -> tuple[Any, list[Rule]]:
  """Returns the type or schema of an annotation, and its rules."""
  if typing.get_origin(annotation) is Literal:
    return Any, [one_of(typing.get_args(annotation))]
  if typing.get_origin(annotation) is not Annotated:
    return annotation, []
  inner, *extras = typing.get_args(annotation)
  kind, rules = _split(inner)
  for extra in extras:
    kind = extra if isinstance(extra, Choice | Arguments) else kind
  return kind, rules + [extra for extra in extras if isinstance(extra, Rule)]


def _fits(kind: Any, value: Any) -> bool:
  """Returns whether a value is of the type, whatever is inside of it."""
  origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
  if isinstance(kind, Choice):
    return isinstance(value, str) or _is_mapping(value)
  if _is_block(kind) or origin in _MAPPINGS:
    return _is_mapping(value)
  if origin in _SEQUENCES:
    is_fixed = origin is tuple and args and Ellipsis not in args
    is_right = isinstance(value, list | tuple)
    return is_right and not (is_fixed and len(value) != len(args))
  if _is_dtype(kind):
    return value in typing.get_args(Dtype)
  if kind in (int, float):
    is_right = isinstance(value, int if kind is int else int | float)
    return is_right and not isinstance(value, bool) and abs(value) < math.inf
  is_open = kind is Any or not isinstance(origin, type)
  return is_open or isinstance(value, origin)


def _needed(annotation: Any) -> tuple[str, list[str]]:
  """Returns what is needed, and the names of which the nearest may be meant."""
  kind, rules = _split(annotation)
  origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
  if rules:
    names = [name for rule in rules for name in rule.choices]
    return ", ".join(rule.words for rule in rules), names
  if origin in _UNIONS:
    parts = [_needed(arg) for arg in args if arg is not types.NoneType]
    words, names = zip(*parts, strict=True)
    return ", or ".join(words), sum(names, [])
  if isinstance(kind, Choice):
    words = f"one of {', '.join(kind.table)}, or a block with this {kind.field}"
    return words, [*kind.table]
  if _is_dtype(kind):
    return _needed(Dtype)
  if _is_block(kind):
    return f"a block of the fields {', '.join(_arguments(kind).fields())}", []
  if origin in _SEQUENCES:
    return f"a tuple, each of it {_needed(_item_kind(origin, args, 0))[0]}", []
  return _WORDS.get(origin) or getattr(kind, "__name__", str(kind)), []


_WORDS = {
  Any: "a value",
  bool: "True or False",
  float: "a number",
  int: "a whole number",
  str: "text",
  os.PathLike: "a path",
} | dict.fromkeys(_MAPPINGS, "a block of fields, such as {'split': 'test'}")


def _refusal(name: str, value: Any, annotation: Any) -> str:
  (words, names), shown = _needed(annotation), repr(_plain(value))
  shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
  return f"{name}={shown}: needed {words}{_hint(value, names)}"


def _hint(name: Any, allowed: Iterable[Any]) -> str:
  names = [str(other) for other in allowed]
  near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
  return f"; did you mean {near[0]!r}?" if near else ""


def _name_in(choice: Choice, block: Any) -> Any:
  name = block.get(choice.field) if _is_mapping(block) else block
  return choice.default if name is None else name


def _item_kind(origin: Any, args: tuple, i: int) -> Any:
  is_fixed = origin is tuple and Ellipsis not in args
  return args[i if is_fixed else 0] if args else Any


def _arguments(kind: Any) -> Arguments:
  return kind if isinstance(kind, Arguments) else Arguments(kind)


def _is_block(kind: Any) -> bool:
  if isinstance(kind, type):
    return dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
  is_call = isinstance(kind, Arguments | functools.partial)
  return is_call or inspect.isfunction(kind)


def _is_module(target: Any) -> bool:
  """Returns whether this is a flax module, without importing flax."""
  if not isinstance(target, type) or not dataclasses.is_dataclass(target):
    return False
  return {"parent", "name"} <= {f.name for f in dataclasses.fields(target)}


def _is_dtype(kind: Any) -> bool:
  """Returns whether this is numpy's dtype, without importing numpy."""
  return isinstance(kind, type) and kind.__name__ == "dtype"


def _is_mapping(value: Any) -> bool:
  return hasattr(value, "keys")  # ConfigDict is no Mapping


def _plain(value: Any) -> Any:
  """Returns a value whose blocks are dicts."""
  if _is_mapping(value):
    return {key: _plain(value[key]) for key in value.keys()}
  if isinstance(value, list | tuple):
    kind = tuple if isinstance(value, tuple) else list
    return kind(_plain(item) for item in value)
  return value
