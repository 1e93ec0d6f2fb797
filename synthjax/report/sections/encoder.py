"""What tuning the encoder itself was worth."""

from collections.abc import Mapping
from typing import Any

from synthjax.report import interval_charts, markup
from synthjax.report.charts import hundred
from synthjax.report.checked_files import Run
from synthjax.report.interval_charts import Curve, Point
from synthjax.report.sections.accuracy import by_split

PLACE, TITLE = 30, "Tuning the encoder"
_FEWEST = 3  # shares that make a chart
_FACTS = ("share_tuned", "batch_norm", "data", "up_to")
_COLUMNS = {
  "arm": lambda arm: arm["arm"],
  "tuned (%)": lambda arm: markup.short(hundred(arm["share_tuned"])),
  "BatchNorm": lambda arm: arm["batch_norm"] or markup.NONE,
  "mean (%)": lambda arm: markup.percent(arm["mean"], 2),
  "95 % interval": markup.interval,
  "std": lambda arm: markup.percent(arm["std"], 2),
  "gain (points)": lambda arm: markup.points(arm["gain"], 2),
  "seeds": lambda arm: markup.count(arm["n"]),
}


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Adds `encoder_accuracy`: `by_split`, each arm with its _FACTS.

  `share_tuned` is a share of the parameters.
  """
  del run
  if "tune_encoder" not in results:
    return {}
  facts = {
    row["arm"]: {key: row.get(key) for key in _FACTS}
    for row in results["tune_encoder"]["rows"]
  }
  return {
    "encoder_accuracy": [
      entry | {"arms": [arm | facts[arm["arm"]] for arm in entry["arms"]]}
      for entry in by_split(results["tune_encoder"])
    ]
  }


def render(results: Mapping) -> str:
  """Shows each arm with the share of the parameters that it tuned."""
  parts = []
  for entry in results.get("encoder_accuracy", []):
    if not entry["arms"]:
      continue
    start = markup.percent(entry["zero_shot"], 2)
    rows = markup.table(
      _COLUMNS,
      entry["arms"],
      caption=f"Accuracy on {entry['split']} by the share of the parameters "
      "that is tuned. BatchNorm: frozen, or by the batch",
      first=[["zero-shot", markup.short(0), "", start, *[""] * 4]],
    )
    chart = _chart(entry)
    parts.append(
      f'<div class="pair lean">{chart}{rows}</div>' if chart else rows
    )
  return "".join(parts)


def _chart(entry: Mapping) -> str:
  """Draws accuracy over share, a curve for each kind of arm."""
  groups: dict = {}
  for arm in entry["arms"]:
    if None not in (arm["share_tuned"], arm["mean"]):
      percents = map(hundred, (arm["mean"], arm["low"], arm["high"]))
      point = Point(100 * arm["share_tuned"], *percents)
      group = groups.setdefault((arm["data"], arm["batch_norm"]), {})
      group.setdefault(point.x, point)
  curves = [
    Curve(_kind(*kind), [group[x] for x in sorted(group)], colour)
    for colour, (kind, group) in enumerate(groups.items())
  ]
  if len({p.x for curve in curves for p in curve.points}) < _FEWEST:
    return ""
  return interval_charts.figure(
    curves,
    f"Mean over seeds. {interval_charts.BARS}",
    zero_shot=hundred(entry["zero_shot"]),
    x_ticks=(0, 20, 40, 60, 80, 100),
    xlabel="share of the parameters that is tuned (%)",
    ylabel=f"accuracy on {entry['split']} (%)",
    label="Accuracy over the share of tuned parameters",
  )


def _kind(data: str | None, batch_norm: str | None) -> str:
  images = f"{data} images" if data else ""
  norm = f"BN {batch_norm}" if batch_norm else ""
  return ", ".join(filter(None, (images, norm))) or "all arms"
