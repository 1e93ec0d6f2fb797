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
  read_text,
)
from synthjax.runtime.errors import UserError

NUM_BINS = 20  # of the histogram of p_own
CLASSIFYING = ("tune", "few_shot", "tune_encoder")  # the first names classes


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
  classes: dict[int, dict] = {}
  strategies: dict = collections.defaultdict(collections.Counter)
  bins = {True: np.zeros(NUM_BINS, int), False: np.zeros(NUM_BINS, int)}
  for row in read_rows(run, "select", "selection.jsonl"):
    kept, p_own = bool(row["kept"]), row["p_own"]
    entry = classes.setdefault(
      row["label"], {"kept": 0, "p_own": [], "reasons": collections.Counter()}
    )
    entry["kept"] += kept
    entry["reasons"][row["reason"]] += 1
    strategies[row["strategy"]].update(images=1, kept=int(kept))
    if p_own is not None:
      entry["p_own"].append(p_own)
      bins[kept][min(max(int(p_own * NUM_BINS), 0), NUM_BINS - 1)] += 1
  rows = [
    {
      "label": label,
      "images": entry["reasons"].total(),
      "kept": entry["kept"],
      "dropped": entry["reasons"].total() - entry["kept"],
      "mean_p_own": float(np.mean(entry["p_own"])) if entry["p_own"] else None,
      "reasons": entry["reasons"],
    }
    for label, entry in sorted(classes.items())
  ]
  reasons = sum((row["reasons"] for row in rows), collections.Counter())
  return {
    "images": reasons.total(),
    "kept": sum(row["kept"] for row in rows),
    "reasons": reasons,
    "by_strategy": strategies,
    "by_class": rows,
    "histogram": {"kept": bins[True], "dropped": bins[False]},
  }
