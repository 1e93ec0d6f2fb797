"""The text of a label-space file as plain data, and errors by its lines."""

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from synthjax.labels import class_names
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json

Path = tuple[str | int, ...]  # ("classes", 1, "name")
MAX_VALUES = 1_000_000  # of a file
# The end of a problem with a value that YAML does not read as text.
WRITTEN = " <as written>"


class Place(NamedTuple):
  """Where a value stands in a file, and how it is written there."""

  line: int  # the first is 1
  text: str


class Problem(NamedTuple):
  """A value that is wrong, and why."""

  path: Path
  text: str


def read(text: str, where: str) -> Any:
  """Returns the plain data of the text of a file, which `where` names.

  A list becomes that of the classes, and the file's name that of the space.

  Raises:
    UserError: about text that is not JSON or YAML, or fields given twice.
  """
  path = pathlib.PurePath(where)
  # The parser in C, if there is one, is ten times as fast.
  loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
  try:
    if path.suffix.lower() == ".json":  # YAML reads all of JSON but tabs
      fields, repeated = parse_json(text), []
    else:
      node = loader.get_single_node()
      top = ("classes",) if isinstance(node, yaml.SequenceNode) else ()
      if node and _size(node, {}) > MAX_VALUES:
        raise ValueError(
          f"its anchors (&name, *name) repeat it to more than {MAX_VALUES:,} "
          "values; write out what is meant"
        )
      repeated = _repeated(node, top) if node else []
      fields = loader.construct_document(node) if node else None
      repr(fields)  # raises about a number that is too long to be written
  except (ValueError, RecursionError, yaml.YAMLError) as error:
    raise UserError(
      f"Cannot read the label space {where}: {_explain(error)}"
    ) from error
  if repeated:
    raise invalid(where, repeated, places(text))
  if isinstance(fields, list):
    fields = {"classes": fields}
  if isinstance(fields, Mapping):
    fields = {"name": path.stem, **fields}
  return fields


def places(text: str) -> dict[Path, Place]:
  """Returns where each value of a file stands."""
  try:
    root = yaml.compose(text, yaml.SafeLoader)
  except yaml.YAMLError:  # JSON with tabs
    return {}
  top = ("classes",) if isinstance(root, yaml.SequenceNode) else ()
  return dict(_walk(root, top))


def invalid(
  where: str, problems: Sequence[Problem], places: Mapping[Path, Place]
) -> UserError:
  """Returns an error that lists the problems by their lines.

  Args:
    where: names the file.
    problems: at least one.
    places: of the values; empty where lines are not known.
  """
  numbered = []
  for path, text in problems:
    # A value that is not there has the line of what lacks it.
    above = (places.get(path[:n]) for n in range(len(path), 0, -1))
    line = next((place.line for place in above if place), 0)
    if path in places and text.endswith(WRITTEN):
      text = text.replace(WRITTEN, f'; in quotes, "{places[path].text}" is one')
    steps = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    name = "".join(steps).removeprefix(".")
    start = f"line {line}: " if line else ""
    numbered.append((line, f"{start}{name}: {text}"))
  lines = [text.removesuffix(WRITTEN) for _, text in sorted(numbered)]
  listed = class_names.listed(lines)
  return UserError(f"The label space {where} is invalid:\n  {listed}")


def _explain(error: Exception) -> str:
  """Returns what is wrong with the YAML, and the usual cause."""
  mark = getattr(error, "problem_mark", None)
  if mark is None:
    return str(error)
  hints = {
    "mapping values": "Put braces around the fields of a class, {name: cat, "
    "related: [black cat]}, and quotes around a text with a colon.",
    "cannot start": "Indent by spaces, and not by tabs; put quotes around a "
    "text that begins with a mark.",
    "',' or ']'": "Close the bracket, and put quotes around a text with {}: "
    '["a photo of a {}"].',
    "',' or '}'": "Close the brace; related words stand in brackets of their "
    "own.",
  }
  problem = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
  hint = next((h for key, h in hints.items() if key in str(error.problem)), "")
  return f"{problem}. {hint}".rstrip()


def _walk(node: yaml.Node, path: Path) -> Iterator[tuple[Path, Place]]:
  if path:
    written = node.value if isinstance(node, yaml.ScalarNode) else ""
    yield path, Place(node.start_mark.line + 1, written)
  if not isinstance(node, yaml.ScalarNode):
    for key, value in _children(node):
      yield from _walk(value, (*path, key))


def _repeated(node: yaml.Node, path: Path) -> list[Problem]:
  """Lists the fields that are given twice: YAML takes the last."""
  if isinstance(node, yaml.ScalarNode):
    return []
  problems, seen = [], set()
  for key, value in _children(node):
    if key in seen:
      problems.append(Problem((*path, key), "is given twice"))
    seen.add(key)
    problems += _repeated(value, (*path, key))
  return problems


def _size(node: yaml.Node, sizes_of: dict[int, float]) -> float:
  """Returns how many values a node is when its anchors are written out.

  Args:
    node: the top one.
    known: the sizes of nodes that were met, infinite while being counted: an
      anchor inside of itself has no end.
  """
  if isinstance(node, yaml.ScalarNode):
    return 1
  if id(node) not in sizes_of:
    sizes_of[id(node)] = math.inf
    sizes = (_size(child, sizes_of) for _, child in _children(node))
    sizes_of[id(node)] = 1 + sum(sizes)
  return sizes_of[id(node)]


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node]]:
  """Yields the fields of a mapping, or the items of a list by position."""
  for i, child in enumerate(node.value):
    is_field = isinstance(child, tuple)
    yield (str(child[0].value), child[1]) if is_field else (i, child)
