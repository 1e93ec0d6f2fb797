"""What few real images taught."""

from collections.abc import Mapping
from typing import Any

from synthjax.report import interval_charts, markup
from synthjax.report.charts import hundred
from synthjax.report.checked_files import Run
from synthjax.report.interval_charts import Curve, Point, method_colours
from synthjax.report.sections import Tile
from synthjax.report.sections.accuracy import by_split

PLACE, TITLE = 20, "Few-shot"


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Adds `few_shot_accuracy`: the accuracies of methods over shots.

  They are dicts of split, zero_shot, shots (sorted counts) and methods: dicts
  of method and points, which are the arms of `by_split` with their shots.
  """
  del run
  if "few_shot" not in results:
    return {}
  arms = {row["arm"]: row for row in results["few_shot"]["rows"]}
  methods = dict.fromkeys(row["method"] for row in arms.values())
  entries = []
  for entry in by_split(results["few_shot"]):
    curves: dict[str, list] = {method: [] for method in methods}
    for arm in entry["arms"]:
      about = arms[arm["arm"]]
      point = {"method": about["method"], "shots": about["shots"]} | arm
      curves[about["method"]].append(point)
    for curve in curves.values():
      curve.sort(key=lambda point: point["shots"])
    entries.append(
      {
        "split": entry["split"],
        "zero_shot": entry["zero_shot"],
        "shots": sorted(
          {p["shots"] for curve in curves.values() for p in curve}
        ),
        "methods": [{"method": m, "points": p} for m, p in curves.items()],
      }
    )
  return {"few_shot_accuracy": entries}


def headline(results: Mapping) -> list[Tile]:
  """Shows the first method of the config, with the most shots.

  Both were fixed before the test images were opened.
  """
  entries = results.get("few_shot_accuracy", [])
  for entry in sorted(entries, key=lambda entry: entry["split"] != "test"):
    for method in entry["methods"][:1]:
      if method["points"]:
        point = method["points"][-1]
        chosen = (
          f"{method['method']}, {point['shots']:g} shots, the first method of "
          "the config"
        )
        start = markup.percent(entry["zero_shot"]).text
        unit = f"% ({markup.interval_or_seed(point)})"
        return [
          Tile(start, "%", f"zero-shot on {entry['split']}"),
          Tile(markup.percent(point["mean"]).text, unit, chosen),
        ]
  return []


def render(results: Mapping) -> str:
  """Shows methods over shots, on every split."""
  parts, colour_of = [], method_colours(results)
  for entry in results.get("few_shot_accuracy", []):
    if not entry["shots"]:
      continue
    curves = [
      Curve(
        method["method"],
        [
          Point(p["shots"], *map(hundred, (p["mean"], p["low"], p["high"])))
          for p in method["points"]
          if p["mean"] is not None
        ],
        colour_of[method["method"]],
      )
      for method in entry["methods"]
    ]
    chart = interval_charts.over_shots(
      curves,
      entry["shots"],
      ylabel=f"accuracy on {entry['split']} (%)",
      zero_shot=hundred(entry["zero_shot"]),
      caption="Mean over seeds; methods stand side by side at each number. "
      f"{interval_charts.BARS}",
    )
    parts.append(f'<div class="pair lean">{chart}{_table(entry)}</div>')
  return "".join(parts)


def _table(entry: Mapping) -> str:
  shots, zero_shot = entry["shots"], entry["zero_shot"]
  methods = {
    method["method"]: {point["shots"]: point for point in method["points"]}
    for method in entry["methods"]
  }
  means = {
    x: [m[x]["mean"] for m in methods.values() if x in m and m[x]["mean"]]
    for x in shots
  }
  best = {
    x: max([*means[x], *([] if zero_shot is None else [zero_shot])], default=0)
    for x in shots
  }
  start = markup.percent(zero_shot, 2)
  rows = [
    [
      "zero-shot",
      *(markup.Cell(start, best=zero_shot == best[x]) for x in shots),
    ]
  ]
  for method, points in methods.items():
    cells = []
    for x in shots:
      if point := points.get(x):
        is_best = point["mean"] == best[x] != zero_shot
        mean, below = (
          markup.percent(point["mean"], 2),
          [markup.interval_or_seed(point)],
        )
        cells.append(markup.Cell(mean, below, best=is_best))
      else:
        cells.append(markup.Cell(markup.Number(None, "not run")))
    rows.append([method, *cells])
  return markup.grid(
    ["method", *(f"{x:g} shot{'s' * (x != 1)}" for x in shots)],
    rows,
    caption=f"Accuracy on {entry['split']} by shots (%): mean over seeds, with "
    "its 95 % interval (t distribution); bold: the highest mean of a column, "
    "even where intervals overlap",
  )
