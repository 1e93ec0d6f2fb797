"""Numbers as people read them, and HTML tables of them."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from synthjax.report.checked_files import number

_LONG = 40  # rows, above which a table scrolls for itself
NONE = "–"  # stands for a number that is not there


class Number(NamedTuple):
  """A cell that is sorted by its value and read as its text."""

  value: float | None
  text: str


class Cell(NamedTuple):
  """A number with short lines below it, and a mark for the best."""

  number: Number
  below: Sequence[str] = ()  # plain text
  best: bool = False


def percent(x: Any, digits: int = 1) -> Number:
  """Writes a share in 0..1 as percent, without the sign."""
  x = number(x)
  return Number(x, NONE if x is None else f"{100 * x:.{digits}f}")


def points(x: Any, digits: int = 1) -> Number:
  """Writes a difference of shares as percentage points, with its sign."""
  x = number(x)
  # Minus zero, and a minus as wide as the plus.
  text = NONE if x is None else f"{100 * x + 0.0:+.{digits}f}".replace("-", "−")
  return Number(x, text)


def count(x: Any) -> Number:
  """Writes a whole number with thousands apart."""
  x = number(x)
  return Number(x, NONE if x is None else f"{x:,.0f}".replace(",", "\u202f"))


def decimal(x: Any, digits: int) -> Number:
  """Writes a number with so many digits behind the point."""
  x = number(x)
  text = NONE if x is None else f"{x:.{digits}f}".replace("-", "−")
  return Number(x, text)


def short(x: Any) -> Number:
  """Writes any number in four digits."""
  x = number(x)
  return Number(x, NONE if x is None else f"{x:.4g}".replace("-", "−"))


def span(low: Any, high: Any, write=percent, digits: int = 1) -> str:
  """Writes an interval of shares; nothing where there is none."""
  if number(low) is None or number(high) is None:
    return ""
  # Its parts stay on one line.
  return f"{write(low, digits).text}\u00a0to\u00a0{write(high, digits).text}"


def ratio(x: Any, y: Any) -> float | None:
  """Divides; None for what is not there and for zero below."""
  x, y = number(x), number(y)
  return None if x is None or not y or not math.isfinite(x / y) else x / y


def table(
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
