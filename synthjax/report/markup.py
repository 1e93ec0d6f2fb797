"""Numbers as people read them, tables of them and folds, as HTML."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

_LONG = 40  # rows, above which a table scrolls for itself
NONE = "–"  # stands for a number that is not there


class Number(NamedTuple):
  """A cell that is sorted by its value and read as its text."""

  value: float | None
  text: str

  def __str__(self) -> str:
    return self.text


class Cell(NamedTuple):
  """A number with short lines below it, and a mark for the best."""

  number: Number
  below: Sequence[str] = ()  # plain text
  best: bool = False


def _number(x: Any, write: Callable[[float], str]) -> Number:
  """Writes a finite number, and NONE for anything else."""
  is_number = isinstance(x, int | float) and not isinstance(x, bool)
  if not is_number or not math.isfinite(x):
    return Number(None, NONE)
  return Number(x, write(x))


def percent(x: Any, digits: int = 1) -> Number:
  """Writes a share in 0..1 as percent, without the sign."""
  return _number(x, lambda x: f"{100 * x:.{digits}f}")


def points(x: Any, digits: int = 1) -> Number:
  """Writes a difference of shares as percentage points, with its sign."""
  # Not minus zero; and a minus as wide as the plus.
  return _number(x, lambda x: f"{100 * x + 0.0:+.{digits}f}".replace("-", "−"))


def count(x: Any) -> Number:
  """Writes a whole number with thousands apart."""
  return _number(x, lambda x: f"{x:,.0f}".replace(",", "\u202f"))


def decimal(x: Any, digits: int) -> Number:
  """Writes a number with so many digits behind the point."""
  return _number(x, lambda x: f"{x:.{digits}f}".replace("-", "−"))


def short(x: Any) -> Number:
  """Writes any number in four digits."""
  return _number(x, lambda x: f"{x:.4g}".replace("-", "−"))


def interval(summary: Mapping, write: Callable = percent) -> str:
  """Writes from `low` to `high` of a summary, or that there is no interval."""
  low, high = write(summary.get("low")), write(summary.get("high"))
  if low.value is None or high.value is None:
    return NONE
  return f"{low.text}\u00a0to\u00a0{high.text}"  # on one line


def interval_or_seed(summary: Mapping) -> str:
  """Writes the interval of a summary, or why there is none."""
  return "1 seed" if summary["n"] == 1 else interval(summary)


def ratio(x: float | None, y: float | None) -> float | None:
  """Returns x / y; None if one is missing or y is zero up to rounding."""
  if x is None or y is None or abs(y) <= 1e-9 * abs(x):
    return None
  return x / y if math.isfinite(x / y) else None


def table(
  columns: Mapping[str, Callable[[Any], Number | Cell | str]],
  rows: Iterable[Any],
  *,
  caption: str,
  first: Sequence[Sequence[Number | Cell | str]] = (),
) -> str:
  """Returns a table, see `grid`.

  Args:
    columns: header -> function of a row that returns its cell.
    rows: what the functions take.
    caption: plain text.
    first: cells of rows that stand above.
  """
  cells = [[cell(row) for cell in columns.values()] for row in rows]
  return grid([*columns], [*first, *cells], caption=caption)


def grid(
  headers: Sequence[str],
  rows: Sequence[Sequence[Number | Cell | str]],
  *,
  caption: str,
) -> str:
  """Returns a table whose columns sort when their headers are pressed.

  Args:
    headers: plain text.
    rows: of as many cells; the first names its row.
    caption: plain text.
  """
  numeric = [
    any(isinstance(row[i], Number | Cell) for row in rows)
    for i in range(len(headers))
  ]
  head = "".join(
    f'<th scope="col"{_class(numeric[i])}><button type="button">'
    f"{escape(header)}</button></th>"
    for i, header in enumerate(headers)
  )
  body = "\n".join(f"<tr>{_row(row, numeric)}</tr>" for row in rows)
  long = " long" if len(rows) > _LONG else ""
  return (
    f'<div class="scroll{long}" tabindex="0" role="region" '
    f'aria-label="{escape(caption)}"><table><caption>{escape(caption)}'
    f"</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    "</div>"
  )


def _row(row: Sequence[Number | Cell | str], numeric: Sequence[bool]) -> str:
  assert len(row) == len(numeric), (row, len(numeric))
  cells = []
  for i, cell in enumerate(row):
    tag, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
    value, below, best = "", "", False
    if isinstance(cell, Cell):
      below = "".join(f" <small>{escape(line)}</small>" for line in cell.below)
      cell, best = cell.number, cell.best
    if isinstance(cell, Number):
      value = "" if cell.value is None else f' data-value="{cell.value!r}"'
      cell = cell.text
    text = escape(str(cell))
    text = f"<strong>{text}</strong>" if best else text
    cells.append(
      f"<{tag}{scope}{_class(numeric[i])}{value}>{text}{below}</{tag}>"
    )
  return "".join(cells)


def _class(numeric: bool) -> str:
  return ' class="number"' if numeric else ""


def details(summary: str, content: str, *, opened: bool = False) -> str:
  """Returns content behind a line that opens it; `summary` is plain text."""
  state = " open" if opened else ""
  return (
    f"<details{state}><summary>{escape(summary)}</summary>{content}</details>"
  )
