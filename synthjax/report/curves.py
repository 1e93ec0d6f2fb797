"""Training curves: the mean over seeds, thinned to what a page can show."""

import re
from collections.abc import Mapping

import numpy as np
from etils import epath

from synthjax.report import reading
from synthjax.report.reading import number

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
      rows = list(reading.read_rows(folder, name, files))
      for metric in dict.fromkeys(key for row in rows for key in row):
        if metric not in ("step", "seed"):
          pairs = [(row.get("step"), row.get(metric)) for row in rows]
          found.append((label, metric, pairs))
    elif name.endswith("curves.npz"):
      for label, values in reading.read_arrays(folder, name, files).items():
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
