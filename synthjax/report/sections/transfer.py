"""What pre-training was worth, as a section of the page."""

from collections.abc import Mapping

from synthjax.report import charts, html_tables
from synthjax.report.checked_files import number
from synthjax.report.sections.accuracy import Section, hundred


def transfer(results: Mapping) -> Section:
  """Shows what pre-training was worth on real images."""
  content = _pretrained(results)
  found = results.get("transferred")
  if found and found["summary"]:
    content += _finetuned(found)
  return Section("transfer", "Pre-training and transfer", content)


def _pretrained(results: Mapping) -> str:
  """Shows the accuracies that `pretrain` left in its manifest."""
  summary = results["tasks"]["pretrain"].get("summary", {})
  accuracies = summary.get("validation") or {}
  if not isinstance(accuracies, Mapping) or not accuracies:
    return ""
  return html_tables.table(
    ("backbone", "accuracy (%)"),
    [[label, html_tables.percent(x, 2)] for label, x in accuracies.items()],
    caption="Trained on generated images alone, on real validation images",
  )


def _finetuned(found: Mapping) -> str:
  splits, shots = (
    {row[key] for row in found["summary"]} for key in ("split", "shots")
  )
  name = lambda row: ", ".join(
    [row["init"]]
    + ([_shots(row).split()[0]] if len(shots) > 1 else [])
    + ([row["split"]] if len(splits) > 1 else [])
  )
  rows = [
    [
      row["init"],
      _shots(row),
      row["split"],
      html_tables.count(row["n"]),
      html_tables.percent(row["mean"], 2),
      html_tables.percent(row["std"], 2),
      html_tables.span(row["low"], row["high"]) or html_tables.NONE,
    ]
    for row in found["summary"]
  ]
  chart = charts.dots(
    [
      charts.Dot(
        name(row),
        hundred(row["mean"]),
        hundred(row["std"]),
        [100 * x for x in row["values"]],
      )
      for row in found["summary"]
    ],
    xlabel="accuracy after finetuning (%)",
    label="Accuracy after finetuning, in percent",
    reference=None,
  )
  head = (
    "first weights",
    "real images",
    "split",
    "seeds",
    "mean (%)",
    "std",
    "95 % interval",
  )
  figure = charts.figure(
    chart,
    "First weights, and real images per class. Dots: mean over seeds, bars ± "
    "one standard deviation, small dots: the seeds.",
  )
  table = html_tables.table(head, rows, caption="Accuracy after finetuning")
  content = f'<div class="pair">{figure}{table}</div>'
  if found["paired"]:
    rows = [
      [
        f"{row['init']} − {row['reference']}",
        _shots(row),
        row["split"],
        html_tables.count(row["n"]),
        html_tables.points(row["mean"]),
        html_tables.percent(row["stderr"], 2),
        html_tables.span(row["low"], row["high"], html_tables.points)
        or html_tables.NONE,
      ]
      for row in found["paired"]
    ]
    content += html_tables.table(
      (
        "difference",
        "real images",
        "split",
        "pairs",
        "mean (points)",
        "± std. error",
        "95 % interval",
      ),
      rows,
      caption="Difference, paired by seed",
    )
  return content


def _shots(row: Mapping) -> str:
  shots = number(row.get("shots"))
  return "all" if shots is None else f"{shots:g} per class"
