"""Charts as inline SVG, which follow the page's colours and width."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from synthjax.report import markup

_MAX_NAMED = 60  # classes with a name beside a matrix


class Dot(NamedTuple):
  """A mean with its error and the values behind it."""

  name: str
  mean: float | None
  error: float | None
  values: Sequence[float] = ()


def dot(name: str, summary: Mapping) -> Dot:
  """Returns the dot of a summary of shares, with the `values` of its seeds."""
  percents = [100 * share for share in summary["values"]]
  return Dot(name, hundred(summary["mean"]), hundred(summary["std"]), percents)


def hundred(share: float | None) -> float | None:
  """Returns a share as percent, for an axis."""
  return None if share is None else 100 * share


def dots(
  rows: Sequence[Dot],
  *,
  xlabel: str,
  label: str,
  reference: float | None = None,
) -> str:
  """Draws a mean with an error bar for each row.

  Args:
    rows: from top to bottom.
    xlabel: of the axis, with its unit.
    label: what the chart shows, for those who do not see it.
    reference: a value to compare with, a dashed line.
  """
  lows = [r.mean - (r.error or 0) for r in rows if r.mean is not None]
  highs = [r.mean + (r.error or 0) for r in rows if r.mean is not None]
  values = [*lows, *highs, *(x for r in rows for x in r.values)]
  values += [] if reference is None else [reference]
  if not values:
    return ""
  ticks = nice_ticks(min(values), max(values))
  height = 26 * len(rows) + 46
  x = axis_scale(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT)
  bottom = height - 38
  parts = [x_axis(ticks, x, 8, bottom, xlabel)]
  if reference is not None:
    parts.append(vline(x(reference), 8, bottom))
  for i, row in enumerate(rows):
    y = 8 + 26 * i + 13
    parts.append(row_name(row.name, y))
    parts += [circle("faint", x(value), y, 2.5) for value in row.values]
    if row.mean is None:
      continue
    if row.error:
      ends = x(row.mean - row.error), x(row.mean + row.error)
      parts.append(
        f'<path class="error" d="M{ends[0]:.1f} {y}H{ends[1]:.1f}'
        f'M{ends[0]:.1f} {y - 4}v8M{ends[1]:.1f} {y - 4}v8"/>'
      )
    spread = "" if row.error is None else f" ± {row.error:.2f}"
    title = f"{row.name}: {row.mean:.2f}{spread}"
    parts.append(circle("c0 fill", x(row.mean), y, 5, title))
  return svg(parts, WIDTH, height, label)


def arms(
  summary: Sequence[Mapping],
  values: Iterable[tuple[str, float]],
  zero_shot: float,
  *,
  xlabel: str,
  label: str,
) -> str:
  """Draws arms beside zero-shot, as a figure.

  Args:
    summary: of each arm, as `dot` takes it.
    values: arm and share, of each seed.
    zero_shot: a share.
    xlabel: see `dots`, as for label.
    label: for those who do not see it.
  """
  of_arm: dict[str, list[float]] = {}
  for arm, share in values:
    of_arm.setdefault(arm, []).append(share)
  chart = dots(
    [dot(x["arm"], x | {"values": of_arm[x["arm"]]}) for x in summary],
    xlabel=xlabel,
    label=label,
    reference=hundred(zero_shot),
  )
  dashed = f"Dashed: zero-shot, {markup.percent(zero_shot).text} %."
  return figure(chart, f"Means over seeds, ± one deviation. {dashed}")


def bars(
  rows: Sequence[tuple[str, float | None]],
  *,
  xlabel: str,
  label: str,
  signed: bool = True,
) -> str:
  """Draws a bar from zero for each row: (name, value), with its sign or not."""
  values = [value for _, value in rows if value is not None]
  if not values:
    return ""
  ticks = nice_ticks(min(0, *values), max(0, *values))
  height = 18 * len(rows) + 46
  # The numbers stand at the ends of the bars.
  x = axis_scale(ticks[0], ticks[-1], LEFT + 36, WIDTH - RIGHT - 32)
  parts = [x_axis(ticks, x, 8, height - 38, xlabel)]
  for i, (name, value) in enumerate(rows):
    y = 8 + 18 * i + 9
    parts.append(row_name(name, y))
    if value is None:
      continue
    left, right = sorted((x(0), x(value)))
    colour = "c1" if value < 0 else "c0"
    anchor, at = ("end", left - 4) if value < 0 else ("start", right + 4)
    text = f"{value:{'+' if signed else ''}.1f}".replace("-", "−")
    parts.append(rect(f"{colour} fill", left, y - 6, max(right - left, 1), 12))
    parts.append(
      f'<text x="{at:.1f}" y="{y + 4}" text-anchor="{anchor}">{text}</text>'
    )
  parts.append(vline(x(0), 8, height - 38, "zero"))
  return svg(parts, WIDTH, height, label)


def histogram(
  stacks: Sequence[Sequence[int]],
  *,
  xlabel: str,
  ylabel: str,
  label: str,
  reference: float | None = None,
) -> str:
  """Draws counts over 0..1, stacked: the first series is at the bottom."""
  total = np.sum(np.asarray(stacks), 0)
  ticks = nice_ticks(0, max(1, int(total.max())))
  height, left = 220, 52
  x = axis_scale(0, 1, left, WIDTH - RIGHT)
  y = axis_scale(ticks[0], ticks[-1], height - 44, 12)
  parts = [
    y_axis(ticks, y, left, WIDTH - RIGHT, ylabel),
    x_axis([0, 0.2, 0.4, 0.6, 0.8, 1], x, None, height - 44, xlabel),
  ]
  below = np.zeros(len(total))
  step = 1 / len(total)
  for colour, series in enumerate(stacks):
    for i, n in enumerate(series):
      if n:
        top, wide = y(below[i] + n), x(step) - x(0) - 1
        title = f"{n} images, {i * step:.2f} to {(i + 1) * step:.2f}"
        place = x(i * step) + 0.5, top, wide, y(below[i]) - top
        parts.append(rect(f"c{colour} fill", *place, title))
    below += np.asarray(series)
  if reference is not None:
    parts.append(vline(x(reference), 12, height - 44))
  return svg(parts, WIDTH, height, label)


def lines(
  curves: Sequence[tuple[str, Sequence[float], Sequence[float]]],
  *,
  xlabel: str,
  ylabel: str,
  label: str,
) -> str:
  """Draws curves: (name, xs, ys); the legend is `legend` of the names."""
  xs = [x for _, curve_xs, _ in curves for x in curve_xs]
  ys = [y for _, _, curve_ys in curves for y in curve_ys]
  if not ys:
    return ""
  height, left = 220, 52
  log = min(ys) > 0 and max(ys) > 20 * min(ys)
  ticks = log_ticks(min(ys), max(ys)) if log else nice_ticks(min(ys), max(ys))
  to = math.log10 if log else float
  scale = axis_scale(to(ticks[0]), to(ticks[-1]), height - 44, 12)
  y = lambda v: scale(to(v))
  x_ticks = nice_ticks(min(xs), max(xs))
  x = axis_scale(x_ticks[0], x_ticks[-1], left, WIDTH - RIGHT)
  ylabel = f"{ylabel}, log scale" if log else ylabel
  parts = [
    y_axis(ticks, y, left, WIDTH - RIGHT, ylabel),
    x_axis(x_ticks, x, None, height - 44, xlabel),
  ]
  for i, (name, curve_xs, curve_ys) in enumerate(curves):
    places = [(x(a), y(b)) for a, b in zip(curve_xs, curve_ys, strict=True)]
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    parts.append(
      f'<path class="c{i % COLOURS} line{dash(i)}" d="M{path}">'
      f"<title>{escape(name)}</title></path>"
    )
    if len(places) == 1:  # a path of one point is not seen
      parts.append(circle(f"c{i % COLOURS} fill", *places[0], 3))
  return svg(parts, WIDTH, height, label)


def heatmap(counts: Any, names: Sequence[str], *, label: str) -> str:
  """Draws a confusion matrix [k, k], rows divided by their sums."""
  counts = np.asarray(counts)
  k = len(counts)
  width = WIDTH if k <= 16 else WIDE
  named = k <= _MAX_NAMED
  left, deep = (128, 104) if width == WIDTH else (150, 126)
  left, deep = (left, deep) if named else (30, 12)
  letters = 18 if width == WIDTH else 19  # of a name
  cell = (width - left - 8) / k
  bottom = 8 + cell * k
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  parts = [rect("frame", left, 8, cell * k, cell * k)]
  for i, j in np.argwhere(counts):
    title = (
      f"{names[i]} taken for {names[j]}: {counts[i, j]} of {counts[i].sum()}"
    )
    a, b = left + j * cell, 8 + i * cell
    opacity = f' fill-opacity="{max(shares[i, j], 0.06):.2f}"'
    parts.append(rect("heat", a, b, cell, cell, title, opacity))
    if k <= 12:
      x, y = a + cell / 2, b + cell / 2 + 4
      parts.append(write(x, y, f"{100 * shares[i, j]:.0f}", "named"))
  for i, name in enumerate(names if named else ()):
    at = (i + 0.5) * cell
    parts.append(row_name(name, 8 + at, left - 6, letters))
    parts.append(
      f'<text transform="translate({left + at + 4:.1f} {bottom + 8:.1f}) '
      f'rotate(-60)" text-anchor="end">{escape(cut(name, letters))}</text>'
    )
  middle = (left + width - 8) / 2
  parts.append(write(middle, bottom + deep + 12, "predicted class", "axis"))
  parts.append(_upright("true class", bottom / 2))
  return svg(parts, width, bottom + deep + 20, label)


def legend(names: Sequence[str]) -> str:
  """Returns the names beside their colours, in the order of the series."""
  kinds = [f"c{i % COLOURS} line{dash(i)} thick" for i in range(len(names))]
  return keys(list(zip(names, kinds, strict=True)))


def keys(entries: Sequence[tuple[str, str]]) -> str:
  """Returns names beside lines of a class of the page's style."""
  items = "".join(
    '<li><svg class="key" viewBox="0 0 18 10" aria-hidden="true">'
    f'<path class="{kind}" d="M0 5H18"/></svg>{escape(name)}</li>'
    for name, kind in entries
  )
  return f'<ul class="legend">{items}</ul>'


def figure(svg: str, caption: str, *extra: str) -> str:
  """Returns a chart with its caption, plain text; nothing without a chart."""
  if not svg:
    return ""
  return (
    f"<figure>{svg}{''.join(extra)}<figcaption>{escape(caption)}</figcaption>"
    "</figure>"
  )


# --- axes, ticks and labels of the charts, in SVG ----------------------------

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


def axis_scale(low, high, start, end):
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
  return "".join([*parts, _upright(label, middle)])


def _upright(label: str, y: float) -> str:
  """Writes the label of an axis at the left edge, from below to above."""
  return (
    f'<text class="axis" transform="translate(11 {y:.0f}) rotate(-90)" '
    f'text-anchor="middle">{escape(label)}</text>'
  )


def circle(
  kind: str, x: float, y: float, radius: float, title: str = ""
) -> str:
  """Draws a circle of a class of the page's style."""
  title = f"<title>{escape(title)}</title>" if title else ""
  return (
    f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
    f"{title}</circle>"
  )


def rect(kind, x, y, width, height, title="", more="") -> str:
  """Draws a rectangle of a class of the page's style; `more` is SVG."""
  title = f"<title>{escape(title)}</title>" if title else ""
  return (
    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
    f'height="{height:.1f}"{more}>{title}</rect>'
  )


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
  """Shortens a name in its middle, as names may differ in their ends."""
  if len(name) <= length:
    return name
  head = length // 2
  return f"{name[:head]}…{name[head + 1 - length :]}"


def dash(i: int) -> str:
  """Returns the class of the dashes of a curve beyond the first colours."""
  return f" dash{min(i // COLOURS, 2)}" if i >= COLOURS else ""


def svg(parts: Sequence[str], width: float, height: float, label: str) -> str:
  """Returns the whole drawing; `label` is for those who do not see it."""
  wide = ' class="wide"' if width > WIDTH else ""
  return (
    f'<svg{wide} viewBox="0 0 {width} {height:.0f}" role="img" '
    f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
  )
