"""What each class gained, and what the filter made of it."""

from collections.abc import Mapping

from synthjax.report import charts, markup
from synthjax.report.results import class_names
from synthjax.report.sections.accuracy import choose_matrices

PLACE, TITLE = 50, "Classes"
_MAX_BARS = 60  # classes in a chart; of more, the ends


def render(results: Mapping) -> str:
  """Shows the accuracy of each class before and after, and its images."""
  names = class_names(results)
  before, after = choose_matrices(results)
  accuracies, gains = {}, {}
  if before and after:
    shares = zip(before["per_class"], after["per_class"], strict=True)
    accuracies = dict(zip(before["labels"], shares, strict=True))
    gains = {
      label: share - start
      for label, (start, share) in accuracies.items()
      if None not in (start, share)
    }
  filtered = {
    row["label"]: row
    for row in results.get("selection", {}).get("by_class", [])
  }
  columns = {"class": lambda label: names.get(label, str(label))}
  if accuracies:
    share_of = lambda label, i: markup.percent(
      accuracies.get(label, (None, None))[i]
    )
    columns |= {
      "zero-shot (%)": lambda label: share_of(label, 0),
      f"{after['arm']} (%)": lambda label: share_of(label, 1),
      "gain (points)": lambda label: markup.points(gains.get(label)),
    }
  if filtered:
    fact = lambda label, key: filtered.get(label, {}).get(key)
    columns |= {
      "images": lambda label: markup.count(fact(label, "images")),
      "kept": lambda label: markup.count(fact(label, "kept")),
      "kept (%)": lambda label: markup.percent(
        markup.ratio(fact(label, "kept"), fact(label, "images")), 0
      ),
      "mean p_own": lambda label: markup.decimal(fact(label, "mean_p_own"), 2),
    }
  if len(columns) == 1:
    return ""
  chart = _gains(gains, names, after) if gains else ""
  labels = dict.fromkeys([*names, *accuracies, *filtered])
  rows = markup.table(columns, labels, caption="Each class")
  return f'<div class="pair lean">{chart}{rows}</div>'


def _gains(gains: Mapping, names: Mapping, after: Mapping) -> str:
  """Draws the gain of each class, or of those that gained most and least."""
  order, note = sorted(gains, key=gains.get, reverse=True), ""
  if len(order) > _MAX_BARS:
    half = _MAX_BARS // 2
    note = f" The {half} largest and the {half} smallest of {len(order)}."
    order = order[:half] + order[-half:]
  chart = charts.bars(
    [(names.get(label, str(label)), 100 * gains[label]) for label in order],
    xlabel=f"gain in accuracy on {after['split']} (points)",
    label="Gain of each class in accuracy",
  )
  caption = f"{after['arm']} against zero-shot, class by class.{note}"
  return charts.figure(chart, caption)
