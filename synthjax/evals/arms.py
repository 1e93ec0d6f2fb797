"""Compares the arms of an experiment, each measured over several seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.evals import accuracy

ZERO_SHOT = "zero_shot"
UNMEASURED = (
  "No accuracy was measured, as no real images were given: name some by "
  "config.tune.test, such as a folder of class folders."
)


def compare(
  predict: Callable[[Any, np.ndarray], np.ndarray],
  start: Any,
  runs: Sequence[tuple[Mapping[str, Any], Any]],
  splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
  num_classes: int,
  *,
  headline: str | None = None,
) -> dict[str, Any]:
  """Measures the trained models, and the one they start from, on every split.

  Args:
    predict: maps a model and features [m, d] to logits [m, k].
    start: the zero-shot model.
    runs: a model, and the entries of its row, such as arm and seed.
    splits: features [m, d] and labels [m] of "test" and any others; there may
      be none.
    num_classes: k.
    headline: the arm that stands for all; by default the best on validation, or
      the last where none was validated.

  Returns:
    num_real and zero_shot by split; rows of the runs with their accuracy by
    split; the summary of each arm; and confusion, counts [k, k] on "test", if
    there is one, of zero-shot and of the headline, added up over its seeds.
  """

  def measure(model):
    """Returns accuracies by split, and the confusion matrix on "test"."""
    logits = {name: predict(model, x) for name, (x, _) in splits.items()}
    shares = {
      name: accuracy.top1(logits[name], labels)
      for name, (_, labels) in splits.items()
    }
    if "test" not in splits:
      return shares, None
    predictions = logits["test"].argmax(-1)
    return shares, accuracy.confusion_matrix(
      splits["test"][1], predictions, num_classes
    )

  zero_shot, confusion = measure(start)
  rows, counts, matrices = [], {}, {}
  for about, model in runs:
    shares, of_run = measure(model)
    rows.append({**about, "accuracy": shares})
    if of_run is not None:
      counts[about["arm"]] = counts.get(about["arm"], 0) + of_run
  summary = summarize(rows, zero_shot)
  if confusion is not None:
    arm = headline or _best(summary)
    by_arm = {ZERO_SHOT: confusion.tolist(), arm: counts[arm].tolist()}
    matrices["test"] = by_arm
  return {
    "num_real": {name: len(labels) for name, (_, labels) in splits.items()},
    ZERO_SHOT: zero_shot,
    "rows": rows,
    "summary": summary,
    "confusion": matrices,
  }


def _best(summary: Sequence[Mapping[str, Any]]) -> str:
  """Returns the best arm on validation, or the last one."""
  validated = [row for row in summary if row["split"].startswith("val")]
  best = max(validated, key=lambda row: row["mean"], default=summary[-1])
  return best["arm"]


def summarize(
  rows: Sequence[Mapping[str, Any]], zero_shot: Mapping[str, float]
) -> list[dict[str, Any]]:
  """Summarises each arm on each split.

  Args:
    rows: of arm, and accuracy: split -> share.
    zero_shot: split -> share, of what every arm starts from.

  Returns:
    Dicts of arm, split, mean, std, stderr, low and high (of the 95 % interval
    of the mean), n, gain and gain_stderr; a spread is None for one seed.
  """
  return [
    _summarize(
      arm, split, [r["accuracy"][split] for r in rows if r["arm"] == arm], start
    )
    for arm in dict.fromkeys(row["arm"] for row in rows)
    for split, start in zero_shot.items()
  ]


def _summarize(
  arm: str, split: str, values: Sequence[float], start: float
) -> dict[str, Any]:
  summary = accuracy.summarize(values)._asdict()
  # Zero-shot has no seed, so that the gain is as unsure as the mean.
  gain = accuracy.paired_difference(values, [start] * len(values))
  order = ("mean", "std", "stderr", "low", "high", "n")
  return {
    "arm": arm,
    "split": split,
    **{name: summary[name] for name in order},
    "gain": gain.mean,
    "gain_stderr": gain.stderr,
  }


def table(results: Mapping[str, Any], *, split: str = "test") -> str:
  """Lays out accuracies in percent, as mean +- std.

  Args:
    results: with num_real and zero_shot by split, and the summary.
    split: of the gain over zero-shot, +- its standard error; if it was not
      measured, the first one is taken.

  Returns:
    Aligned lines: a heading, zero-shot, and one for each arm; or what to do
    where nothing was measured.
  """
  zero_shot, num_real = results[ZERO_SHOT], results["num_real"]
  if not zero_shot:
    return UNMEASURED
  split = split if split in zero_shot else next(iter(zero_shot))
  sizes = [f"{name} ({num_real[name]:,})" for name in zero_shot]
  lines = [
    ["top-1, %", *sizes, f"gain on {split}"],
    ["zero-shot", *(_spread(x, None) for x in zero_shot.values()), ""],
  ]
  summaries = {(row["arm"], row["split"]): row for row in results["summary"]}
  for arm in dict.fromkeys(row["arm"] for row in results["summary"]):
    rows = [summaries[arm, name] for name in zero_shot]
    gain = summaries[arm, split]
    means = [_spread(row["mean"], row["std"]) for row in rows]
    lines.append([arm, *means, _spread(gain["gain"], gain["gain_stderr"], "+")])
  return align(lines)


def label(method: str, shots: int) -> str:
  """Returns the name of the arm of a method with so many shots."""
  return f"{method} ({shots} shots)"


def shots_table(results: Mapping[str, Any], *, split: str = "test") -> str:
  """Lays out accuracies in percent by method and number of shots.

  Args:
    results: with zero_shot, methods, shots, and the summary of each `label`.
    split: to show.

  Returns:
    Aligned lines: a heading, zero-shot, and one for each method.
  """
  summaries = {
    row["arm"]: row for row in results["summary"] if row["split"] == split
  }
  lines = [
    ["top-1, %", *(f"{shots} shots" for shots in results["shots"])],
    ["zero-shot", _spread(results[ZERO_SHOT][split], None)],
  ]
  lines[1] += [""] * (len(results["shots"]) - 1)
  for method in results["methods"]:
    rows = [summaries[label(method, shots)] for shots in results["shots"]]
    lines.append([method, *(_spread(r["mean"], r["std"]) for r in rows)])
  return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
  """Pads columns to one width: the first to the left, others to the right."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  )


def _spread(mean: float, spread: float | None, sign: str = "") -> str:
  text = f"{100 * mean:{sign}.2f}"
  return text if spread is None else f"{text} ± {100 * spread:.2f}"
