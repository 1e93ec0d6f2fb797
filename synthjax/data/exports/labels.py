"""Which label is meant by what the files of a data set say of a class."""

from collections.abc import Iterable, Mapping, Sequence

from synthjax.data import class_names
from synthjax.errors import UserError


def resolve(
  names: Iterable[str], classes: Mapping[str, int]
) -> dict[str, int | None]:
  """Returns the label of each name, None for those of no class.

  A name that is written as in `classes` is that class; of others, letters and
  digits count alone, which "C" and "C++" share.
  """
  labels_of = class_names.table(classes)
  return {
    name: classes.get(name, labels_of.get(class_names.canonical(name)))
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
    numbers: of each row; the label where no name tells of another.
    names: the class's of each row.
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
  known = set(classes.values())
  labels = [
    labels_of[name]
    if name is not None
    else (number if number in known else None)
    for number, name in zip(numbers, names, strict=True)
  ]
  unknown = {
    f"label {number}" if name is None else name
    for number, name, label in zip(numbers, names, labels, strict=True)
    if label is None
  }
  missing = class_names.missing_classes(classes, labels)
  if unknown or missing:
    raise class_names.mismatch(where, classes, sorted(unknown), missing)
  return labels


def raise_problems(problems: Sequence[str], what: str, advice: str) -> None:
  """Raises a UserError that lists the problems, if there are any.

  Args:
    problems: a line for each.
    what: cannot be done.
    advice: what to change.
  """
  if problems:
    shown = list(problems[: class_names.MAX_LISTED])
    if more := len(problems) - len(shown):
      shown.append(f"and {more} more")
    listed = "\n  ".join(shown)
    raise UserError(f"{what}:\n  {listed}\n{advice}")
