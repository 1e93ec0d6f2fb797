"""What features are worth while they are being trained.

A probe learns from a pool of labelled images and names those that were held
out: without touching what is trained, and in seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from synthjax.evals import knn as neighbours
from synthjax.evals.classify import top1

# Features [m, d], labels [m] and queries [n, d] -> scores [n, k].
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Labelled(NamedTuple):
  """What is known of some images."""

  features: np.ndarray  # [n, d]
  labels: np.ndarray  # [n] int


def make_monitor(
  features: Callable[[Any], tuple[Labelled, Labelled]],
  probes: Mapping[str, Classify],
) -> Callable[[Any], dict[str, float]]:
  """Returns a function of a training state, for `train.run`.

  Args:
    features: state -> features of the pool and of the held-out images, both by
      the encoder as it is in that state.
    probes: by the names that the accuracies shall have, such as those that
      `knn` and `linear_probe` return.

  Returns:
    A function (state) -> top-1 accuracy in 0..1 of the held-out images, by
    probe.
  """

  def monitor(state):
    pool, held_out = features(state)
    return {
      name: top1(classify(*pool, held_out.features), held_out.labels)
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


def linear_probe(fit: Classify) -> Classify:
  """Returns a linear classifier of standardised features.

  The mean and deviation of each dimension are those of the pool. Features grow
  and shrink in training; so one penalty fits all steps, and few steps of a
  solver suffice.

  Args:
    fit: what learns from features and classifies others, such as
      `train.linear_probe.classify`.
  """

  def classify(features, labels, queries):
    mean, std = features.mean(0), features.std(0)
    # A unit that is always off tells nothing, and stays 0.
    scale = 1 / np.where(std > 1e-6 * std.max(), std, np.inf)
    return fit((features - mean) * scale, labels, (queries - mean) * scale)

  return classify


def spread(rows: Sequence[Any], most: int) -> np.ndarray:
  """Returns which of rows to take where `most` are enough: int [n], ascending.

  They lie evenly over all, so that of rows in the order of their classes each
  class has its share.
  """
  return np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
