"""Few padded shapes for images of many sizes, and batches of one shape each.

A compiled step takes one shape. Images are resized, and then padded to the
smallest of a few shapes ("buckets") that holds them; a batch has images of one
bucket alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synthjax.data.resizing import all_resized, resized
from synthjax.errors import UserError

Shape = tuple[int, int]  # height, width


class Waste(NamedTuple):
  """What padding costs."""

  shapes: int  # that are used, each of them compiled
  share: float  # of all pixels of the batches, that are padding


class Plan(NamedTuple):
  """Batches to read: b batches of n images."""

  rows: np.ndarray  # [b, n] int32, positions in the source
  short_sides: np.ndarray  # [b, n] int32, that each is resized to
  flips: np.ndarray  # [b, n] bool
  buckets: np.ndarray  # [b] int32


def choose_buckets(
  sizes: np.ndarray, count: int, *, multiple: int = 16
) -> tuple[Shape, ...]:
  """Chooses shapes that hold all sizes with little padding.

  Starts from all sizes, rounded up, and joins the two shapes whose join adds
  the least padding until few enough are left.

  Args:
    sizes: [n, 2] of resized images, equally likely.
    count: of shapes at most.
    multiple: of heights and widths.

  Returns:
    Shapes from the smallest to the largest.

  Raises:
    UserError: for less than one shape.
  """
  if count < 1:
    raise UserError(f"num_buckets={count} holds no image; give 1 or more.")
  shapes = -(-np.asarray(sizes, np.int64) // multiple) * multiple
  shapes, weights = np.unique(shapes, axis=0, return_counts=True)
  cost = np.stack(
    [_cost_of_joining(shapes, weights, i) for i in range(len(shapes))]
  )
  for _ in range(len(shapes) - count):
    i, j = np.unravel_index(cost.argmin(), cost.shape)
    shapes[i] = np.maximum(shapes[i], shapes[j])
    weights[i], weights[j] = weights[i] + weights[j], 0
    cost[i] = cost[:, i] = _cost_of_joining(shapes, weights, i)
    cost[j] = cost[:, j] = np.inf
  joined = shapes[weights > 0]
  # A join may have made room for images of other joins.
  used = np.unique(assign(sizes, joined))
  kept = sorted(
    map(tuple, joined[used].tolist()), key=lambda s: (s[0] * s[1], s)
  )
  return tuple(kept)


def _cost_of_joining(
  shapes: np.ndarray, weights: np.ndarray, i: int
) -> np.ndarray:
  """Returns the padding that joining shape i with each other adds, [n]."""
  area = shapes.prod(-1)
  joint = np.maximum(shapes, shapes[i]).prod(-1)
  cost = (joint - area) * weights + (joint - area[i]) * weights[i]
  gone = (weights == 0) | (np.arange(len(shapes)) == i)
  return np.where(gone, np.inf, cost)


def assign(sizes: np.ndarray, buckets: Sequence[Shape]) -> np.ndarray:
  """Returns the smallest bucket of each size, int32 [n].

  Raises:
    UserError: naming sizes that no bucket holds.
  """
  sizes, shapes = np.asarray(sizes), np.asarray(buckets).reshape(-1, 2)
  order = np.argsort(shapes.prod(-1), kind="stable")
  fits = (sizes[:, None] <= shapes[order]).all(-1)  # [n, buckets]
  if not fits.any(-1).all():
    bad = np.unique(sizes[~fits.any(-1)], axis=0)
    some = ", ".join(f"{h} x {w}" for h, w in bad[:5])
    raise UserError(
      f"Images of {len(bad)} sizes, such as {some} (height x width), fit into "
      f"none of the shapes {', '.join(f'{h} x {w}' for h, w in shapes)}: give "
      "a larger one, or leave the shapes to be chosen."
    )
  return order[fits.argmax(-1)].astype(np.int32)


def padding_waste(sizes: np.ndarray, buckets: Sequence[Shape]) -> Waste:
  """Tells how many shapes resized images need, and how much is padding.

  Args:
    sizes: [n, 2] of resized images, equally likely.
    buckets: shapes to pad to.
  """
  chosen = assign(sizes, buckets)
  padded = np.asarray(buckets, np.int64).prod(-1)[chosen].sum()
  true = np.asarray(sizes, np.int64).prod(-1).sum()
  return Waste(len(np.unique(chosen)), float(1 - true / padded))


def plan(
  sizes: np.ndarray,
  buckets: Sequence[Shape],
  *,
  short_sides: Sequence[int],
  max_size: int,
  flip: float,
  batch_size: int,
  num_batches: int,
  seed: int,
) -> Plan:
  """Deals shuffled images out to batches of one bucket each.

  In every epoch each image comes once, with a length of the shorter side and a
  flip of its own, and joins the queue of its bucket; a full queue is a batch.
  What waits at the end of an epoch is the first of the next, so that no image
  is left out or comes twice; at most batch_size - 1 wait for each bucket.

  The same arguments give the same batches, and fewer of them the first ones.

  Args:
    sizes: [n, 2] of the images before resizing.
    buckets: shapes that hold all that is drawn.
    short_sides: to draw from.
    max_size: of the longer side.
    flip: how likely an image is mirrored.
    batch_size: over all processes.
    num_batches: to plan.
    seed: of all that is drawn.
  """
  # Bucket of each image at each length, [n, k].
  n, k = len(sizes), len(short_sides)
  every = all_resized(sizes, short_sides, max_size)
  bucket_of = assign(every, buckets).reshape(k, n).T
  waiting = [np.zeros((3, 0), np.int32) for _ in buckets]
  batches, epoch = [], 0
  while len(batches) < num_batches:
    rng = np.random.default_rng((seed, epoch))
    order, drawn = rng.permutation(n), rng.integers(k, size=n)
    flips = rng.random(n) < flip
    draws = np.stack([order, drawn, flips]).astype(np.int32)  # [3, n]
    chosen = bucket_of[order, drawn]
    full = []  # (when its last image came, bucket, draws [3, batch])
    for bucket, before in enumerate(waiting):
      came = np.flatnonzero(chosen == bucket)
      queue = np.concatenate([before, draws[:, came]], 1)
      for end in range(batch_size, queue.shape[1] + 1, batch_size):
        last = came[end - before.shape[1] - 1]
        full.append((last, bucket, queue[:, end - batch_size : end]))
      waiting[bucket] = queue[:, queue.shape[1] // batch_size * batch_size :]
    batches += sorted(full, key=lambda each: each[0])
    epoch += 1
  batches = batches[:num_batches]
  rows, drawn, flips = np.stack([b[2] for b in batches], 1)
  return Plan(
    rows,
    np.asarray(short_sides, np.int32)[drawn],
    flips.astype(bool),
    np.array([b[1] for b in batches], np.int32),
  )


def plan_in_order(
  sizes: np.ndarray,
  buckets: Sequence[Shape],
  *,
  short_side: int,
  max_size: int,
  batch_size: int,
) -> Plan:
  """Deals each image out once, in order within its bucket, unmirrored.

  The last batch of each bucket is filled up with rows of -1.
  """
  chosen = assign(resized(sizes, short_side, max_size), buckets)
  rows, numbers = [], []
  for bucket in range(len(buckets)):
    own = np.flatnonzero(chosen == bucket)
    own = np.pad(own, (0, -len(own) % batch_size), constant_values=-1)
    rows.append(own.reshape(-1, batch_size))
    numbers += [bucket] * len(rows[-1])
  rows = np.concatenate(rows).astype(np.int32)
  return Plan(
    rows,
    np.full_like(rows, short_side),
    np.zeros(rows.shape, bool),
    np.array(numbers, np.int32),
  )
