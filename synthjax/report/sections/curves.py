"""Training curves of every task that wrote some."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.report import charts, markup
from synthjax.report.checked_files import Run, files_of, read_arrays, read_rows

PLACE, TITLE = 130, "Training"
_MAX_LINES = 12  # in one chart
_MAX_POINTS = 200  # of a curve; the eye sees no more
_METRICS = "_metrics.jsonl"  # ends the name of a file
_SEED = re.compile(r"(, seed |-s)\d+$")  # at the end of a label
_COLUMNS = {
  "training": lambda curve: f"{curve['task']}: {curve['label']}",
  "metric": lambda curve: curve["metric"],
  "seeds": lambda curve: markup.count(curve["seeds"]),
  "steps": lambda curve: markup.count(curve["steps"][-1]),
  "first": lambda curve: markup.short(curve["first"]),
  "last": lambda curve: markup.short(curve["last"]),
  "least": lambda curve: markup.short(curve["least"]),
}


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Adds `curves`, of all tasks."""
  del results
  return {"curves": [curve for t in run.states for curve in curves(run, t)]}


def curves(run: Run, task: str) -> list[dict]:
  """Reads the curves of a task, from its rows of metrics and arrays of losses.

  Returns:
    Dicts of task, label, metric, seeds (how many), steps and values (thinned),
    first, last and least.
  """
  groups: dict[tuple, list] = {}

  def add(label, metric, pairs):
    finite = [pair for pair in pairs if None not in pair]
    finite = [pair for pair in finite if np.isfinite(pair).all()]
    if finite:
      group = groups.setdefault((_SEED.sub("", label), metric), [])
      group.append(np.array(finite, np.float64))

  for name in files_of(run, task):
    if name.endswith(_METRICS):
      rows = list(read_rows(run, task, name))
      metrics = dict.fromkeys(key for row in rows for key in row)
      for metric in metrics:
        if metric not in ("step", "seed"):
          pairs = [(row.get("step"), row.get(metric)) for row in rows]
          add(name.removesuffix(_METRICS), metric, pairs)
    elif name.endswith("curves.npz"):
      for label, losses in read_arrays(run, task, name).items():
        if losses.ndim == 1 and losses.dtype.kind in "fiu":
          add(label, "loss", enumerate(losses.tolist(), 1))
  return [
    _mean_curve(seeds) | {"task": task, "label": label, "metric": metric}
    for (label, metric), seeds in groups.items()
  ]


def _mean_curve(curves: list[np.ndarray]) -> dict:
  """Averages curves [n, 2] of step and value, then thins them."""
  # A seed whose row was lost, or that stopped early, shortens all.
  steps = sorted(set.intersection(*({*c[:, 0]} for c in curves)))
  if not steps:  # nothing in common: the first stands for all
    curves, steps = curves[:1], curves[0][:, 0].tolist()
  values = [dict(curve.tolist()) for curve in curves]
  mean = np.array([np.mean([seed[step] for seed in values]) for step in steps])
  # A point is the mean of its stretch.
  parts = np.array_split(np.arange(len(steps)), min(len(steps), _MAX_POINTS))
  return {
    "seeds": len(curves),
    "steps": [float(steps[part[-1]]) for part in parts],
    "values": [float(mean[part].mean()) for part in parts],
    "first": float(mean[0]),
    "last": float(mean[-1]),
    "least": float(mean.min()),
  }


def render(results: Mapping) -> str:
  """Shows the losses of each training, and other metrics behind a line."""
  groups: dict = {}
  for curve in results["curves"]:
    groups.setdefault((curve["task"], curve["metric"]), []).append(curve)
  if not groups:
    return ""
  losses, others = [], []
  for (task, metric), group in groups.items():
    chart = _chart(task, metric, group)
    (losses if "loss" in metric else others).append(chart)
  content = f'<div class="charts">{"".join(losses)}</div>' if losses else ""
  if others:
    charts_ = f'<div class="charts">{"".join(others)}</div>'
    content += markup.details("Other metrics", charts_, opened=not losses)
  rows = markup.table(
    _COLUMNS,
    results["curves"],
    caption="Where each curve starts and ends (means over seeds)",
  )
  return content + markup.details("As a table", rows)


def _chart(task: str, metric: str, curves: Sequence[Mapping]) -> str:
  shown = curves[:_MAX_LINES]
  caption = f"{task}: {metric}"
  if len(curves) > len(shown):
    caption += f" (the first {len(shown)} of {len(curves)})"
  if any(curve["seeds"] > 1 for curve in shown):
    caption += ", mean over seeds"
  chart = charts.lines(
    [(c["label"], c["steps"], c["values"]) for c in shown],
    xlabel="step",
    ylabel=metric,
    label=f"{metric} of {task} over its steps",
  )
  key = charts.legend([curve["label"] for curve in shown])
  return charts.figure(chart, caption, key)
