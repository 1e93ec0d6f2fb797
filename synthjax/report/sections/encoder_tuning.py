"""What tuning the encoder itself was worth, as a section of the page."""

from collections.abc import Mapping

from synthjax.report import charts, html_tables, interval_charts
from synthjax.report.checked_files import number
from synthjax.report.interval_charts import Curve, Point
from synthjax.report.sections.accuracy import Section, hundred
from synthjax.report.sections.few_shot import BARS

_FEWEST = 3  # shares that make a chart


def tuned_encoder(results: Mapping) -> Section:
  """Shows each arm with the share of the parameters that it tuned."""
  parts = []
  for entry in results.get("encoder_accuracy", []):
    if not entry["arms"]:
      continue
    table = _table(entry)
    chart = _chart(entry)
    parts.append(
      f'<div class="pair lean">{chart}{table}</div>' if chart else table
    )
  return Section("encoder", "Tuning the encoder", "".join(parts))


def _table(entry: Mapping) -> str:
  start = entry["zero_shot"]
  rows: list = [
    [
      "zero-shot",
      html_tables.short(0),
      "",
      html_tables.percent(start, 2),
      "",
      "",
      "",
      "",
    ]
  ]
  rows += [
    [
      arm["arm"],
      html_tables.short(hundred(arm["share_tuned"])),
      str(arm["batch_norm"] or html_tables.NONE),
      html_tables.percent(arm["mean"], 2),
      html_tables.span(arm["low"], arm["high"]) or html_tables.NONE,
      html_tables.percent(arm["std"], 2),
      html_tables.points(arm["gain"], 2),
      html_tables.count(arm["n"]),
    ]
    for arm in entry["arms"]
  ]
  head = (
    "arm",
    "tuned (%)",
    "BatchNorm",
    "mean (%)",
    "95 % interval",
    "std",
    "gain (points)",
    "seeds",
  )
  split = entry["split"]
  return html_tables.table(
    head,
    rows,
    caption=f"Accuracy on {split} by the share of the parameters that is "
    "tuned. BatchNorm: frozen, or by the batch",
  )


def _chart(entry: Mapping) -> str:
  """Draws accuracy over share, a curve for each kind of arm."""
  groups: dict = {}
  for arm in entry["arms"]:
    share = number(arm["share_tuned"])
    if share is None or arm["mean"] is None:
      continue
    point = Point(
      100 * share, *map(hundred, (arm["mean"], arm["low"], arm["high"]))
    )
    kind = arm["data"], arm["batch_norm"]
    groups.setdefault(kind, {}).setdefault(point.x, point)
  drawn = [
    Curve(_kind(*kind), [of[x] for x in sorted(of)], colour)
    for colour, (kind, of) in enumerate(groups.items())
  ]
  if len({p.x for curve in drawn for p in curve.points}) < _FEWEST:
    return ""
  start = hundred(entry["zero_shot"])
  chart = interval_charts.curves(
    drawn,
    x_ticks=(0, 20, 40, 60, 80, 100),
    xlabel="share of the parameters that is tuned (%)",
    ylabel=f"accuracy on {entry['split']} (%)",
    label="Accuracy over the share of tuned parameters",
    reference=start,
  )
  key = interval_charts.legend(
    drawn, reference="" if start is None else "zero-shot"
  )
  return charts.figure(chart, f"Mean over seeds. {BARS}", key)


def _kind(data: str | None, batch_norm: str | None) -> str:
  parts = []
  if data:
    parts.append(f"{data} images")
  if batch_norm:
    parts.append(f"BN {batch_norm}")
  return ", ".join(parts) or "all arms"
