"""A few labelled examples of each class, drawn with a seed."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from synthjax.data.shards import Example, Source
from synthjax.errors import UserError


def draw(
  labels: Sequence[int], *, num_classes: int, shots: int | None, seed: int
) -> np.ndarray:
  """Draws the rows of a few-shot training set.

  The shots of a class depend on the seed, the class and its rows alone, and
  the first four of sixteen shots are the four shots of the same seed.

  Args:
    labels: [n] of the whole pool.
    num_classes: k; labels are 0..k-1.
    shots: of each class; None takes the whole pool.
    seed: of the draw.

  Returns:
    int64 [k * shots], ordered by class.

  Raises:
    UserError: listing every class with too few rows, or labels of no class.
  """
  labels = np.asarray(labels)
  if unknown := sorted(set(labels[(labels < 0) | (labels >= num_classes)])):
    raise UserError(
      f"The pool has the labels {[int(x) for x in unknown[:10]]}, but the "
      f"label space has {num_classes} classes, from 0 to {num_classes - 1}: "
      "choose the space that the pool was labelled with."
    )
  if shots is None:
    return np.arange(len(labels))
  if shots < 1:
    raise UserError(f"shots={shots}: at least 1 is needed; None takes all.")
  rows_of = [np.flatnonzero(labels == label) for label in range(num_classes)]
  if few := {i: len(r) for i, r in enumerate(rows_of) if len(r) < shots}:
    listed = ", ".join(f"class {i} has {n}" for i, n in few.items())
    raise UserError(
      f"{shots} real images of each class are asked for, but {listed}. Ask for "
      f"at most {min(few.values())} shots, or give a larger pool."
    )
  return np.concatenate(
    [
      np.random.default_rng((seed, label)).permutation(rows)[:shots]
      for label, rows in enumerate(rows_of)
    ]
  )


def labels_of(source: Sequence[Example]) -> np.ndarray:
  """Returns the labels of a source, int [n], without decoding if it can."""
  if hasattr(source, "labels"):
    return np.asarray(source.labels)
  return np.array([source[i]["label"] for i in range(len(source))])


def subset(source: Sequence[Example], rows: Sequence[int]) -> Source:
  """Returns the source that holds these rows, in their order."""
  rows = tuple(int(row) for row in rows)
  return Source(len(rows), partial(_read, source, rows))


def _read(source, rows, index):
  return source[rows[index]]
