"""Ranks candidates by the accuracy of what has learned from each."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from synthjax.evals import accuracy, arms
from synthjax.evals.arms import ZERO_SHOT


def rank(right: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
  """Ranks candidates by accuracy, the best one first.

  Args:
    right: candidate -> [seeds, n] bool, whether it classifies an image right.

  Returns:
    Dicts of arm, and of the summary of its accuracy over seeds; and of what
    tells it from the best one: `behind`, the summary of the difference in pairs
    of a seed, and `over_images` in pairs of an image. Both are None for the
    best one, which is the first of equal ones.
  """
  ordered = sorted(right, key=lambda name: -right[name].mean())
  best = right[ordered[0]]

  def behind(name, axis):
    if name == ordered[0]:
      return None
    values, others = right[name].mean(axis), best.mean(axis)
    return accuracy.paired_difference(values, others)._asdict()

  return [
    {"arm": name, **accuracy.summarize(right[name].mean(1))._asdict()}
    | {"behind": behind(name, 1), "over_images": behind(name, 0)}
    for name in ordered
  ]


def table(results: Mapping[str, Any]) -> str:
  """Lays out the ranking in percent, and the test of the best."""
  percent = lambda x: "" if x is None else f"{100 * x:.2f}"
  number = lambda x: "" if x is None else f"{x:.3g}"

  def ends(x):
    if not x or x["low"] is None:
      return ""
    return f"{100 * x['low']:+.1f} to {100 * x['high']:+.1f}"

  lines = [
    ["candidate", "validation, %", "95 % behind the best", "Vendi", "s/image"],
    ["zero-shot", percent(results["validation"][ZERO_SHOT]), "", "", ""],
  ]
  lines += [
    [
      row["arm"],
      percent(row["mean"]),
      ends(row["over_images"]),
      number(row["vendi"]),
      number(row["seconds_per_image"]),
    ]
    for row in results["ranked"]
  ]
  texts = [arms.align(lines)]
  if test := results.get("test"):
    texts.append(
      f"{results['ranked'][0]['arm']} on test: {percent(test['mean'])} %, "
      f"zero-shot {percent(test[ZERO_SHOT])} %"
    )
  texts += [
    f"Left out, {name}: {why}" for name, why in results["refused"].items()
  ]
  return "\n".join(texts)
