"""Grain pipelines from sources to batches."""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import numpy as np

from synthjax.data.repeated import repeated
from synthjax.errors import UserError

Example = dict[str, Any]
# Top-level functions or partials of them, as worker processes pickle them.
Transform = Callable[[Example, np.random.Generator], Example]


def train_batches(
  source: Sequence[Example],
  transforms: Sequence[Transform],
  *,
  batch_size: int,
  seed: int,
  num_workers: int = 0,
  repeats: int = 1,
) -> grain.IterDataset:
  """Makes endless shuffled batches: this process's share of each global one.

  Args:
    source: anything with a length and random access.
    transforms: applied in order, each with its own random generator.
    batch_size: over all processes.
    seed: of order and augmentation; the same on every process.
    num_workers: reading processes; 0 reads in this one.
    repeats: of each image within a batch, each transformed in its own way
      (repeated augmentation, as DeiT's; see `data.repeated`). An epoch has as
      many steps as without repeats, and sees fewer of the images.

  Raises:
    UserError: when the batch does not split over the processes, or the
      source is empty, or has no whole batch to repeat.
  """
  if not len(source):
    raise UserError("The source of images is empty: there is nothing to read.")
  share, rest = divmod(batch_size, jax.process_count())
  if rest:
    raise UserError(
      f"batch_size={batch_size} does not split over {jax.process_count()} "
      f"processes; try {batch_size - rest}."
    )
  mine = slice(jax.process_index(), None, jax.process_count())
  if repeats == 1:
    ds = grain.MapDataset.source(source).seed(seed)[mine]
    ds = ds.shuffle().repeat()  # a new order in each epoch
    ds = _transformed(ds, transforms)
    # Grain's defaults, 16 threads and 500 rows ahead, cost small images twice
    # their time on a few cores; where reading is the work, give it workers.
    read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=64)
    ds = ds.to_iter_dataset(read).batch(share, drop_remainder=True)
  else:
    rows = repeated(source, seed=seed, repeats=repeats, batch_size=batch_size)
    # Grain draws by position. Copies of an image meet on several processes at
    # one position of each share, so that they are dealt out only then.
    ds = _transformed(grain.MapDataset.source(rows).seed(seed), transforms)[
      mine
    ]
    # Workers are dealt what is read: batches, as rows would part the copies.
    read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    ds = ds.batch(share, drop_remainder=True).to_iter_dataset(read)
  if num_workers:
    ds = ds.mp_prefetch(grain.MultiprocessingOptions(num_workers))
  return ds


def _transformed(
  ds: grain.MapDataset, transforms: Sequence[Transform]
) -> grain.MapDataset:
  for transform in transforms:
    ds = ds.random_map(transform)
  return ds
