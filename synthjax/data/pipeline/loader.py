"""Grain pipelines from sources to batches."""

import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import grain
import jax
import numpy as np

from synthjax.data.pipeline import codecs
from synthjax.data.pipeline.rows import Example, Source
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.runtime.threads import count_cores

# A core crops 700 to 1,200 images/s, and an H100 may train on 5,500.
WORKERS_PER_DEVICE = 8
# Top-level functions or partials of them, as worker processes pickle them.
Transform = Callable[[Example, np.random.Generator], Example]


@dataclasses.dataclass(frozen=True)
class Batches:
  """A process's share of global batches, read from any of them on.

  The rows of a batch, and the random draws for them, follow from its number
  alone: not from the number of processes or workers, or from earlier batches.
  So a checkpoint needs the step alone.
  """

  ds: grain.MapDataset  # of batches
  num_workers: int | None = 0  # reading processes; see `train_batches`
  ahead: int = 2  # batches that are read before they are asked for

  def __iter__(self) -> Iterator[Example]:
    return self.start_at(0)

  def start_at(self, number: int) -> Iterator[Example]:
    """Returns a Grain iterator that begins with batch `number`, from 0."""
    # Grain's defaults are 16 threads and 500 elements ahead.
    read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=self.ahead)
    ds = self.ds[number:].to_iter_dataset(read)
    workers = self.num_workers
    if workers is None:
      workers = choose_workers()
    if workers:
      ds = ds.mp_prefetch(grain.MultiprocessingOptions(workers))
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
  num_workers: int | None = 0,
  repeats: int = 1,
  groups: np.ndarray | None = None,
) -> Batches:
  """Makes endless shuffled batches: this process's share of each global one.

  Global batches are the same for any number of processes. Each process has a
  run of the rows; the first process has the first ones.

  Args:
    source: anything with a length and random access.
    transforms: applied in order, each with its own random generator.
    batch_size: over all processes.
    seed: of order and augmentation; the same on every process.
    num_workers: reading processes; 0 reads in this one, None chooses
      `choose_workers`.
    repeats: of each image within a batch, each transformed differently
      (repeated augmentation, as DeiT's; see `repeated`). An epoch has as many
      steps as without repeats, and sees fewer of the images.
    groups: int [n], a number for each row. With them, `repeats` rows of one
      group lie together, and no batch has a group twice; see `grouped`.

  Raises:
    UserError: when the batch does not split over the processes, or the
      source is empty, or has no whole batch to repeat or of so many groups.
  """
  if not len(source):
    raise UserError("The source of images is empty: there is nothing to read.")
  share, rest = divmod(batch_size, jax.process_count())
  if rest:
    raise UserError(
      f"batch_size={batch_size} does not split over {jax.process_count()} "
      f"processes; try {batch_size - rest}."
    )
  if repeats == 1 and groups is None:
    # The slice takes everything, and keeps the order of earlier versions: Grain
    # draws by the place of a step in the chain.
    ds = grain.MapDataset.source(source).seed(seed)[0::1]
    ds = ds.shuffle().repeat()  # a new order in each epoch
  else:
    arguments = dict(seed=seed, repeats=repeats, batch_size=batch_size)
    if groups is None:
      rows = repeated(source, **arguments)
    else:
      rows = grouped(source, groups, **arguments)
    # Grain draws by position, so that copies of an image differ.
    ds = grain.MapDataset.source(rows).seed(seed)
  for transform in transforms:
    ds = ds.random_map(transform)
  # The shares of all global batches in order; this process takes its own, and
  # never opens the others.
  ds = ds.batch(share, drop_remainder=True)
  ds = ds[jax.process_index() :: jax.process_count()]
  return Batches(ds, num_workers)


def beside(parts: Sequence[Batches]) -> Batches:
  """Puts the batches of several data sets beside each other, on axis 1."""
  read = functools.partial(_stacked, [part.ds for part in parts])
  rows = Source(min(len(part.ds) for part in parts), read)
  return dataclasses.replace(parts[0], ds=grain.MapDataset.source(rows))


def _stacked(parts: Sequence[grain.MapDataset], number: int) -> Example:
  stack = lambda *arrays: np.stack(arrays, axis=1)
  return jax.tree.map(stack, *(part[number] for part in parts))


def choose_workers() -> int:
  """Returns how many processes read for the devices of this one.

  At most one a core, less the core that feeds the devices; none where the
  cores are the devices, and reading processes would take them from the
  training.
  """
  cores, devices = count_cores(), jax.local_devices()
  if devices[0].platform == "cpu":
    return 0
  workers = min(cores - 1, WORKERS_PER_DEVICE * len(devices))
  say(f"{workers} processes read, for {len(devices)} devices, on {cores} cores")
  return workers


# --- the order of repeated augmentation (Hoffer et al. 2020) ------------------


def repeated(
  source: Sequence[Example], *, seed: int, repeats: int, batch_size: int
) -> Source:
  """Returns the rows of all processes, epoch after epoch, without an end.

  Each example of a random order comes `repeats` times in a row: its copies meet
  in a batch, are decoded once, whole, and augmented differently. An epoch has
  as many whole batches as one without repeats, so three repeats see a third of
  the examples.

  Args:
    source: of the examples.
    seed: of the orders.
    repeats: of each example.
    batch_size: over all processes.

  Raises:
    UserError: when the source holds no whole batch, or repeats is below 1.
  """
  if repeats < 1:
    raise UserError(f"repeats={repeats}: 1 shows each image once; DeiT has 3.")
  length = len(source) // batch_size * batch_size
  if not length:
    raise UserError(
      f"{len(source)} images fill no batch of {batch_size}, and an epoch with "
      "repeats has whole batches: choose a batch_size of at most "
      f"{len(source)}, or repeats=1."
    )
  order = functools.partial(
    repeated_order, len(source), seed=seed, repeats=repeats
  )
  return _endless(source, order, length)


def _endless(
  source: Sequence[Example], order: Callable[..., np.ndarray], length: int
) -> Source:
  """Returns the first rows of the order of each epoch, without an end.

  Args:
    source: of the examples.
    order: (epoch=) -> their positions, `length` of them or more.
    length: of an epoch.
  """
  # Grain needs a length; this one is a whole number of epochs.
  read = functools.partial(_read, source, order, length)
  return Source(sys.maxsize // length * length, read)


def _read(
  source: Sequence[Example],
  order: Callable[..., np.ndarray],
  length: int,
  position: int,
) -> Example:
  epoch, place = divmod(position, length)
  return _decoded(source, int(order(epoch=epoch)[place]))


_LAST = threading.local()  # what a thread read last: (source, row, example)


def _decoded(source: Sequence[Example], row: int) -> Example:
  """Reads a row with its pixels; once for the copies that a thread reads."""
  kept = getattr(_LAST, "kept", None)
  if not (kept and kept[0] is source and kept[1] == row):
    example = source[row]
    if "encoded" in example:
      example = codecs.with_pixels(example, codecs.pixels(example))
    kept = _LAST.kept = source, row, example
  return kept[2]


@functools.lru_cache(maxsize=2)  # reading ahead crosses into the next epoch
def repeated_order(
  num_examples: int, *, epoch: int, seed: int, repeats: int
) -> np.ndarray:
  """Returns the examples of an epoch, each repeated: [n * repeats] int64."""
  order = np.random.default_rng((seed, epoch)).permutation(num_examples)
  return np.repeat(order, repeats)


# --- the order of batches of groups (Tian et al. 2023) ------------------------


def grouped(
  source: Sequence[Example],
  groups: np.ndarray,
  *,
  seed: int,
  repeats: int,
  batch_size: int,
) -> Source:
  """Returns rows whose groups lie together, epoch after epoch, without an end.

  An epoch takes each group once, in a random order, and so many of its rows,
  drawn anew. A group with fewer rows gives some of them again, each transformed
  differently. The groups that fill no whole batch wait for another epoch: no
  batch has a group twice.

  Args:
    source: of the examples.
    groups: int [n], the group of each.
    seed: of the orders.
    repeats: rows of a group.
    batch_size: over all processes; a multiple of `repeats`.

  Raises:
    UserError: when the groups fill no batch, or a batch would cut one.
  """
  count, rest = len(np.unique(groups)), batch_size % repeats
  length = count * repeats // batch_size * batch_size
  if rest or not length:
    raise UserError(
      f"Batches of {batch_size} images, with {repeats} of each of {count} "
      f"groups: choose a batch_size that is a multiple of {repeats}, and at "
      f"most {count * repeats}."
    )
  order = functools.partial(
    grouped_order, Groups(groups), seed=seed, repeats=repeats
  )
  return _endless(source, order, length)


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
  """The groups of rows, hashed by identity, which an array is not."""

  of: np.ndarray  # int [n]


@functools.lru_cache(maxsize=2)
def grouped_order(
  groups: Groups, *, epoch: int, seed: int, repeats: int
) -> np.ndarray:
  """Returns the rows of an epoch, group by group: [groups * repeats] int64."""
  rng = np.random.default_rng((seed, epoch))
  _, of, counts = np.unique(groups.of, return_inverse=True, return_counts=True)
  order = rng.permutation(len(of))
  order = order[np.argsort(of[order], kind="stable")]  # by group, mixed inside
  places = np.arange(repeats) % counts[:, None]  # [groups, repeats]
  rows = order[(np.cumsum(counts) - counts)[:, None] + places]
  return rng.permutation(rows).ravel()
