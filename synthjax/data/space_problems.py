"""Problems with the fields of a file: which they are, and how they are told."""

import collections
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.errors import UserError

MAX_LISTED = 40  # problems of an error
# The end of a problem whose value YAML reads as something else than a text.
WRITTEN = " <as written>"
Path = tuple[str | int, ...]  # ("classes", 1, "name")


class Place(NamedTuple):
  """Where a value stands in a file, and how it is written there."""

  line: int  # the first is 1
  text: str


class Problem(NamedTuple):
  """What is wrong, and with which value."""

  path: Path
  text: str


def refuse(
  where: str, problems: Sequence[Problem], places: Mapping[Path, Place]
) -> UserError:
  """Returns an error that lists the problems by their lines.

  Args:
    where: names the file.
    problems: at least one.
    places: of the values; empty where lines are not known.
  """
  told = []
  for path, text in problems:
    # A value that is not there has the line of what lacks it.
    above = (places.get(path[:n]) for n in range(len(path), 0, -1))
    line = next((place.line for place in above if place), 0)
    if path in places and text.endswith(WRITTEN):
      text = text.replace(WRITTEN, f'; in quotes, "{places[path].text}" is one')
    before = f"line {line}: " if line else ""
    told.append((line, f"{before}{_written(path)}: {text}"))
  lines = [text.removesuffix(WRITTEN) for _, text in sorted(told)]
  if len(lines) > MAX_LISTED:
    lines[MAX_LISTED:] = [f"and {len(lines) - MAX_LISTED} more"]
  listed = "\n  ".join(lines)
  return UserError(f"The label space {where} does not hold:\n  {listed}")


def _written(path: Path) -> str:
  text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
  return text.removeprefix(".")


def not_text(value: Any) -> str:
  """Ends a sentence about a value that is no text."""
  # YAML reads no, on, 747 and 2024-01-01 as truths, numbers and dates.
  scalar = value is not None and not isinstance(value, str | list | Mapping)
  return f"not {value!r}{WRITTEN if scalar else ''}"


def read_texts(path: Path, value: Any) -> tuple[tuple[str, ...], list[Problem]]:
  """Reads a list of texts; returns those that are, and the problems."""
  if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
    hint = f"; write [{value!r}]" if isinstance(value, str) else ""
    return (), [Problem(path, f"must be a list of texts, not {value!r}{hint}")]
  texts, problems = [], []
  for i, each in enumerate(value):
    if isinstance(each, str) and each.strip():
      texts.append(each)
    else:
      scalar = WRITTEN if isinstance(each, bool | int | float) else ""
      problems.append(Problem((*path, i), f"{each!r} is not a text{scalar}"))
  return tuple(texts), problems


def unknown_keys(
  path: Path, fields: Mapping, known: Sequence[str]
) -> list[Problem]:
  """Lists the keys that nothing reads, each with the nearest that is."""
  problems = []
  for key in fields:
    if key not in known:
      near = difflib.get_close_matches(str(key), known, n=1)
      hint = f"did you mean {near[0]!r}?" if near else f"known are {known}"
      problems.append(Problem((*path, str(key)), f"is not a field; {hint}"))
  return problems


def clashes(classes: Sequence[Any]) -> list[Problem]:
  """Lists what two classes share but must not, and ids that leave gaps."""
  problems = []
  keyed = all(c.key for c in classes)
  for what, values in (
    ("id", [[str(c.id)] for c in classes]),
    # As with ImageNet's two missiles, whose synsets differ.
    ("name", [[] if keyed else [c.name.lower()] for c in classes]),
    ("key", [[c.key] if c.key else [] for c in classes]),
    ("subcategory", [c.subcategories for c in classes]),
  ):
    places = collections.defaultdict(list)
    for position, own in enumerate(values):
      for value in own:
        places[value].append(position)
    hint = ""
    if what == "name":
      hint = "; leave it there once, or give every class a `key` of its own"
    problems += [
      Problem(
        ("classes", found[-1]),
        f"the {what} {value!r} occurs {len(found)} times{hint}",
      )
      for value, found in sorted(places.items())
      if len(found) > 1
    ]
  ids = {c.id for c in classes}
  if not problems and ids != set(range(len(classes))):
    text = (
      f"{len(classes)} classes have the ids 0 to {len(classes) - 1}, "
      f"as these are the columns of the logits; found {sorted(ids)}"
    )
    problems.append(Problem(("classes",), text))
  return problems
