"""The class of a name, or of a number, in a data set's own files.

Those write "Faces_easy", "faces easy" or "FacesEasy": letters and digits count,
case and all other marks do not.
"""

import collections
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from synthjax.runtime.errors import UserError

MAX_LISTED = 40  # lines of problems in an error


def lookup(space: Any) -> dict[str, int]:
  """Returns every name and key of a label space -> label.

  A name that two classes share is left out: their keys differ.
  """
  counts = collections.Counter(c.name for c in space.classes)
  names = {c.name: c.id for c in space.classes if counts[c.name] == 1}
  return names | {c.key: c.id for c in space.classes if c.key}


def canonical(name: str) -> str:
  """Returns the letters and digits of a name, case-folded."""
  return "".join(filter(str.isalnum, name.casefold()))


def table(classes: Mapping[str, int]) -> dict[str, int]:
  """Returns canonical name -> label, without those of more than one label."""
  labels_of = collections.defaultdict(set)
  for name, label in classes.items():
    labels_of[canonical(name)].add(label)
  return {
    name: min(labels) for name, labels in labels_of.items() if len(labels) == 1
  }


def match(
  names: Iterable[str], classes: Mapping[str, int], *, where: str
) -> dict[str, int]:
  """Returns the label of each name in the files of a data set.

  Args:
    names: in the files.
    classes: name -> label; several names may have one label.
    where: names the data set in errors.

  Raises:
    UserError: as `check`.
  """
  labels_of = table(classes)
  labels = {name: labels_of.get(canonical(name)) for name in names}
  unknown = [name for name, label in labels.items() if label is None]
  check(classes, unknown, labels.values(), where=where)
  return labels


def check(
  classes: Mapping[str, int],
  unknown: Iterable[str],
  labels: Iterable[int | None],
  *,
  where: str,
) -> None:
  """Raises a UserError about names of no class, and classes of no name.

  Args:
    classes: name -> label.
    unknown: the names of no class in a data set.
    labels: that its names have.
    where: names the data set.
  """
  names = {label: name for name, label in reversed(classes.items())}
  missing = [names[label] for label in sorted(names.keys() - set(labels))]
  lines = []
  for name in unknown:
    near = difflib.get_close_matches(name, classes, n=1)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    lines.append(f"{name!r}: no class is called so{hint}")
  lines += [f"{name!r}: this class is not there" for name in missing]
  raise_problems(
    lines,
    f"{where} does not fit its {len(names)} classes",
    "Choose the label space of this data set, or give the classes that it "
    "calls otherwise a `key`.",
  )


def resolve(
  names: Iterable[str], classes: Mapping[str, int]
) -> dict[str, int | None]:
  """Returns the label of each name, None for those of no class.

  A name that is written as in `classes` is that class. Only letters and digits
  of others count, which "C" and "C++" share.
  """
  labels_of = table(classes)
  return {
    name: classes.get(name, labels_of.get(canonical(name)))
    for name in dict.fromkeys(names)
  }


def of_rows(
  numbers: Sequence[int | None],
  names: Sequence[str | None],
  classes: Mapping[str, int] | None,
  *,
  where: str,
) -> list[int]:
  """Returns the labels of rows that give a number, a name, or both.

  Args:
    numbers: of each row; the label of a row without a name.
    names: of the class of each row.
    classes: name -> label; None takes the numbers as they are.
    where: names the data set in errors.

  Raises:
    UserError: listing names and numbers of no class, and classes of no row.
  """
  if classes is None:
    if lacking := sum(number is None for number in numbers):
      raise UserError(
        f"{lacking} rows of {where} name a class and have no number: give "
        "`classes`, the label of each name."
      )
    return [int(number) for number in numbers]
  labels_of = resolve((n for n in names if n is not None), classes)
  all_labels = set(classes.values())
  labels = [
    labels_of[name]
    if name is not None
    else (number if number in all_labels else None)
    for number, name in zip(numbers, names, strict=True)
  ]
  unknown = {
    f"label {number}" if name is None else name
    for number, name, label in zip(numbers, names, labels, strict=True)
    if label is None
  }
  check(classes, sorted(unknown), labels, where=where)
  return labels


def raise_problems(problems: Sequence[str], what: str, advice: str) -> None:
  """Raises a UserError that lists the problems, if there are any.

  Args:
    problems: a line for each.
    what: cannot be done.
    advice: what to change.
  """
  if problems:
    raise UserError(f"{what}:\n  {listed(problems)}\n{advice}")


def listed(lines: Sequence[str]) -> str:
  """Returns the lines as a list of an error, which is cut if it is long."""
  shown = list(lines[:MAX_LISTED])
  if more := len(lines) - len(shown):
    shown.append(f"and {more} more")
  return "\n  ".join(shown)
