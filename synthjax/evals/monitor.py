"""What features are worth while they are being trained.

A probe learns from a pool of labelled images and names those that were held
out: without touching what is trained, and in seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from synthjax.evals import neighbours
from synthjax.evals.accuracy import top1

# Features [m, d], labels [m] and queries [n, d] -> scores [n, k].
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


# Features [n, d] of some images, and their labels [n].
Labelled = tuple[np.ndarray, np.ndarray]


def make_monitor(
  features_of: Callable[[Any, Any], Labelled],
  pool: Any,
  held_out: Any,
  probes: Mapping[str, Classify],
) -> Callable[[Any], dict[str, float]]:
  """Returns a function of a network, or of the state that holds it.

  Args:
    features_of: (network, images) -> their features and labels.
    pool: images to learn from, in whatever form `features_of` takes them.
    held_out: images to name.
    probes: by the names that the accuracies shall have, such as those that
      `knn` and `linear_probe` return.

  Returns:
    A function (network) -> top-1 accuracy in 0..1 of the held-out images, by
    probe.
  """

  def monitor(network):
    known = features_of(network, pool)
    queries, labels = features_of(network, held_out)
    return {
      name: top1(classify(*known, queries), labels)
      for name, classify in probes.items()
    }

  return monitor


def knn(
  num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Classify:
  """Returns the vote of the k nearest, by cosine; see `evals.knn`."""
  return partial(
    neighbours.vote, num_classes=num_classes, k=k, temperature=temperature
  )


def linear_probe(
  num_classes: int, *, fit: Callable[..., np.ndarray], **options: float
) -> Classify:
  """Returns a linear classifier of standardised features.

  The mean and deviation of each dimension are those of the pool. Features grow
  and shrink in training; so one penalty fits all steps, and few steps of a
  solver suffice.

  Args:
    num_classes: k.
    fit: what learns from features and classifies others: a `Classify` with
      num_classes= and the options, such as `train.linear_probe.classify`.
    **options: of `fit`.
  """

  def classify(features, labels, queries):
    mean, std = features.mean(0), features.std(0)
    # A unit that is always off tells nothing, and stays 0.
    scale = 1 / np.where(std > 1e-6 * std.max(), std, np.inf)
    known, asked = (features - mean) * scale, (queries - mean) * scale
    return fit(known, labels, asked, num_classes=num_classes, **options)

  return classify


def make_probes(
  options: Mapping[str, Mapping[str, Any]],
  num_classes: int,
  *,
  fit: Callable[..., np.ndarray],
) -> dict[str, Classify]:
  """Returns the probes "knn" and "linear_probe" that have options.

  Args:
    options: of each probe, by its name.
    num_classes: k.
    fit: see `linear_probe`.
  """
  make = {"knn": knn, "linear_probe": partial(linear_probe, fit=fit)}
  return {name: make[name](num_classes, **own) for name, own in options.items()}


def spread(rows: Sequence[Any], most: int) -> np.ndarray:
  """Returns which of rows to take where `most` are enough: int [n], ascending.

  They lie evenly over all, so that of rows in the order of their classes each
  class has its share.
  """
  return np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
