"""Measures the features of a network while it trains.

A probe learns from a pool of labelled images and classifies held-out ones, in
seconds and without changing the training.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from synthjax.config.schema import Block, Count, Flag, Positive
from synthjax.evals import neighbours
from synthjax.evals.accuracy import top1

# Features [m, d], labels [m] and queries [n, d] -> scores [n, k].
Classify = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# Features [n, d] of some images, and their labels [n].
Labelled = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn:
  """A vote of the nearest images by cosine; see `neighbours.vote`."""

  k: Count = 20
  temperature: Positive = 0.07

  def classify(self, num_classes: int) -> Classify:
    return partial(
      neighbours.vote,
      num_classes=num_classes,
      k=self.k,
      temperature=self.temperature,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe:
  """A linear classifier of standardised features."""

  strength: Positive = 10.0  # of the penalty
  max_steps: Count = 100

  def classify(
    self, num_classes: int, *, fit: Callable[..., np.ndarray]
  ) -> Classify:
    """Returns a classifier that standardises each dimension by its pool.

    Features grow and shrink in training: standardised, one penalty fits all
    steps, and few steps of a solver suffice.

    Args:
      num_classes: k.
      fit: learns from features and classifies others: a `Classify` that takes
        num_classes=, strength= and max_steps=, `adapt.linear_probe.classify`.
    """
    options = dataclasses.asdict(self)

    def classify(features, labels, queries):
      mean, std = features.mean(0), features.std(0)
      # A unit that is always off has no information, and stays 0.
      scale = 1 / np.where(std > 1e-6 * std.max(), std, np.inf)
      features, queries = (features - mean) * scale, (queries - mean) * scale
      return fit(features, labels, queries, num_classes=num_classes, **options)

    return classify


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monitor:
  """The block `monitor`: which probes measure the features, and how often."""

  every: Count  # steps; the last step is monitored too
  knn: Flag | Knn = False  # True for the defaults
  linear_probe: Flag | LinearProbe = False
  num_images: Count = 2000  # of the pool, and of the held-out images, at most
  pool: Block | None = None  # real images to learn from, not the generated ones

  def problems(self) -> Iterable[str]:
    if not (self.knn or self.linear_probe):
      yield "nothing to measure: ask for knn or linear_probe"

  def probes(
    self, num_classes: int, *, fit: Callable[..., np.ndarray]
  ) -> dict[str, Classify]:
    """Returns the probes by name; see `LinearProbe.classify` for `fit`."""
    knn = Knn() if self.knn is True else self.knn
    linear = LinearProbe() if self.linear_probe is True else self.linear_probe
    probes = {}
    if knn:
      probes["knn"] = knn.classify(num_classes)
    if linear:
      probes["linear_probe"] = linear.classify(num_classes, fit=fit)
    return probes


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
    held_out: images to classify.
    probes: by the names that the accuracies shall have; see `Monitor.probes`.

  Returns:
    A function (network) -> top-1 accuracy in 0..1 of the held-out images, by
    probe.
  """

  def monitor(network):
    features, labels = features_of(network, pool)
    queries, targets = features_of(network, held_out)
    return {
      name: top1(classify(features, labels, queries), targets)
      for name, classify in probes.items()
    }

  return monitor


def spread(rows: Sequence[Any], most: int) -> np.ndarray:
  """Returns `most` rows, or all if there are fewer: int [n], ascending.

  They lie evenly over all, so that each class has its share of rows in the
  order of their classes.
  """
  return np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
