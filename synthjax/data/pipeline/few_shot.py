"""A few labelled examples of each class, drawn with a seed."""

import random
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from synthjax.runtime.errors import UserError, unknown_names

MAX_VALIDATION_SHOTS = 4  # as in CoOp


def draw(
  labels: Sequence[int],
  *,
  num_classes: int,
  shots: int | None,
  seed: int,
  names: Sequence[str] | None = None,
) -> np.ndarray:
  """Draws the rows of a few-shot training set.

  The shots of a class depend on the seed, the class and its rows alone, and
  the first four of sixteen shots are the four shots of the same seed.

  Args:
    labels: [n] of the whole pool.
    num_classes: k; labels are 0..k-1.
    shots: of each class; None takes the whole pool.
    seed: of the draw.
    names: of the classes, for messages.

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
    name = lambda i: f"class {i}" if names is None else names[i]
    counts = ", ".join(f"{name(i)} has {n}" for i, n in few.items())
    raise UserError(
      f"{shots} real images of each class are asked for, but {counts}. Ask for "
      f"at most {min(few.values())} shots, or give a larger pool."
    )
  return np.concatenate(
    [
      np.random.default_rng((seed, label)).permutation(rows)[:shots]
      for label, rows in enumerate(rows_of)
    ]
  )


def hold_out(
  labels: Sequence[int], *, share: float, seed: int = 0
) -> dict[str, np.ndarray]:
  """Splits a training set, as CoOp does where there are no validation images.

  Args:
    labels: [n] of the training set.
    share: of the rows of each class, rounded, that validate; CoOp's is 0.2.
    seed: of the choice.

  Returns:
    The rows of "train" and of "validation", rising.
  """
  return divide(labels, {"validation": share}, seed=seed)


def divide(
  labels: Sequence[int], shares: Mapping[str, float], *, seed: int = 0
) -> dict[str, np.ndarray]:
  """Splits rows by chance, each class by the same shares.

  Args:
    labels: [n] of the rows.
    shares: of the rows of each class that a split has, rounded. What is left
      is "train".
    seed: of the choice.

  Returns:
    The rows of every split, rising.
  """
  labels, split_of = np.asarray(labels), np.empty(len(labels), object)
  names = sorted(shares)  # a config has them in any order
  ends = np.cumsum([shares[name] for name in names])
  for label in np.unique(labels):
    rows = np.flatnonzero(labels == label)
    order = np.random.default_rng((seed, label)).permutation(rows)
    starts = [round(end * len(rows)) for end in (0, *ends)]
    for name, start, end in zip(names, starts, starts[1:], strict=False):
      split_of[order[start:end]] = name
    split_of[order[starts[-1] :]] = "train"
  return {n: np.flatnonzero(split_of == n) for n in ("train", *names)}


def draw_splits(
  sampler: str,
  train_labels: Sequence[int],
  validation_labels: Sequence[int] | None = None,
  *,
  num_classes: int,
  shots: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Draws shots of each class, and min(shots, 4) of each for validation.

  Args:
    sampler: a key of SAMPLERS: "nested" is `draw` on either pool, "coop" is
      `draw_coop`.
    train_labels: [n] of the pool of training.
    validation_labels: [m] of the pool of validation; None if all of it is used,
      or there is none, as with ImageNet in CoOp.
    num_classes: k; labels are 0..k-1.
    shots: of each class.
    seed: of the draw; CoOp's are 1, 2 and 3.

  Returns:
    Rows of the two pools, int64; None for a pool that is None.
  """
  check_sampler(sampler)
  return SAMPLERS[sampler](
    train_labels,
    validation_labels,
    num_classes=num_classes,
    shots=shots,
    seed=seed,
  )


def check_sampler(sampler: str) -> None:
  """Raises UserError about an unknown sampler."""
  if sampler not in SAMPLERS:
    raise unknown_names("sampler", [sampler], SAMPLERS)


def draw_by(
  sampler: str,
  labels: Sequence[int],
  *,
  num_classes: int,
  shots: int,
  seed: int,
) -> np.ndarray:
  """Draws shots of each class by a sampler; rows are ordered by class."""
  rows, _ = draw_splits(
    sampler, labels, num_classes=num_classes, shots=shots, seed=seed
  )
  return rows[np.argsort(np.asarray(labels)[rows], kind="stable")]


def draw_coop(
  train_labels: Sequence[int],
  validation_labels: Sequence[int] | None = None,
  *,
  num_classes: int,
  shots: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Draws the rows that CoOp's code would (Zhou et al. 2022).

  One stream of Python's random numbers serves both pools, label by label in the
  order of their first rows, so rows have to be in the order of CoOp's file.

  Args:
    train_labels: see `draw_splits`, as for the next four.
    validation_labels: [m] or None.
    num_classes: k.
    shots: of each class; of validation min(shots, 4).
    seed: of the draw.

  Returns:
    Rows of the two pools, int64, by class in the order of its first row.
  """
  rng = random.Random(seed)

  def sample(labels, shots):
    draw(labels, num_classes=num_classes, shots=None, seed=seed)  # its checks
    rows_of = {}
    for row, label in enumerate(labels):
      rows_of.setdefault(int(label), []).append(row)
    drawn = []
    for rows in rows_of.values():
      # CoOp takes all rows of a class that has too few.
      drawn += rng.sample(rows, shots) if len(rows) >= shots else rows
    return np.array(drawn, np.int64)

  if shots < 1:
    raise UserError(f"shots={shots}: at least 1 is needed.")
  train = sample(train_labels, shots)
  if validation_labels is None:
    return train, None
  return train, sample(validation_labels, min(shots, MAX_VALIDATION_SHOTS))


def _draw_nested(
  train_labels, validation_labels, *, num_classes, shots, seed
) -> tuple[np.ndarray, np.ndarray | None]:
  take = partial(draw, num_classes=num_classes, seed=seed)
  train = take(train_labels, shots=shots)
  if validation_labels is None:
    return train, None
  return train, take(validation_labels, shots=min(shots, MAX_VALIDATION_SHOTS))


SAMPLERS = {"coop": draw_coop, "nested": _draw_nested}
