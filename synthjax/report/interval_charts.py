"""Curves with intervals, over numbers of shots or over shares, as SVG."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from synthjax.report import charts
from synthjax.report.charts import RIGHT, WIDTH

_LEFT, _HEIGHT = 52, 280  # px
BARS = "Bars: 95 % intervals of the mean over seeds (t distribution)."


class Point(NamedTuple):
  """A mean with its interval, all in percent."""

  x: float
  mean: float
  low: float | None = None
  high: float | None = None


class Curve(NamedTuple):
  """A line of the chart."""

  name: str
  points: Sequence[Point]
  colour: int
  printed: bool = False  # a number of the paper: thin, dashed and alone


def log2(x: float) -> float:
  """Places 1, 2, 4, ... at equal steps, and 0 one step before 1."""
  return math.log2(x) if x > 0 else -1.0


def curves(
  drawn: Sequence[Curve],
  *,
  x_ticks: Sequence[float],
  xlabel: str,
  ylabel: str,
  label: str,
  reference: float | None = None,
  place: Callable[[float], float] = float,
  apart: float = 0.0,
) -> str:
  """Draws curves, whose points have vertical bars for their intervals.

  Args:
    drawn: the curves; those without points are left out.
    x_ticks: numbers below the axis, which reaches from the first to the last.
    xlabel: of the axis below.
    ylabel: of the axis at the left.
    label: what the chart shows, for those who do not see it.
    reference: a value to compare with, a dashed line.
    place: maps a number to its place on the axis, such as `log2`.
    apart: px over which curves stand side by side at one place.
  """
  drawn = [curve for curve in drawn if curve.points]
  if not drawn:
    return ""
  every = [p for curve in drawn for p in curve.points]
  ends = [y for p in every for y in (p.low, p.mean, p.high) if y is not None]
  ends += [] if reference is None else [reference]
  # The interval of two seeds may reach far; no accuracy lies beyond these.
  y_ticks = charts.nice_ticks(max(0.0, min(ends)), min(100.0, max(ends)), 6)
  places = [place(x) for x in x_ticks]
  margin = 6 + apart / 2
  start, end = _LEFT + margin, WIDTH - RIGHT - margin
  if places[0] == places[-1]:
    at = lambda x: (start + end) / 2
  else:
    scale = charts.axis_scale(places[0], places[-1], start, end)
    at = lambda x: scale(place(x))
  bottom = _HEIGHT - 44
  y = charts.axis_scale(y_ticks[0], y_ticks[-1], bottom, 12)
  parts = [
    charts.y_axis(y_ticks, y, _LEFT, WIDTH - RIGHT, ylabel),
    charts.x_axis(x_ticks, at, None, bottom, xlabel),
  ]
  if reference is not None:
    parts.append(
      f'<path class="reference" d="M{_LEFT} {y(reference):.1f}'
      f'H{WIDTH - RIGHT}"><title>zero-shot: {reference:.2f}</title></path>'
    )
  limits = (y_ticks[0], y_ticks[-1])
  for i, curve in enumerate(drawn):
    aside = apart * (i / (len(drawn) - 1) - 0.5) if len(drawn) > 1 else 0.0
    parts.append(_curve(curve, lambda x, a=aside: at(x) + a, y, limits))
  return charts.svg(parts, WIDTH, _HEIGHT, label)


def _curve(curve: Curve, x, y, limits: tuple[float, float]) -> str:
  colour = f"c{curve.colour % charts.COLOURS}"
  kind = "line printed" if curve.printed else f"line{charts.dash(curve.colour)}"
  path = "L".join(f"{x(p.x):.1f} {y(p.mean):.1f}" for p in curve.points)
  parts = [
    f'<path class="{colour} {kind}" d="M{path}">'
    f"<title>{escape(curve.name)}</title></path>"
  ]
  for p in curve.points:
    if p.low is not None and p.high is not None:
      low, high = max(p.low, limits[0]), min(p.high, limits[1])
      parts.append(
        f'<path class="{colour} bar" '
        f'd="M{x(p.x):.1f} {y(low):.1f}V{y(high):.1f}"/>'
      )
    title = f"{curve.name}, {p.x:g}: {p.mean:.2f}"
    if p.low is not None:
      title += f" (95 %: {p.low:.1f} to {p.high:.1f})"
    radius = 2 if curve.printed else 3
    parts.append(
      charts.circle(f"{colour} fill", x(p.x), y(p.mean), radius, title)
    )
  return "".join(parts)


def figure(
  drawn: Sequence[Curve],
  caption: str,
  *,
  zero_shot: float | None,
  **options: Any,
) -> str:
  """Returns `curves` over zero-shot with a caption and a legend.

  Args:
    drawn: the curves; those without points are left out.
    caption: plain text.
    zero_shot: in percent, a dashed line.
    **options: of `curves`.
  """
  entries = [
    (
      curve.name,
      f"c{curve.colour % charts.COLOURS} line "
      + ("printed" if curve.printed else f"thick{charts.dash(curve.colour)}"),
    )
    for curve in drawn
    if curve.points
  ]
  entries += [] if zero_shot is None else [("zero-shot", "reference")]
  chart = curves(drawn, reference=zero_shot, **options)
  return charts.figure(chart, caption, charts.keys(entries))


def method_colours(
  results: Mapping, names: Iterable[str] = ()
) -> dict[str, int]:
  """Returns the colour of each method, the same in every chart of a page.

  Args:
    results: of the page.
    names: of methods that the run may not have, which get the next ones.
  """
  entries = results.get("few_shot_accuracy", [])
  ours = [method["method"] for e in entries for method in e["methods"]]
  return {name: i for i, name in enumerate(dict.fromkeys([*ours, *names]))}


def over_shots(
  curves: Sequence[Curve],
  shots: Sequence[float],
  *,
  ylabel: str,
  zero_shot: float | None,
  caption: str,
) -> str:
  """Draws accuracies in percent over shots, at equal steps of their log2."""
  names = ", ".join(curve.name for curve in curves)
  return figure(
    curves,
    caption,
    zero_shot=zero_shot,
    x_ticks=shots,
    xlabel="real images of each class (log scale)",
    ylabel=ylabel,
    label=f"Accuracy over shots: {names}",
    place=log2,
    apart=0 if curves[0].printed else min(24, 4 * len(curves)),
  )
