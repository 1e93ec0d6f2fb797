"""Retrieves real images by text: the rows of a pool nearest to each class.

What generated images have to beat: the same CLIP, used to search a pool of
real images without labels.
"""

from typing import NamedTuple

import numpy as np

from synthjax.errors import UserError


class Retrieved(NamedTuple):
  """The rows found, by class and falling cosine."""

  rows: np.ndarray  # [m] int64, in the pool
  labels: np.ndarray  # [m] int64
  cosines: np.ndarray  # [m] float32


def retrieve(
  pool: np.ndarray,
  classes: np.ndarray,
  *,
  per_class: int,
  best_class_only: bool = False,
  chunk: int = 16_384,
) -> Retrieved:
  """Finds the rows of the pool with the largest cosine to each class.

  Of equal cosines the lower row comes first. Memory is that of one chunk, so
  that the pool may be a memory map of many millions of rows.

  Args:
    pool: [n, d] image features, of any length and float type.
    classes: [k, d] text features of the classes, of any length.
    per_class: rows to find for each class; fewer where there are no more.
    best_class_only: a row is offered to the class of its largest cosine alone
      (of equal ones, the first); otherwise several classes may find it.
    chunk: rows of the pool at a time.

  Raises:
    UserError: for sizes that disagree, or features without a direction.
  """
  units = _units(classes, "class", 0)  # [k, d]
  if pool.ndim != 2 or units.shape[1] != pool.shape[1] or per_class < 1:
    raise UserError(
      f"Found a pool of shape {pool.shape}, classes of shape {classes.shape} "
      f"and per_class={per_class}; needed [n, d], [k, d] and at least 1: are "
      "both from the same encoder?"
    )
  rows = np.empty((len(units), 0), np.int64)
  cosines = np.empty((len(units), 0), np.float32)
  for start in range(0, len(pool), chunk):
    part = _units(pool[start : start + chunk], "pool", start)
    found = units @ part.T  # [k, chunk]
    if best_class_only:
      elsewhere = np.arange(len(units))[:, None] != found.argmax(0)
      found[elsewhere] = -np.inf
    nearest, values = _largest(found, per_class)
    # Lower rows stand first, so that a stable order keeps them there.
    rows = np.concatenate([rows, start + nearest], axis=1)
    cosines = np.concatenate([cosines, values], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :per_class]
    rows = np.take_along_axis(rows, order, axis=1)
    cosines = np.take_along_axis(cosines, order, axis=1)
  labels = np.broadcast_to(np.arange(len(units))[:, None], rows.shape)
  offered = cosines > -np.inf
  return Retrieved(rows[offered], labels[offered], cosines[offered])


def _largest(values, num):
  """Returns columns [k, num] of the largest of [k, n], and the values.

  A partition alone would pick any of the equal values at its border.
  """
  num = min(num, values.shape[1])
  border = -np.partition(-values, num - 1, axis=1)[:, num - 1]
  columns = np.empty((len(values), num), np.int64)
  for out, row, least in zip(columns, values, border, strict=True):
    near = np.flatnonzero(row >= least)
    out[:] = near[np.argsort(-row[near], kind="stable")[:num]]
  return columns, np.take_along_axis(values, columns, axis=1)


def _units(features, kind, start):
  """Scales rows to length 1 in float32, or says which have no direction."""
  features = np.asarray(features, np.float32)
  length = np.linalg.norm(features, axis=-1, keepdims=True)
  wrong = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
  if len(wrong):
    raise UserError(
      f"The {kind} features have {len(wrong)} rows that are zero or not "
      f"finite, such as row {start + wrong[0]}: encode these anew, or leave "
      "them out."
    )
  return features / length
