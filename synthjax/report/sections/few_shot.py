"""What few real images taught, as a section of the page."""

from collections.abc import Mapping, Sequence

from synthjax.report import charts, html_tables, interval_charts
from synthjax.report.interval_charts import Curve, Point
from synthjax.report.sections.accuracy import Section, hundred

BARS = "Bars: 95 % intervals of the mean over seeds (t distribution)."


def headline(results: Mapping) -> dict | None:
  """Chooses the number that stands for a run of few-shot methods alone.

  It is that of the first method of the config with the most shots: fixed before
  the test images were opened. Returns its point, as of `measured.shots`, with
  method, split, zero_shot and chosen (why); or None.
  """
  entries = results.get("few_shot_accuracy", [])
  for entry in sorted(entries, key=lambda entry: entry["split"] != "test"):
    for of in entry["methods"][:1]:
      if of["points"]:
        about = {"split": entry["split"], "zero_shot": entry["zero_shot"]}
        chosen = {"chosen": "the first method of the config"}
        return of["points"][-1] | about | chosen
  return None


def few_shot(results: Mapping) -> Section:
  """Shows methods over shots, on every split."""
  parts = []
  for entry in results.get("few_shot_accuracy", []):
    if not entry["shots"]:
      continue
    drawn = curves_of(entry["methods"])
    start, split = hundred(entry["zero_shot"]), entry["split"]
    chart = charts.figure(
      chart_of(drawn, entry["shots"], f"accuracy on {split} (%)", start),
      f"Mean over seeds; methods stand side by side at each number. {BARS}",
      interval_charts.legend(
        drawn, reference="" if start is None else "zero-shot"
      ),
    )
    parts.append(f'<div class="pair lean">{chart}{_table(entry)}</div>')
  return Section("few-shot", "Few-shot", "".join(parts))


def curves_of(methods: Sequence[Mapping]) -> list[Curve]:
  """Returns a curve for each method of `measured.shots`."""
  return [
    Curve(
      of["method"],
      [
        Point(p["shots"], *map(hundred, (p["mean"], p["low"], p["high"])))
        for p in of["points"]
        if p["mean"] is not None
      ],
      colour,
    )
    for colour, of in enumerate(methods)
  ]


def chart_of(
  drawn: Sequence[Curve],
  shots: Sequence[float],
  ylabel: str,
  zero_shot: float | None,
) -> str:
  """Draws accuracies in percent over shots, at equal steps of their log2."""
  names = ", ".join(curve.name for curve in drawn)
  return interval_charts.curves(
    drawn,
    x_ticks=shots,
    xlabel="real images of each class (log scale)",
    ylabel=ylabel,
    label=f"Accuracy over shots: {names}",
    reference=zero_shot,
    place=interval_charts.log2,
    apart=0 if drawn[0].printed else min(24, 4 * len(drawn)),
  )


def _table(entry: Mapping) -> str:
  shots = entry["shots"]
  columns = {
    of["method"]: {point["shots"]: point for point in of["points"]}
    for of in entry["methods"]
  }
  best = {
    x: max(
      (of[x]["mean"] for of in columns.values() if x in of and of[x]["mean"]),
      default=None,
    )
    for x in shots
  }
  start = entry["zero_shot"]
  best_is_start = {
    x: start is not None and (top is None or start >= top)
    for x, top in best.items()
  }
  rows = [
    [
      "zero-shot",
      *(
        html_tables.Cell(html_tables.percent(start, 2), best=best_is_start[x])
        for x in shots
      ),
    ]
  ]
  for method, points in columns.items():
    cells = [
      _cell(
        points.get(x),
        best=not best_is_start[x]
        and x in points
        and points[x]["mean"] == best[x],
      )
      for x in shots
    ]
    rows.append([method, *cells])
  head = ["method", *(f"{x:g} shot{'s' * (x != 1)}" for x in shots)]
  return html_tables.table(
    head,
    rows,
    caption=f"Accuracy on {entry['split']} by shots (%): mean over seeds, with "
    "its 95 % interval (t distribution); bold: the highest mean of a column, "
    "even where intervals overlap",
  )


def _cell(point: Mapping | None, *, best: bool) -> html_tables.Cell:
  if point is None:
    return html_tables.Cell(html_tables.Number(None, "not run"))
  return html_tables.Cell(
    html_tables.percent(point["mean"], 2),
    below=[interval_words(point)],
    best=best,
  )


def interval_words(summary: Mapping) -> str:
  """Writes the 95 % interval, or why there is none."""
  words = html_tables.span(summary["low"], summary["high"])
  return words or ("1 seed" if summary["n"] == 1 else html_tables.NONE)
