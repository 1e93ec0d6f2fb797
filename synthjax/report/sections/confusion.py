"""The confusion matrices, which `evals.arms` has counted."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from synthjax.evals import accuracy as classify
from synthjax.evals.arms import ZERO_SHOT
from synthjax.labels.class_names import some
from synthjax.report import charts, markup
from synthjax.report.checked_files import Run
from synthjax.report.results import CLASSIFYING, class_names
from synthjax.report.sections.accuracy import choose_matrices

PLACE, TITLE = 60, "Confusions"
_MAX_DRAWN = 200  # classes whose matrix is drawn
_MAX_CELLS = 50  # classes whose matrix is written out as numbers


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Moves `confusion` out of the first task that classified.

  They are dicts of split, arm, labels [k], counts [k, k], the number of seeds
  that these are of, and per_class accuracies [k]. As matrices are large, the
  other tasks lose theirs.
  """
  del run
  tasks = [task for task in CLASSIFYING if task in results]
  if not tasks:
    return {}
  names = class_names(results)
  num_real = results[tasks[0]].get("num_real") or {}
  matrices = [
    _matrix(split, arm, counts, sorted(names), num_real.get(split))
    for split, arms in (results[tasks[0]].get("confusion") or {}).items()
    for arm, counts in arms.items()
  ]
  rest = {
    task: {k: v for k, v in results[task].items() if k != "confusion"}
    for task in tasks
  }
  return {"confusion": matrices} | rest


def _matrix(
  split: str, arm: str, counts: list, labels: list[int], num_real: int | None
) -> dict:
  counts = np.nan_to_num(np.array(counts, float)).astype(int)
  k = len(counts)
  return {
    "split": split,
    "arm": arm,
    "labels": labels if len(labels) == k else [*range(k)],
    "counts": counts,
    "seeds": max(1, round(counts.sum() / (num_real or counts.sum() or 1))),
    "per_class": classify.per_class_accuracy(counts),
  }


def render(results: Mapping) -> str:
  """Shows the matrices of `choose_matrices`, and others behind a line."""
  names, shown = class_names(results), choose_matrices(results)
  content, others = "", ""
  for matrix in results.get("confusion", []):
    if matrix in shown:
      content += _show(matrix, names)
    else:
      others += markup.details(_title(matrix), _show(matrix, names))
  content = f'<div class="pair">{content}</div>' if content else ""
  return content + others


def _show(matrix: Mapping, names: Mapping) -> str:
  """Draws a matrix, lists its most frequent mistakes, and all of its counts."""
  counts, title, seeds = matrix["counts"], _title(matrix), matrix["seeds"]
  classes = [names.get(label, str(label)) for label in matrix["labels"]]
  chart = ""
  if len(counts) <= _MAX_DRAWN:
    chart = charts.figure(
      charts.heatmap(counts, classes, label=f"Confusion matrix, {title}"),
      f"{title}: shares of each true class; full colour is 100 %.",
    )
  mistakes = [
    (n, n / sum(row), classes[i], classes[j])
    for i, row in enumerate(counts)
    for j, n in enumerate(row)
    if n and i != j
  ]
  mistakes.sort(reverse=True)
  # Zero-shot has one seed, beside which sums would look large.
  times = lambda n: (
    markup.decimal(n / seeds, 1) if seeds > 1 else markup.count(n)
  )
  worst = markup.grid(
    ("true class", "predicted", "images", "of the class (%)"),
    [
      [true, predicted, times(n), markup.percent(share)]
      for n, share, true, predicted in mistakes[:10]
    ],
    caption=f"Most frequent mistakes, {title}"
    + (f", mean of {seeds} seeds" if seeds > 1 else ""),
  )
  whole = ""
  if len(counts) <= _MAX_CELLS:
    rows = [
      [name, *map(markup.count, row)]
      for name, row in zip(classes, counts, strict=True)
    ]
    of = f", added up over {seeds} seeds" if seeds > 1 else ""
    caption = f"Counts, {title}{of}; columns are predictions"
    cells = markup.grid(["true class", *classes], rows, caption=caption)
    whole = markup.details("All counts", cells)
  return f"<div>{chart}{_balance(matrix, classes)}{worst}{whole}</div>"


def _balance(matrix: Mapping, classes: Sequence[str]) -> str:
  """Says which classes have no image, and what uneven numbers hide."""
  counts = np.array(matrix["counts"])
  sizes = counts.sum(1) / matrix["seeds"]
  present = sizes[sizes > 0]
  if not len(present) or present.min() == sizes.max() == sizes.min():
    return ""
  missing = [n for n, size in zip(classes, sizes, strict=True) if not size]
  none_of = f", none of {some(missing)}" if missing else ""
  least, most = (
    markup.count(round(n)).text for n in (present.min(), present.max())
  )
  mean = float(np.nanmean(classify.per_class_accuracy(counts)))
  text = (
    f"Classes have {least} to {most} images{none_of}. The mean of the "
    f"accuracies of {len(present)} classes is {markup.percent(mean).text} %."
  )
  return f"<p>{escape(text)}</p>"


def _title(matrix: Mapping) -> str:
  arm = "zero-shot" if matrix["arm"] == ZERO_SHOT else matrix["arm"]
  return f"{arm} on {matrix['split']}"
