"""Grain pipelines from sources to batches."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from synthjax.data.repeated import repeated
from synthjax.errors import UserError

Example = dict[str, Any]
# Top-level functions or partials of them, as worker processes pickle them.
Transform = Callable[[Example, np.random.Generator], Example]


@dataclasses.dataclass(frozen=True)
class Batches:
  """A process's share of global batches, read from any of them on.

  Which rows a batch has, and what is drawn for them, follows from its number
  alone: not from the number of processes, of workers, or from what was read
  before. So a step is all that a checkpoint needs to know.
  """

  ds: grain.MapDataset  # of batches
  num_workers: int = 0  # reading processes; 0 reads in this one
  ahead: int = 2  # batches that are read before they are asked for

  def __iter__(self) -> Iterator[Example]:
    return self.start_at(0)

  def start_at(self, number: int) -> Iterator[Example]:
    """Returns a Grain iterator that begins with batch `number`, from 0."""
    # Grain's defaults are 16 threads and 500 elements ahead.
    read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=self.ahead)
    ds = self.ds[number:].to_iter_dataset(read)
    if self.num_workers:
      ds = ds.mp_prefetch(grain.MultiprocessingOptions(self.num_workers))
    return iter(ds)

  def example(self) -> Example:
    """Returns the first batch, and starts no worker for it."""
    return jax.tree.map(np.asarray, self.ds[0])


def train_batches(
  source: Sequence[Example],
  transforms: Sequence[Transform],
  *,
  batch_size: int,
  seed: int,
  num_workers: int = 0,
  repeats: int = 1,
) -> Batches:
  """Makes endless shuffled batches: this process's share of each global one.

  One process reads the same global batches as several: each of these holds a
  run of the rows, the first ones the first process.

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
  if repeats == 1:
    # The slice takes everything, and keeps the order of earlier versions: Grain
    # draws by the place of a step in the chain.
    ds = grain.MapDataset.source(source).seed(seed)[0::1]
    ds = ds.shuffle().repeat()  # a new order in each epoch
  else:
    rows = repeated(source, seed=seed, repeats=repeats, batch_size=batch_size)
    # Grain draws by position, so that each copy of an image is changed in its
    # own way.
    ds = grain.MapDataset.source(rows).seed(seed)
  for transform in transforms:
    ds = ds.random_map(transform)
  # Shares in the order of the global batches, of which this process has one
  # each. What others read is never opened.
  ds = ds.batch(share, drop_remainder=True)
  ds = ds[jax.process_index() :: jax.process_count()]
  return Batches(ds, num_workers)
