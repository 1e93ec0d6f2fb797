"""The class of a name, or of a number, in a data set's own files.

Every reader finds classes here. A name that is written as the class's is that
class, however its accents are encoded. Otherwise "Faces_easy", "faces easy" and
"FacesEasy" are alike, and "C" and "C++", "2.5 m" and "25 m" are not; the alike
are one class only where no other class and no other name of the files is so.
"""

import collections
import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from synthjax.runtime.errors import UserError

NO_CLASS = -1  # the label of rows that are of none, where they are allowed
_NUMBERED = "label {}"  # the name of a number
_UNLABELLED = _NUMBERED.format(NO_CLASS)
MAX_LISTED = 40  # lines of problems in an error
_MAX_SOME = 5  # names in a sentence
_MAX_SHOWN = 200  # characters of a name there
_SPACES = re.compile(r"[\s_,?!()\[\]{}'’‘`\"“”]+")
# Characters without a width: no file and no person tells names by them.
_UNSEEN = dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF])
_SIGN = re.compile(r"(?<!\S)-(?=\d)")
# Marks that join words, between two characters of which one is no digit: a
# point within a number and a mark at an end, as in "A-", have a meaning.
_JOIN = r" \-–—./&:;·"
_JOINS = re.compile(
  rf"(?<=[^\d{_JOIN}])[{_JOIN}]+(?=[^{_JOIN}])"
  rf"|(?<=[^{_JOIN}])[{_JOIN}]+(?=[^\d{_JOIN}])"
)


def unique(names: Sequence[str], marks: Iterable[Any]) -> tuple[str, ...]:
  """Returns names, of which those that classes share are followed by a mark."""
  counts = collections.Counter(names)
  marked = [f"{n} ({mark})" for n, mark in zip(names, marks, strict=True)]
  made = [
    other if counts[name] > 1 else name
    for name, other in zip(names, marked, strict=True)
  ]
  # A third class may be called as one of them now is.
  return tuple(made if len({*made}) == len(made) else marked)


def lookup(space: Any) -> dict[str, int]:
  """Returns every name and key of a label space -> label.

  A name that two classes share has its key behind it, as in `class_names`; or
  its label, as in sets that older versions have exported.
  """
  ids = [c.id for c in space.classes]
  older = unique([c.name for c in space.classes], ids)
  keys = {c.key: c.id for c in space.classes if c.key}
  return dict(zip((*older, *space.class_names), ids * 2, strict=True)) | keys


def composed(name: str) -> str:
  """Returns a name whose accents are encoded in the one way of NFC.

  Files that come from macOS have them as characters of their own. What has no
  width is left out, such as the byte order mark at the start of a list.
  """
  return unicodedata.normalize("NFC", name.translate(_UNSEEN))


def canonical(name: str) -> str:
  """Returns what alike names share: neither case nor marks between words."""
  text = _SPACES.sub(" ", composed(name).casefold()).strip()
  text = _JOINS.sub("", _SIGN.sub("−", text))
  return re.sub(r"(?<=\d)[ -]+(?=\d)", " ", text) or name


def resolve(
  names: Iterable[str], classes: Mapping[str, int]
) -> dict[str, int | None]:
  """Returns the label of each name, None for those of no class.

  Args:
    names: all those in the files of a data set, as two alike names that differ
      by more than case may be of two classes.
    classes: name -> label; several names may have one label.
  """
  names = dict.fromkeys(names)
  exact = {composed(name): label for name, label in classes.items()}
  ours, theirs = collections.defaultdict(set), collections.defaultdict(set)
  for name, label in classes.items():
    ours[canonical(name)].add(label)
  for name in names:
    theirs[canonical(name)].add(composed(name).casefold())

  def find(name):
    alike = canonical(name)
    if composed(name) in exact or len(theirs[alike]) > 1:
      return exact.get(composed(name))
    return min(ours[alike]) if len(ours[alike]) == 1 else None

  return {name: find(name) for name in names}


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
  labels = resolve(names, classes)
  unknown = [name for name, label in labels.items() if label is None]
  check(classes, unknown, labels.values(), where=where)
  return labels


@functools.cache  # once a process, as a data set may be opened many times
def _warn_others(where: str, names: tuple[str, ...]) -> None:
  logging.warning(
    "%s: passed over, as no class is called so: %s.", where, some(names)
  )


def no_class(name: str, classes: Iterable[str]) -> str:
  """Says that no class has a name of the files, and which one is nearest."""
  near = _nearest(name, [*classes])
  hint = f"; the nearest is {near!r}" if near else ""
  return f"{name!r:.{_MAX_SHOWN}}: no class is called so{hint}"


def _nearest(name: str, others: Sequence[str]) -> str | None:
  """Returns the name that is spelt nearly so, None if none is."""
  letters = lambda text: "".join(filter(str.isalnum, text.casefold()))
  equal = [other for other in others if letters(other) == letters(name)]
  near = equal or difflib.get_close_matches(name, others, n=1)
  return near[0] if near else None


def check(
  classes: Mapping[str, int],
  unknown: Iterable[str],
  labels: Iterable[int | None],
  *,
  where: str,
  complete: bool = True,
) -> None:
  """Raises a UserError about names of no class, and classes of no name.

  Args:
    classes: name -> label.
    unknown: the names of no class in a data set.
    labels: that its names have.
    where: names the data set.
    complete: whether the data set must have all classes and no other names. If
      not, only a name that may be a missing class misspelt is an error, as is
      a data set without any class.
  """
  names = {label: name for name, label in reversed(classes.items())}
  labels = {label for label in labels if label is not None}
  missing = [names[label] for label in sorted(names.keys() - labels)]
  if not complete and labels:
    others = [name for name in unknown if name != _UNLABELLED]
    unknown = [name for name in others if _nearest(name, missing)]
    missing = missing if unknown else []
    if others and not unknown:
      _warn_others(where, tuple(others))
  lines = [no_class(name, classes) for name in unknown]
  lines += [f"{name!r}: this class is not there" for name in missing]
  raise_problems(
    lines,
    f"{where} does not fit its {len(names)} classes",
    "Choose the label space of this data set, or give the classes that it "
    "calls otherwise a `key`.",
  )


def of_rows(
  numbers: Sequence[int | None],
  names: Sequence[str | None],
  classes: Mapping[str, int] | None,
  *,
  where: str,
  complete: bool = True,
) -> list[int]:
  """Returns the labels of rows that give a number, a name, or both.

  Args:
    numbers: of each row; the label of a row without a name.
    names: of the class of each row.
    classes: name -> label; None takes the numbers as they are.
    where: names the data set in errors.
    complete: see `check`; rows of no class get NO_CLASS if it is not.

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
    _NUMBERED.format(number) if name is None else name
    for number, name, label in zip(numbers, names, labels, strict=True)
    if label is None
  }
  check(classes, sorted(unknown), labels, where=where, complete=complete)
  return [NO_CLASS if label is None else label for label in labels]


def raise_problems(problems: Sequence[str], what: str, advice: str) -> None:
  """Raises a UserError that lists the problems, if there are any.

  Args:
    problems: a line for each.
    what: cannot be done.
    advice: what to change.
  """
  if problems:
    raise UserError(f"{what}:\n  {listed(problems)}\n{advice}")


def some(names: Sequence[str]) -> str:
  """Returns the first names, and how many more there are."""
  more = len(names) - _MAX_SOME
  return ", ".join(names[:_MAX_SOME]) + (f" and {more} more" * (more > 0))


def listed(lines: Sequence[str]) -> str:
  """Returns the lines as a list of an error, which is cut if it is long."""
  shown = list(lines[:MAX_LISTED])
  if more := len(lines) - len(shown):
    shown.append(f"and {more} more")
  return "\n  ".join(shown)
