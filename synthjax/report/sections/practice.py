"""What each round of `practice` was worth: accuracy over the images learned."""

from collections.abc import Mapping

from synthjax.evals import accuracy
from synthjax.report import charts, markup
from synthjax.report.charts import hundred

PLACE, TITLE = 11, "Rounds of practice"


def render(results: Mapping) -> str:
  """Draws a curve for each arm, a chart for each split of real images."""
  if not (found := results.get("practice")):
    return ""
  figures = [_figure(found, split) for split in found["zero_shot"]]
  words = (
    "Each round draws more images for what the head of the round before is "
    "unsure of (guided), or without looking at it (unguided), and learns from "
    "all. At as many images, the difference is what guidance gives."
  )
  return f'<p>{words}</p><div class="charts">{"".join(figures)}</div>'


def _figure(found: Mapping, split: str) -> str:
  shares: dict[str, dict[int, list[float]]] = {}
  for row in found["rows"]:
    arm = row["arm"].rpartition(", round ")[0]
    by_count = shares.setdefault(arm, {})
    by_count.setdefault(row["num_images"], []).append(row["accuracy"][split])
  chart = charts.lines(
    [
      (
        arm,
        [*by_count],
        [hundred(accuracy.summarize(x).mean) for x in by_count.values()],
      )
      for arm, by_count in shares.items()
    ],
    xlabel="images that the head learned from",
    ylabel=f"{split} (%)",
    label=f"Accuracy on {split} over the number of generated images",
  )
  start = markup.percent(found["zero_shot"][split]).text
  caption = f"{split}, means over seeds; zero-shot has {start} %"
  return charts.figure(chart, caption, charts.legend([*shares]))
