"""Which class is meant by a name in a data set's own files.

Those write "Faces_easy", "faces easy" or "FacesEasy": letters and digits count,
case and all other marks do not.
"""

import collections
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from synthjax.errors import UserError

MAX_LISTED = 40  # problems of an error


def lookup(space: Any) -> dict[str, int]:
  """Returns every name and key of a label space -> label.

  A name that two classes share is left out: their keys tell them apart.
  """
  counts = collections.Counter(c.name for c in space.classes)
  names = {c.name: c.id for c in space.classes if counts[c.name] == 1}
  return names | {c.key: c.id for c in space.classes if c.key}


def canonical(name: str) -> str:
  """Returns what of a name counts."""
  return "".join(filter(str.isalnum, name.casefold()))


def table(classes: Mapping[str, int]) -> dict[str, int]:
  """Returns canonical name -> label, without those of more than one label."""
  labels = collections.defaultdict(set)
  for name, label in classes.items():
    labels[canonical(name)].add(label)
  return {name: min(found) for name, found in labels.items() if len(found) == 1}


def match(
  found: Iterable[str], classes: Mapping[str, int], *, where: str
) -> dict[str, int]:
  """Returns the label of each name that was found.

  Args:
    found: names in the files of a data set.
    classes: name -> label; several names may have one label.
    where: names the data set in errors.

  Raises:
    UserError: listing each name that is of no class, and each class that has
      no name.
  """
  labels_of, found = table(classes), list(found)
  labels = {name: labels_of.get(canonical(name)) for name in found}
  unknown = [name for name, label in labels.items() if label is None]
  missing = missing_classes(classes, labels.values())
  if unknown or missing:
    raise mismatch(where, classes, unknown, missing)
  return labels


def missing_classes(
  classes: Mapping[str, int], labels: Iterable[int | None]
) -> list[str]:
  """Returns a name of each class that has none of these labels."""
  names = {label: name for name, label in reversed(classes.items())}
  return [names[label] for label in sorted(names.keys() - set(labels))]


def mismatch(
  where: str,
  classes: Mapping[str, int],
  unknown: Iterable[str],
  missing: Iterable[str],
) -> UserError:
  """Returns the error about names of no class and classes of no name."""
  lines = []
  for name in unknown:
    near = difflib.get_close_matches(name, classes, n=1)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    lines.append(f"{name!r}: no class is called so{hint}")
  lines += [f"{name!r}: this class is not there" for name in missing]
  if len(lines) > MAX_LISTED:
    lines[MAX_LISTED:] = [f"and {len(lines) - MAX_LISTED} more"]
  listed = "\n  ".join(lines)
  return UserError(
    f"{where} does not fit its {len(set(classes.values()))} classes:\n  "
    f"{listed}\nChoose the label space of this data set, or give the classes "
    "that it calls otherwise a `key`."
  )
