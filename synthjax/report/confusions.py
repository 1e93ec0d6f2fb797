"""Which classes are taken for which, as a section of the page."""

from collections.abc import Mapping

from synthjax.report import plots, tables
from synthjax.report.sections import (
  Section,
  class_names,
  confusion_pair,
  is_zero_shot,
)

_MAX_DRAWN = 200  # classes whose matrix is drawn
_MAX_CELLS = 50  # classes whose matrix is written out as numbers


def confusion(results: Mapping) -> Section:
  """Shows which classes are taken for which."""
  names = class_names(results)
  chosen = confusion_pair(results)
  entries = results.get("confusion", [])
  first = [e for e in entries if e in chosen]
  others = [e for e in entries if e not in chosen]
  parts = [_matrix(entry, names) for entry in first]
  content = f'<div class="pair">{"".join(parts)}</div>' if parts else ""
  for entry in others:
    title = f"{_arm_name(entry)} on {entry['split']}"
    content += tables.details(title, _matrix(entry, names))
  return Section("confusion", "Confusions", content)


def _matrix(entry: Mapping, names: Mapping) -> str:
  counts = entry["counts"]
  words = [names.get(label, str(label)) for label in entry["labels"]]
  title = f"{_arm_name(entry)} on {entry['split']}"
  chart = ""
  if len(counts) <= _MAX_DRAWN:
    chart = plots.figure(
      plots.heatmap(counts, words, label=f"Confusion matrix, {title}"),
      f"{title}: shares of each true class; full colour is 100 %.",
    )
  wrong = [
    (n, n / sum(row), words[i], words[j])
    for i, row in enumerate(counts)
    for j, n in enumerate(row)
    if n and i != j
  ]
  wrong.sort(reverse=True)
  rows = [
    [true, predicted, tables.count(n), tables.percent(share)]
    for n, share, true, predicted in wrong[:10]
  ]
  head = ("true class", "predicted", "times", "of the class (%)")
  worst = tables.table(head, rows, caption=f"Most frequent mistakes, {title}")
  whole = ""
  if len(counts) <= _MAX_CELLS:
    table = tables.table(
      ["true class", *words],
      [
        [name, *map(tables.count, row)]
        for name, row in zip(words, counts, strict=True)
      ],
      caption=f"Counts, {title}, of all its seeds; columns are predictions",
    )
    whole = tables.details("All counts", table)
  return f"<div>{chart}{worst}{whole}</div>"


def _arm_name(entry: Mapping) -> str:
  return "zero-shot" if is_zero_shot(entry) else entry["arm"]
