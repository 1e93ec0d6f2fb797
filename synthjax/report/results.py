"""Gathers the numbers of all tasks of a workdir, as plain data."""

import collections
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from synthjax.report import checked_files, summaries
from synthjax.report.checked_files import number

NUM_BINS = 20  # of the histogram of p_own
# Tasks that measure classifiers: where their numbers go, and who sorts them.
_MEASURES = {
  "tune": ("accuracy", summaries.accuracy),
  "few_shot": ("few_shot_accuracy", summaries.shots),
  "tune_encoder": ("encoder_accuracy", summaries.encoders),
}


def gather(workdir: epath.PathLike, states: Mapping[str, dict]) -> dict:
  """Reads every complete task.

  Args:
    workdir: of the run.
    states: of its tasks, as by `reading.task_states`.

  Returns:
    Plain data: `classes` (dicts of label and name), `curves`, and of each task
    that is complete: `prompts`; `selection`; `tune` as it is, with `accuracy`;
    `few_shot` with `few_shot_accuracy`; `tune_encoder` with `encoder_accuracy`;
    moved out of the first of those three, `confusion`; `transfer` as it is,
    with `transferred`; `detect` as it is, with `detected`; `card` as it is,
    with its `pairs`.

  Raises:
    UserError: naming a file that is not what its task wrote.
  """
  done = {
    task: (epath.Path(workdir) / task, state["files"])
    for task, state in states.items()
    if state["state"] == "complete"
  }

  def results_of(task: str) -> dict:
    return checked_files.read_json(done[task][0], "results.json", done[task][1])

  found: dict[str, Any] = {}
  names: dict[int, str] = {}
  if "prompts" in done:
    found["prompts"], names = _prompts(*done["prompts"])
  if "generate" in done:
    names = _label_names(*done["generate"]) | names
  classified = [task for task in _MEASURES if task in done]
  for task in classified:
    found[task] = results_of(task)
    names = names or _class_names(found[task])
    key, measure = _MEASURES[task]
    found[key] = measure(found[task])
  if "select" in done:
    found["selection"] = _selection(*done["select"], names)
  found["classes"] = [
    {"label": label, "name": names[label]} for label in sorted(names)
  ]
  if classified:
    first = found[classified[0]]
    found["confusion"] = summaries.confusion(first, sorted(names))
  for task in classified:
    found[task].pop("confusion", None)  # large: once is enough
  if "transfer" in done:
    found["transfer"] = results_of("transfer")
    found["transferred"] = summaries.transfer(found["transfer"])
  if "detect" in done:
    found["detect"] = results_of("detect")
    found["detected"] = summaries.detection(found["detect"])
  if "card" in done:
    found["card"] = checked_files.read_json(
      done["card"][0], "card.json", done["card"][1]
    )
    found["card"]["pairs"] = checked_files.read_json(
      done["card"][0], "pairs.json", done["card"][1]
    )
  found["curves"] = [
    curve for task in done for curve in curves(task, *done[task])
  ]
  return checked_files.plain(found)


# --- prompts and classes ----------------------------------------------------


def _prompts(folder: epath.Path, files: Mapping) -> tuple[dict, dict]:
  """Counts the prompts and keeps some of each class and strategy."""
  names, count = {}, collections.Counter()
  examples: dict = {}
  for row in checked_files.read_rows(folder, "prompts.jsonl", files):
    label, strategy = row.get("label"), str(row.get("strategy", ""))
    if not isinstance(label, int):
      continue
    names[label] = str(row.get("class_name", label))
    count[strategy] += 1
    of_class = examples.setdefault(label, {}).setdefault(strategy, [])
    of_class.append(str(row.get("text", "")))
  kept = [
    {
      "label": label,
      "strategy": strategy,
      "count": len(texts),
      # Spread over the list: neighbours often share their words.
      "texts": [texts[i] for i in _spread(len(texts), 3)],
    }
    for label in sorted(examples)
    for strategy, texts in examples[label].items()
  ]
  total = {"count": sum(count.values()), "by_strategy": dict(count)}
  return total | {"examples": kept}, names


def _label_names(folder: epath.Path, files: Mapping) -> dict[int, str]:
  path = folder / "label.labels.txt"
  if path.name not in files or not path.exists():
    return {}
  return dict(enumerate(path.read_text().splitlines()))


def _class_names(results: Mapping) -> dict[int, str]:
  """Names the classes from 0, or by the ids that `classes` states."""
  names = {}
  for i, entry in enumerate(results.get("classes") or []):
    if isinstance(entry, Mapping):
      names[entry.get("id", i)] = str(entry.get("name", i))
    else:
      names[i] = str(entry)
  return names


# --- the filter -------------------------------------------------------------


def _selection(
  folder: epath.Path, files: Mapping, names: dict[int, str]
) -> dict:
  """Counts what the filter kept and why, by class, strategy and score."""
  classes: dict = {}
  strategies: dict = collections.defaultdict(collections.Counter)
  reasons: collections.Counter = collections.Counter()
  kept_bins, dropped_bins = np.zeros((2, NUM_BINS), int)
  for row in checked_files.read_rows(folder, "selection.jsonl", files):
    label, kept = row.get("label"), bool(row.get("kept"))
    if not isinstance(label, int):
      continue
    names.setdefault(label, str(label))
    reason, p_own = str(row.get("reason", "")), number(row.get("p_own"))
    entry = classes.setdefault(
      label,
      {"images": 0, "kept": 0, "reasons": collections.Counter(), "p_own": []},
    )
    entry["images"] += 1
    entry["kept"] += kept
    entry["reasons"][reason] += 1
    reasons[reason] += 1
    strategies[str(row.get("strategy", ""))].update(images=1, kept=int(kept))
    if p_own is not None:
      entry["p_own"].append(p_own)
      bins = kept_bins if kept else dropped_bins
      bins[min(max(int(p_own * NUM_BINS), 0), NUM_BINS - 1)] += 1
  rows = [
    {
      "label": label,
      "images": entry["images"],
      "kept": entry["kept"],
      "dropped": entry["images"] - entry["kept"],
      "mean_p_own": float(np.mean(entry["p_own"])) if entry["p_own"] else None,
      "reasons": dict(entry["reasons"]),
    }
    for label, entry in sorted(classes.items())
  ]
  return {
    "images": sum(row["images"] for row in rows),
    "kept": sum(row["kept"] for row in rows),
    "reasons": dict(reasons),
    "by_strategy": {name: dict(c) for name, c in strategies.items()},
    "by_class": rows,
    "histogram": {"kept": kept_bins, "dropped": dropped_bins},
  }


def _spread(size: int, count: int) -> list[int]:
  """Returns up to `count` positions, evenly spread over 0..size-1."""
  return sorted({int(i) for i in np.linspace(0, size - 1, min(size, count))})


# --- training curves ---------------------------------------------------------

_POINTS = 200  # of a curve; more cannot be told apart
_SEED = re.compile(r"(, seed |-s)\d+$")  # at the end of a label


def curves(task: str, folder: epath.Path, files: Mapping) -> list[dict]:
  """Reads the curves of a task.

  Args:
    task: its name.
    folder: where its files lie: JSON lines with a step, or arrays of losses.
    files: of its manifest.

  Returns:
    Dicts of task, label, metric, seeds (how many), steps and values (thinned),
    first, last and least.
  """
  found = []
  for name in files:
    if name.endswith("_metrics.jsonl"):
      label = name.removesuffix("_metrics.jsonl")
      rows = list(checked_files.read_rows(folder, name, files))
      for metric in dict.fromkeys(key for row in rows for key in row):
        if metric not in ("step", "seed"):
          pairs = [(row.get("step"), row.get(metric)) for row in rows]
          found.append((label, metric, pairs))
    elif name.endswith("curves.npz"):
      for label, values in checked_files.read_arrays(
        folder, name, files
      ).items():
        if values.ndim == 1 and values.dtype.kind in "fiu":
          found.append((label, "loss", list(enumerate(values.tolist(), 1))))
  groups: dict = {}
  for label, metric, pairs in found:
    finite = [
      (number(step), number(x))
      for step, x in pairs
      if number(step) is not None and number(x) is not None
    ]
    if finite:
      key = (_SEED.sub("", label), metric)
      groups.setdefault(key, []).append(np.array(finite, np.float64))
  return [
    _mean_curve(of) | {"task": task, "label": label, "metric": metric}
    for (label, metric), of in groups.items()
  ]


def _mean_curve(curves: list[np.ndarray]) -> dict:
  """Averages curves [n, 2] of step and value, then thins them."""
  # A seed whose row was lost, or that stopped early, shortens all.
  steps = sorted(set.intersection(*({*c[:, 0]} for c in curves)))
  if not steps:  # nothing in common: the first stands for all
    curves, steps = curves[:1], curves[0][:, 0].tolist()
  values = [dict(curve.tolist()) for curve in curves]
  mean = np.array([np.mean([of[step] for of in values]) for step in steps])
  # A point is the mean of its stretch.
  parts = np.array_split(np.arange(len(steps)), min(len(steps), _POINTS))
  return {
    "seeds": len(curves),
    "steps": [float(steps[part[-1]]) for part in parts],
    "values": [float(mean[part].mean()) for part in parts],
    "first": float(mean[0]),
    "last": float(mean[-1]),
    "least": float(mean.min()),
  }
