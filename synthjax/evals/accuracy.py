"""Accuracies of a classifier, and their confidence intervals over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from scipy import special

from synthjax.runtime.atomic import replace


class Summary(NamedTuple):
  """Some numbers in short; a single number has no spread, only None."""

  n: int
  mean: float
  std: float | None  # of the sample, with n - 1
  stderr: float | None  # of the mean
  low: float | None  # ends of the confidence interval of the mean
  high: float | None


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the share of rows whose largest logit is at the label.

  Args:
    logits: [n, k]; the first of equal logits counts.
    labels: [n] int.

  Returns:
    A share in 0..1.
  """
  logits, labels = np.asarray(logits), np.asarray(labels)
  _check(labels, logits.argmax(-1), logits.shape[1])
  return float(np.mean(logits.argmax(-1) == labels))


def confusion_matrix(
  labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts [k, k] int: rows are the labels, columns the predictions.

  Args:
    labels: [n] int in 0..num_classes-1.
    predictions: [n] int, likewise.
    num_classes: k.

  Raises:
    ValueError: for sizes that differ and classes that do not exist.
  """
  labels, predictions = np.asarray(labels), np.asarray(predictions)
  _check(labels, predictions, num_classes)
  counts = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(counts, (labels, predictions), 1)
  return counts


def per_class_accuracy(confusion: np.ndarray) -> np.ndarray:
  """Returns the accuracy [k] of each class; NaN for one without rows."""
  confusion = np.asarray(confusion)
  counts = confusion.sum(1)
  right = np.diag(confusion).astype(np.float64)
  empty = np.full(len(counts), np.nan)
  return np.divide(right, counts, out=empty, where=counts > 0)


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
  """Summarises independent measurements, such as accuracies over seeds.

  The `interval` covers the differences between the measurements; seeds on one
  test set say nothing about another one.

  Args:
    values: [n], at least one.
    confidence: that the interval holds the true mean.

  Raises:
    ValueError: without values, or for one that is not finite.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
    raise ValueError(
      f"found the values {values.tolist()}; needed a list of at least one "
      "finite number: did a seed fail?"
    )
  n, mean = len(values), float(values.mean())
  if n == 1:
    return Summary(n, mean, None, None, None, None)
  std = float(values.std(ddof=1))
  stderr = std / math.sqrt(n)
  low, high = interval(mean, stderr, n, confidence)
  return Summary(n, mean, std, stderr, low, high)


def interval(
  mean: float, stderr: float, n: int, confidence: float = 0.95
) -> tuple[float, float]:
  """Returns the ends of Student's interval, mean +- t(n - 1) * stderr.

  Args:
    mean: of n measurements.
    stderr: of the mean, std / sqrt(n).
    n: at least 2, as one measurement has no spread.
    confidence: that the interval holds the true mean.

  Raises:
    ValueError: for fewer than two measurements.
  """
  if n < 2:
    raise ValueError(f"found n={n}; an interval needs at least 2 measurements.")
  half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * stderr
  return mean - half, mean + half


def paired_difference(
  values: Sequence[float], reference: Sequence[float], confidence: float = 0.95
) -> Summary:
  """Summarises values - reference, measured in pairs.

  A pair shares a seed, or a test row whose values are 0 or 1 for wrong and
  right: what both have in common cancels, so that the standard error is that
  of the difference.

  Raises:
    ValueError: if their numbers differ.
  """
  if len(values) != len(reference):
    raise ValueError(
      f"found {len(values)} values and {len(reference)} of the reference; "
      "pairs need the same seeds, in the same order, on both sides."
    )
  return summarize(np.subtract(values, reference), confidence)


def _check(labels, predictions, num_classes):
  if labels.shape != predictions.shape or labels.ndim != 1 or not labels.size:
    raise ValueError(
      f"found labels {labels.shape} and predictions {predictions.shape}; "
      "needed one of each per row, and at least one row."
    )
  seen = np.union1d(labels, predictions)
  unknown = seen[(seen < 0) | (seen >= num_classes)]
  if len(unknown):
    raise ValueError(
      f"found the classes {unknown[:10].tolist()}, but there are "
      f"{num_classes}, from 0 to {num_classes - 1}: are the labels those of "
      "the classifier's label space?"
    )


# --- the file of a task's results, which the report reads --------------------

FILE = "results.json"


def write(folder: epath.PathLike, results: Mapping[str, Any]) -> dict[str, int]:
  """Writes the results; returns the file's name, with its rows."""
  with replace(folder, FILE) as path:
    path.write_text(json.dumps(results, indent=1) + "\n")
  return {FILE: len(results["rows"])}
