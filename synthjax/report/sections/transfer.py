"""What pre-training was worth on real images."""

from collections.abc import Mapping

from synthjax.report import charts, markup

PLACE, TITLE = 70, "Pre-training and transfer"


def render(results: Mapping) -> str:
  """Shows the accuracies after pre-training and after finetuning."""
  content = _pretrained(results["tasks"].get("pretrain", {}))
  finetuned = results.get("transfer", {})
  if finetuned.get("summary"):
    content += _finetuned(finetuned)
  return content


def _pretrained(state: Mapping) -> str:
  """Shows the accuracies that `pretrain` left in its manifest."""
  accuracies = state.get("summary", {}).get("validation")
  if not accuracies:
    return ""
  return markup.grid(
    ("backbone", "accuracy (%)"),
    [[label, markup.percent(share, 2)] for label, share in accuracies.items()],
    caption="Trained on generated images alone, on real validation images",
  )


def _finetuned(results: Mapping) -> str:
  """Shows means over seeds, and the differences paired by seed."""
  summary = results["summary"]
  several = len({row["shots"] for row in summary}) > 1

  def dot(row):
    name = f"{row['init']}, {_shots(row).split()[0]}"
    values = [
      run["accuracy"]
      for run in results["rows"]
      if (run["init"], run["shots"]) == (row["init"], row["shots"])
    ]
    return charts.dot(
      name if several else row["init"], row | {"values": values}
    )

  chart = charts.dots(
    [dot(row) for row in summary],
    xlabel="accuracy after finetuning (%)",
    label="Accuracy after finetuning, in percent",
  )
  caption = (
    "First weights, and real images per class. Dots: mean over seeds, bars ± "
    "one standard deviation, small dots: the seeds."
  )
  means = markup.table(
    {
      "first weights": lambda row: row["init"],
      "real images": _shots,
      "seeds": lambda row: markup.count(row["n"]),
      "mean (%)": lambda row: markup.percent(row["mean"], 2),
      "std": lambda row: markup.percent(row["std"], 2),
      "95 % interval": markup.interval,
    },
    summary,
    caption="Accuracy after finetuning",
  )
  content = f'<div class="pair">{charts.figure(chart, caption)}{means}</div>'
  if not results["differences"]:
    return content
  return content + markup.table(
    {
      "difference": lambda row: f"{row['init']} − {row['reference']}",
      "real images": _shots,
      "pairs": lambda row: markup.count(row["n"]),
      "mean (points)": lambda row: markup.points(row["mean"]),
      "± std. error": lambda row: markup.percent(row["stderr"], 2),
      "95 % interval": lambda row: markup.interval(row, markup.points),
    },
    results["differences"],
    caption="Difference, paired by seed",
  )


def _shots(row: Mapping) -> str:
  return "all" if row["shots"] is None else f"{row['shots']:g} per class"
