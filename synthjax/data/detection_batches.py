"""Grain pipelines from images with boxes to batches of a few static shapes."""

import functools
from collections.abc import Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import logging

from synthjax.data import buckets as bucketing
from synthjax.data.buckets import Plan, Shape
from synthjax.data.pipeline import Batches
from synthjax.data.resizing import all_resized, resize, resized
from synthjax.data.rows import Source
from synthjax.data.voc import Detection
from synthjax.errors import UserError

# The protocol of MoCo's transfer to PASCAL VOC.
VOC_SHORT_SIDES = tuple(range(480, 801, 32))
VOC_TEST_SHORT_SIDE = 800
VOC_MAX_SIZE = 1333


def train_batches(
  source: Detection,
  *,
  batch_size: int,
  num_batches: int,
  seed: int,
  short_sides: Sequence[int] = VOC_SHORT_SIDES,
  max_size: int = VOC_MAX_SIZE,
  flip: float = 0.5,
  num_buckets: int = 6,
  num_workers: int = 0,
) -> Batches:
  """Makes shuffled batches: this process's share of each global one.

  Each image is resized to a shorter side of its own, and mirrored by chance. A
  batch holds images of one shape, so that those of a batch are of similar
  size; how often an image comes with a size is as without shapes. The images
  of an epoch that fill no batch begin the next; see `buckets.plan`. Objects
  marked difficult are trained on, as the others.

  Args:
    source: of images with boxes, such as `voc.open_voc` opens.
    batch_size: over all processes.
    num_batches: at least the steps of training; fewer are the first of more.
    seed: of all that is drawn; the same on every process.
    short_sides: lengths to draw the shorter side from.
    max_size: of the longer side.
    flip: how likely an image is mirrored.
    num_buckets: of shapes at most, each of which is compiled.
    num_workers: reading processes; 0 reads in this one.

  Returns:
    Batches of image uint8 [n, H, W, 3], padded with zeros below and right; size
    int32 [n, 2], the height and width before padding; boxes float32 [n, g, 4],
    x0, y0, x1, y1 in pixels of the resized image, with as many places as an
    image of the source can need; labels int32 [n, g]; and valid bool [n, g]:
    which places hold an object, the first ones.

  Raises:
    UserError: when the batch does not split over the processes, and about
      sizes and numbers that cannot be.
  """
  share = _check(source, batch_size, short_sides, max_size)
  if num_batches < 1:
    raise UserError(f"num_batches={num_batches}: give the steps of training.")
  every = all_resized(source.sizes, short_sides, max_size)
  buckets = _buckets(every, num_buckets)
  plan = bucketing.plan(
    source.sizes,
    buckets,
    short_sides=short_sides,
    max_size=max_size,
    flip=flip,
    batch_size=batch_size,
    num_batches=num_batches,
    seed=seed,
  )
  read = functools.partial(
    _read_train, source, _share(plan, share), buckets, max_size
  )
  return _to_dataset(Source(num_batches, read), num_workers)


def eval_batches(
  source: Detection,
  *,
  batch_size: int,
  short_side: int = VOC_TEST_SHORT_SIDE,
  max_size: int = VOC_MAX_SIZE,
  num_buckets: int = 4,
  num_workers: int = 0,
) -> Batches:
  """Makes batches of every image once: this process's share of each.

  They come shape by shape, and in order within a shape. The last batch of each
  shape is filled up with black images of index -1, without objects, whose size
  is the whole shape.

  Args:
    source: of images with boxes.
    batch_size: over all processes.
    short_side: of every image.
    max_size: of the longer side.
    num_buckets: of shapes at most, each of which is compiled.
    num_workers: reading processes; 0 reads in this one.

  Returns:
    Batches as those of `train_batches`, and index int32 [n], the row of the
    source; original_size int32 [n, 2], its height and width, which
    `resizing.to_original` maps detections back with; and scale float32 [n],
    what its sides were multiplied by before they were rounded.

  Raises:
    UserError: as `train_batches`.
  """
  share = _check(source, batch_size, [short_side], max_size)
  every = resized(source.sizes, short_side, max_size)
  buckets = _buckets(every, num_buckets)
  plan = bucketing.plan_in_order(
    source.sizes,
    buckets,
    short_side=short_side,
    max_size=max_size,
    batch_size=batch_size,
  )
  read = functools.partial(
    _read_eval, source, _share(plan, share), buckets, max_size
  )
  return _to_dataset(Source(len(plan.rows), read), num_workers)


# --- what is read -----------------------------------------------------------


def _check(
  source: Detection, batch_size: int, short_sides: Sequence[int], max_size: int
) -> slice:
  """Returns this process's part of a batch."""
  if not len(source):
    raise UserError("The source of images is empty: there is nothing to read.")
  if not short_sides or min(short_sides) < 1 or max_size < max(short_sides):
    raise UserError(
      f"short_sides={list(short_sides)} with max_size={max_size}: give lengths "
      "in pixels, none above max_size."
    )
  count, index = jax.process_count(), jax.process_index()
  share, rest = divmod(batch_size, count)
  if rest or share < 1:
    raise UserError(
      f"batch_size={batch_size} does not split over {count} processes; try "
      f"{max(batch_size - rest, count)}."
    )
  return slice(index * share, (index + 1) * share)


def _buckets(sizes: np.ndarray, count: int) -> tuple[Shape, ...]:
  buckets = bucketing.choose_buckets(sizes, count)
  waste = bucketing.padding_waste(sizes, buckets)
  shapes = ", ".join(f"{h} x {w}" for h, w in buckets)
  logging.info(
    "Images are padded to %d shapes (%s); %.1f %% of the pixels are padding.",
    *(waste.shapes, shapes, 100 * waste.share),
  )
  return tuple((int(h), int(w)) for h, w in buckets)


def _share(plan: Plan, share: slice) -> Plan:
  rows, short_sides, flips = (each[:, share] for each in plan[:3])
  return Plan(rows, short_sides, flips, plan.buckets)


def _to_dataset(batches: Source, num_workers: int) -> Batches:
  # Each element is a whole batch already.
  return Batches(grain.MapDataset.source(batches), num_workers, ahead=4)


def _read_train(
  source: Detection,
  plan: Plan,
  buckets: Sequence[Shape],
  max_size: int,
  index: int,
) -> dict[str, np.ndarray]:
  draws = zip(*(each[index].tolist() for each in plan[:3]), strict=True)
  rows = [
    resize(source[row], short, max_size, flip=flip)
    for row, short, flip in draws
  ]
  return _pad(rows, buckets[plan.buckets[index]], source.max_objects)


def _read_eval(
  source: Detection,
  plan: Plan,
  buckets: Sequence[Shape],
  max_size: int,
  index: int,
) -> dict[str, np.ndarray]:
  own, shape = plan.rows[index], buckets[plan.buckets[index]]
  short_side = int(plan.short_sides[0, 0])
  filler = {
    "image": np.zeros((*shape, 3), np.uint8),
    "boxes": np.zeros((0, 4), np.float32),
    "labels": np.zeros(0, np.int32),
  }
  rows = [
    filler if row < 0 else resize(source[row], short_side, max_size)
    for row in own.tolist()
  ]
  batch = _pad(rows, shape, source.max_objects)
  original = np.where(own[:, None] < 0, shape, source.sizes[own])
  scale = np.minimum(short_side / original.min(-1), max_size / original.max(-1))
  return batch | {
    "index": own,
    "original_size": original.astype(np.int32),
    "scale": np.where(own < 0, 1, scale).astype(np.float32),
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
