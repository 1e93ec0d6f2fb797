"""Axes, ticks and labels of the charts, in SVG."""

import math
from collections.abc import Sequence
from html import escape

# A chart is as wide as a phone, so that its letters stay readable there.
WIDTH, WIDE = 360, 720  # px
LEFT, RIGHT = 130, 14  # px, around horizontal charts
COLOURS = 6  # .c0 to .c5 of the page's style


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Returns round numbers that reach from low or less to high or more."""
  span = high - low
  if span <= 1e-12 * max(abs(low), abs(high), 1e-300):
    span = abs(high) or 1.0
    low, high = low - span / 2, high + span / 2
  raw = span / (count - 1)
  unit = 10.0 ** math.floor(math.log10(raw))
  step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
  """Returns powers of ten from low or less to high or more."""
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  every = max(1, (last - first) // 6)
  ticks = [10.0**i for i in range(first, last, every)]
  return [*ticks, 10.0**last]


def scale(low, high, start, end):
  """Returns the linear map of low..high to start..end, in px."""
  size = (end - start) / (high - low)
  return lambda value: start + (value - low) * size


def x_axis(ticks, x, top, bottom, label) -> str:
  """Draws ticks below `bottom`, with grid lines up to `top` if not None."""
  parts = []
  for tick in ticks:
    if top is not None:
      parts.append(f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom}"/>')
    parts.append(write(x(tick), bottom + 15, f"{tick:g}".replace("-", "−")))
  middle = (x(ticks[0]) + x(ticks[-1])) / 2
  parts.append(write(middle, bottom + 32, label, "axis"))
  return "".join(parts)


def y_axis(ticks, y, left, right, label) -> str:
  """Draws grid lines, with their ticks at the left."""
  parts = []
  for tick in ticks:
    at = y(tick)
    parts.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
    words = f"{tick:g}".replace("-", "−")
    parts.append(write(left - 5, at + 4, words, anchor="end"))
  middle = (y(ticks[0]) + y(ticks[-1])) / 2
  parts.append(
    f'<text class="axis" transform="translate(11 {middle:.0f}) rotate(-90)" '
    f'text-anchor="middle">{escape(label)}</text>'
  )
  return "".join(parts)


def vline(x: float, top: float, bottom: float, kind: str = "reference") -> str:
  """Draws a vertical line of a class of the page's style."""
  return f'<path class="{kind}" d="M{x:.1f} {top}V{bottom}"/>'


def row_name(name: str, y: float, x: float = LEFT - 8, length: int = 18) -> str:
  """Writes the name of a row, which ends at x."""
  return (
    f'<text x="{x}" y="{y + 4:.1f}" text-anchor="end">'
    f"{escape(cut(name, length))}<title>{escape(name)}</title></text>"
  )


def write(x, y, text, kind="tick", anchor="middle") -> str:
  """Writes a text, plain."""
  return (
    f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
    f"{escape(text)}</text>"
  )


def cut(name: str, length: int) -> str:
  """Shortens a name in its middle, as its end may be what tells it apart."""
  if len(name) <= length:
    return name
  head = length // 2
  return f"{name[:head]}…{name[head + 1 - length :]}"


def dash(i: int) -> str:
  """Lets the colours come again with dashes."""
  return f" dash{min(i // COLOURS, 2)}" if i >= COLOURS else ""


def svg(parts: Sequence[str], width: float, height: float, label: str) -> str:
  """Returns the whole drawing; `label` is for those who do not see it."""
  wide = ' class="wide"' if width > WIDTH else ""
  return (
    f'<svg{wide} viewBox="0 0 {width} {height:.0f}" role="img" '
    f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
  )
