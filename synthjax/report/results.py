"""Gathers the numbers of all tasks of a workdir, as plain data."""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from synthjax.evals import accuracy
from synthjax.report import sections
from synthjax.report.checked_files import (
  Run,
  files_of,
  json_data,
  open_run,
  read_json,
  read_rows,
  read_selection,
  read_text,
)
from synthjax.runtime.errors import UserError

NUM_BINS = 20  # of the histogram of p_own
# The first names classes.
CLASSIFYING = ("tune", "few_shot", "tune_encoder", "practice")


def gather(run: Run) -> dict[str, Any]:
  """Reads every complete task.

  Returns:
    Plain data: the `results.json` of each task that wrote one, by its name;
    `prompts` and `selection` of the tasks that wrote those; `classes` (dicts of
    label and name); and what the sections of the page gather.

  Raises:
    UserError: naming a file that is not what its task wrote.
  """
  results: dict[str, Any] = {
    task: read_json(run, task, accuracy.FILE)
    for task in run.states
    if accuracy.FILE in files_of(run, task)
  }
  names: dict[int, str] = {}
  if files_of(run, "prompts"):
    results["prompts"], names = _prompts(run)
  names = _label_names(run) | names
  for task in CLASSIFYING:
    names = names or dict(enumerate(results.get(task, {}).get("classes") or ()))
  if files_of(run, "select"):
    results["selection"] = _selection(run)
    for row in results["selection"]["by_class"]:
      names.setdefault(row["label"], str(row["label"]))
  results["classes"] = [
    {"label": label, "name": names[label]} for label in sorted(names)
  ]
  for section in sections.modules():
    if hasattr(section, "gather"):
      results |= section.gather(run, results)
  return json_data(results)


def read_run(workdir: epath.PathLike) -> dict[str, Any]:
  """Reads the results of all complete tasks of a run, as plain data.

  Raises:
    UserError: if no task is complete, or as `gather`.
  """
  run = open_run(epath.Path(workdir).expanduser(), ())
  if not any(state["state"] == "complete" for state in run.states.values()):
    raise UserError(
      f"No task is complete in {workdir}: give the --workdir of a run."
    )
  return gather(run)


def class_names(results: Mapping) -> dict[int, str]:
  """Returns label -> name."""
  return {entry["label"]: entry["name"] for entry in results["classes"]}


def _prompts(run: Run) -> tuple[dict, dict[int, str]]:
  """Counts the prompts, keeps some of each class, and names the classes."""
  names, counts = {}, collections.Counter()
  texts: dict = {}
  for row in read_rows(run, "prompts", "prompts.jsonl"):
    label, strategy = row["label"], row["strategy"]
    names[label] = row["class_name"]
    counts[strategy] += 1
    texts.setdefault((label, strategy), []).append(row["text"])
  examples = [
    {
      "label": label,
      "strategy": strategy,
      "count": len(group),
      # Spread over the list, as neighbours often share their words.
      "texts": [group[i] for i in _spread(len(group), 3)],
    }
    for (label, strategy), group in sorted(
      texts.items(), key=lambda item: item[0][0]
    )
  ]
  total = {"count": counts.total(), "by_strategy": dict(counts)}
  return total | {"examples": examples}, names


def _spread(size: int, count: int) -> list[int]:
  """Returns up to `count` positions, evenly spread over 0..size-1."""
  return sorted({int(i) for i in np.linspace(0, size - 1, min(size, count))})


def _label_names(run: Run) -> dict[int, str]:
  """Returns the names that lie beside the shards of drawn images."""
  if (name := "label.labels.txt") not in files_of(run, "generate"):
    return {}
  return dict(enumerate(read_text(run, "generate", name).splitlines()))


def _selection(run: Run) -> dict:
  """Counts what the filter kept and why, by class, strategy and score."""
  names = ("label", "strategy", "p_own", "kept", "reason")
  labels, strategies, p_own, kept, reasons = read_selection(run, names).values()
  reason_names, reason_of = _codes(reasons)
  label_names, label_of = np.unique(labels, return_inverse=True)
  by_reason = _counts(
    label_of, reason_of, shape=(len(label_names), len(reason_names))
  )
  kept_of = _counts(label_of, kept, shape=(len(label_names), 2))[:, 1]
  known = np.isfinite(p_own)
  with np.errstate(invalid="ignore"):  # of a class without a probability
    means = np.bincount(
      label_of[known], p_own[known], len(label_names)
    ) / np.bincount(label_of[known], minlength=len(label_names))
  bins = np.clip((p_own[known] * NUM_BINS).astype(int), 0, NUM_BINS - 1)
  histogram = _counts(kept[known], bins, shape=(2, NUM_BINS))
  counters = [
    collections.Counter(
      {n: c for n, c in zip(reason_names, row.tolist(), strict=True) if c}
    )
    for row in by_reason
  ]
  rows = [
    {
      "label": int(label),
      "images": counter.total(),
      "kept": num_kept,
      "dropped": counter.total() - num_kept,
      "mean_p_own": mean if np.isfinite(mean) else None,
      "reasons": counter,
    }
    for label, counter, num_kept, mean in zip(
      label_names, counters, kept_of.tolist(), means.tolist(), strict=True
    )
  ]
  strategy_names, strategy_of = _codes(strategies)
  by_strategy = _counts(strategy_of, kept, shape=(len(strategy_names), 2))
  return {
    "images": len(labels),
    "kept": int(kept.sum()),
    "reasons": sum(counters, collections.Counter()),
    "by_strategy": {
      name: {"images": dropped + left, "kept": left}
      for name, (dropped, left) in zip(
        strategy_names, by_strategy.tolist(), strict=True
      )
    },
    "by_class": rows,
    "histogram": {"kept": histogram[1], "dropped": histogram[0]},
  }


def _codes(values: np.ndarray) -> tuple[list[str], np.ndarray]:
  """Numbers the different texts among [n], in the order of their first."""
  places: dict[str, int] = {}
  code = lambda value: places.setdefault(value, len(places))
  codes = np.fromiter(map(code, values.tolist()), np.int64, len(values))
  return list(places), codes


def _counts(
  rows: np.ndarray, columns: np.ndarray, *, shape: tuple[int, int]
) -> np.ndarray:
  """Counts pairs [n] of a row and a column of a table."""
  cells = rows.astype(np.int64) * shape[1] + columns
  return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
