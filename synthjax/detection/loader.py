"""Grain pipelines from images with boxes to batches of a few static shapes.

A compiled step takes one shape. So images are resized, and then padded to the
smallest of a few shapes ("buckets") that holds them; a batch has images of one
bucket alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from absl import logging

from synthjax.config.schema import Count, Counts
from synthjax.data.pipeline.loader import Batches
from synthjax.data.pipeline.rows import Detection, Source
from synthjax.detection.resize import all_resized, resize, resized
from synthjax.runtime.errors import UserError

Shape = tuple[int, int]  # height, width
FLIP = 0.5  # how likely a training image is mirrored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """How images are resized and batched, by default as MoCo does for VOC."""

  short_sides: Counts = tuple(range(480, 801, 32))  # px, drawn for each image
  max_size: Count = 1333  # px of the longer side
  num_buckets: Count = 6  # of shapes at most, each of which is compiled
  # For evaluation.
  eval_short_side: Count = 800
  eval_num_buckets: Count = 4
  eval_batch_size: Count = 8  # over all processes

  def problems(self) -> Iterator[str]:
    """Yields a problem of sides that are missing or longer than allowed."""
    sides = (*self.short_sides, self.eval_short_side)
    if (
      not self.short_sides or not 1 <= min(sides) <= max(sides) <= self.max_size
    ):
      yield (
        f"short_sides={self.short_sides} and eval_short_side="
        f"{self.eval_short_side} with max_size={self.max_size}: give lengths "
        "in pixels, none above max_size"
      )


class Plan(NamedTuple):
  """Batches to read: b batches of n images."""

  rows: np.ndarray  # [b, n] int32, positions in the source; -1 fills a batch up
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
  used = joined[np.unique(assign(sizes, joined))].tolist()
  return tuple(sorted(map(tuple, used), key=lambda s: (s[0] * s[1], s)))


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
    raise UserError(
      f"Images of {len(bad)} sizes, such as {_listed(bad[:5])} (height x "
      f"width), fit into none of the shapes {_listed(shapes)}: give a larger "
      "one, or leave the shapes to be chosen."
    )
  return order[fits.argmax(-1)].astype(np.int32)


def padding_share(sizes: np.ndarray, buckets: Sequence[Shape]) -> float:
  """Returns the share of padding among all pixels of the batches.

  Args:
    sizes: [n, 2] of resized images, equally likely.
    buckets: shapes to pad to.
  """
  areas = np.asarray(buckets, np.int64).prod(-1)[assign(sizes, buckets)]
  return float(1 - np.asarray(sizes, np.int64).prod(-1).sum() / areas.sum())


def plan_batches(
  sizes: np.ndarray,
  buckets: Sequence[Shape],
  images: Images,
  *,
  batch_size: int,
  num_batches: int,
  seed: int,
) -> Plan:
  """Deals shuffled images out to batches of one bucket each.

  In every epoch each image comes once, with a random shorter side and a random
  flip, and joins the queue of its bucket; a full queue is a batch. Images that
  wait at the end of an epoch come first in the next one, so that none is left
  out or comes twice; at most batch_size - 1 wait for each bucket.

  The same arguments give the same batches, and fewer of them the first ones.

  Args:
    sizes: [n, 2] of the images before resizing.
    buckets: shapes that hold the images at every length.
    images: how they are resized.
    batch_size: over all processes.
    num_batches: to plan.
    seed: of all random draws.
  """
  # Bucket of each image at each length, [n, k].
  n, k = len(sizes), len(images.short_sides)
  resized_sizes = all_resized(sizes, images.short_sides, images.max_size)
  bucket_of = assign(resized_sizes, buckets).reshape(k, n).T
  waiting = [np.zeros((3, 0), np.int32) for _ in buckets]
  batches, epoch = [], 0
  while len(batches) < num_batches:
    rng = np.random.default_rng((seed, epoch))
    order, drawn = rng.permutation(n), rng.integers(k, size=n)
    flips = rng.random(n) < FLIP
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
    batches += sorted(full, key=lambda batch: batch[0])
    epoch += 1
  batches = batches[:num_batches]
  rows, drawn, flips = np.stack([b[2] for b in batches], 1)
  return Plan(
    rows,
    np.asarray(images.short_sides, np.int32)[drawn],
    flips.astype(bool),
    np.array([b[1] for b in batches], np.int32),
  )


def plan_in_order(
  sizes: np.ndarray, buckets: Sequence[Shape], images: Images
) -> Plan:
  """Deals each image out once, in order within its bucket, unmirrored.

  The last batch of each bucket is filled up with rows of -1.
  """
  short_side, batch_size = images.eval_short_side, images.eval_batch_size
  chosen = assign(resized(sizes, short_side, images.max_size), buckets)
  rows, numbers = [], []
  for bucket in range(len(buckets)):
    members = np.flatnonzero(chosen == bucket)
    filling = (0, -len(members) % batch_size)
    members = np.pad(members, filling, constant_values=-1)
    rows.append(members.reshape(-1, batch_size))
    numbers += [bucket] * len(rows[-1])
  rows = np.concatenate(rows).astype(np.int32)
  return Plan(
    rows,
    np.full_like(rows, short_side),
    np.zeros(rows.shape, bool),
    np.array(numbers, np.int32),
  )


# --- batches ----------------------------------------------------------------


def train_batches(
  source: Detection,
  images: Images,
  *,
  batch_size: int,
  num_batches: int,
  seed: int,
  num_workers: int | None = 0,
) -> Batches:
  """Makes shuffled batches: this process's share of each global one.

  Each image is resized to a shorter side of its own, and mirrored by chance. A
  batch holds images of one shape, so they are of similar size; how often an
  image gets a size does not depend on the shapes. The images of an epoch that
  fill no batch begin the next; see `plan_batches`. Objects marked difficult
  are trained on, as the others.

  Args:
    source: images with boxes, such as `voc.open_voc` opens.
    images: how they are resized.
    batch_size: over all processes.
    num_batches: at least the steps of training; fewer are the first of more.
    seed: of all random draws; the same on every process.
    num_workers: reading processes; see `pipeline.loader.train_batches`.

  Returns:
    Batches of image uint8 [n, H, W, 3], padded with zeros below and right; size
    int32 [n, 2], the height and width before padding; boxes float32 [n, g, 4],
    x0, y0, x1, y1 in pixels of the resized image, for the largest number g of
    objects in an image of the source; labels int32 [n, g]; and valid bool
    [n, g]: which places hold an object, the first ones.

  Raises:
    UserError: about an empty source, sizes and numbers that are out of range,
      and a batch that does not split over the processes.
  """
  if num_batches < 1:
    raise UserError(f"num_batches={num_batches}: give the steps of training.")
  share = _share(source, images, batch_size)
  buckets = _buckets(
    all_resized(source.sizes, images.short_sides, images.max_size),
    images.num_buckets,
  )
  plan = plan_batches(
    source.sizes,
    buckets,
    images,
    batch_size=batch_size,
    num_batches=num_batches,
    seed=seed,
  )
  read = functools.partial(_read_train, source, buckets, images.max_size)
  return _to_dataset(read, plan, share, num_workers)


def eval_batches(
  source: Detection, images: Images, *, num_workers: int | None = 0
) -> Batches:
  """Makes batches of every image once: this process's share of each.

  They come shape by shape, and in order within a shape. The last batch of each
  shape is filled up with black images of index -1, without objects, whose size
  is the whole shape.

  Args:
    source: images with boxes.
    images: how they are resized and batched.
    num_workers: reading processes; see `pipeline.loader.train_batches`.

  Returns:
    Batches as those of `train_batches`, and index int32 [n], the row of the
    source; and original_size int32 [n, 2], its height and width, by which
    `resize.to_original` maps detections back.

  Raises:
    UserError: as `train_batches`.
  """
  share = _share(source, images, images.eval_batch_size)
  buckets = _buckets(
    resized(source.sizes, images.eval_short_side, images.max_size),
    images.eval_num_buckets,
  )
  plan = plan_in_order(source.sizes, buckets, images)
  read = functools.partial(_read_eval, source, buckets, images.max_size)
  return _to_dataset(read, plan, share, num_workers)


def _share(source: Detection, images: Images, batch_size: int) -> slice:
  """Returns the rows of a global batch that this process reads."""
  if not len(source):
    raise UserError("The source of images is empty: there is nothing to read.")
  if problems := [*images.problems()]:
    raise UserError(f"{problems[0]}.")
  count, index = jax.process_count(), jax.process_index()
  share, rest = divmod(batch_size, count)
  if rest or share < 1:
    raise UserError(
      f"batch_size={batch_size} does not split over {count} processes; try "
      f"{max(batch_size - rest, count)}."
    )
  return slice(index * share, (index + 1) * share)


def _buckets(sizes: np.ndarray, count: int) -> tuple[Shape, ...]:
  buckets = choose_buckets(sizes, count)
  logging.info(
    "Images are padded to %d shapes (%s); %.1f %% of the pixels are padding.",
    *(len(buckets), _listed(buckets), 100 * padding_share(sizes, buckets)),
  )
  return buckets


def _to_dataset(
  read: Callable[..., dict[str, np.ndarray]],
  plan: Plan,
  share: slice,
  num_workers: int | None,
) -> Batches:
  rows, short_sides, flips = (column[:, share] for column in plan[:3])
  plan = Plan(rows, short_sides, flips, plan.buckets)
  batches = Source(len(rows), functools.partial(read, plan))
  # Each element is a whole batch already.
  return Batches(grain.MapDataset.source(batches), num_workers, ahead=4)


def _listed(shapes: Sequence[Shape]) -> str:
  return ", ".join(f"{height} x {width}" for height, width in shapes)


# --- reading ----------------------------------------------------------------


def _read_train(
  source: Detection,
  buckets: Sequence[Shape],
  max_size: int,
  plan: Plan,
  index: int,
) -> dict[str, np.ndarray]:
  draws = zip(*(column[index].tolist() for column in plan[:3]), strict=True)
  rows = [
    resize(source[row], short, max_size, flip=flip)
    for row, short, flip in draws
  ]
  return _pad(rows, buckets[plan.buckets[index]], source.max_objects)


def _read_eval(
  source: Detection,
  buckets: Sequence[Shape],
  max_size: int,
  plan: Plan,
  index: int,
) -> dict[str, np.ndarray]:
  indices, shape = plan.rows[index], buckets[plan.buckets[index]]
  short_side = int(plan.short_sides[0, 0])
  filler = {
    "image": np.zeros((*shape, 3), np.uint8),
    "boxes": np.zeros((0, 4), np.float32),
    "labels": np.zeros(0, np.int32),
  }
  rows = [
    filler if i < 0 else resize(source[i], short_side, max_size)
    for i in indices.tolist()
  ]
  original = np.where(indices[:, None] < 0, shape, source.sizes[indices])
  return _pad(rows, shape, source.max_objects) | {
    "index": indices,
    "original_size": original.astype(np.int32),
  }


def _pad(
  rows: Sequence[dict[str, Any]], shape: Shape, places: int
) -> dict[str, np.ndarray]:
  """Stacks resized rows, with zeros below and right of each image."""
  n = len(rows)
  batch = {
    "image": np.zeros((n, *shape, 3), np.uint8),
    "size": np.array([row["image"].shape[:2] for row in rows], np.int32),
    "boxes": np.zeros((n, places, 4), np.float32),
    "labels": np.zeros((n, places), np.int32),
    "valid": np.zeros((n, places), bool),
  }
  for i, row in enumerate(rows):
    height, width = batch["size"][i]
    batch["image"][i, :height, :width] = row["image"]
    k = len(row["labels"])
    batch["boxes"][i, :k] = row["boxes"]
    batch["labels"][i, :k] = row["labels"]
    batch["valid"][i, :k] = True
  return batch
