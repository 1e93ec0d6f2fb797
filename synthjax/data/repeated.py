"""The order of repeated augmentation (Hoffer et al. 2020), as DeiT's."""

import functools
import sys
from collections.abc import Sequence

import numpy as np

from synthjax.data.rows import Example, Source
from synthjax.errors import UserError


def repeated_index(
  num_examples: int,
  *,
  epoch: int,
  seed: int = 0,
  repeats: int = 3,
  rank: int = 0,
  num_ranks: int = 1,
  multiple: int = 256,
) -> np.ndarray:
  """Returns which examples a process reads in an epoch, in order.

  Of a random order, each example comes `repeats` times in a row, and the
  processes take turns: the copies of an example meet in the same step, on as
  many processes as there are, each with an augmentation of its own. An epoch
  is as long as one without repeats, so it sees a third of the examples.

  Args:
    num_examples: of the data set.
    epoch: of the order.
    seed: of all orders; the same on every process.
    repeats: of each example.
    rank: of this process.
    num_ranks: how many processes share the epoch.
    multiple: the epoch's length over all processes is the largest multiple of
      it that the data set has; what is left of each share is cut.

  Returns:
    [num_examples // multiple * multiple // num_ranks] int64.

  Raises:
    UserError: when nothing would be left, or the numbers make no sense.
  """
  if not 0 <= rank < num_ranks or repeats < 1 or multiple < 1:
    raise UserError(
      f"found rank={rank} of num_ranks={num_ranks}, repeats={repeats} and "
      f"multiple={multiple}; ranks count from 0, the others from 1."
    )
  length = num_examples // multiple * multiple // num_ranks
  if not length:
    raise UserError(
      f"{num_examples} examples give no epoch of a multiple of {multiple} over "
      f"{num_ranks} processes: choose a multiple of at most {num_examples}."
    )
  order = np.random.default_rng((seed, epoch)).permutation(num_examples)
  repeated = np.repeat(order, repeats)
  # All shares are as long; the last ones go on with the start of the order.
  repeated = np.resize(repeated, -(-len(repeated) // num_ranks) * num_ranks)
  return repeated[rank::num_ranks][:length]


def repeated(
  source: Sequence[Example], *, seed: int, repeats: int, batch_size: int
) -> Source:
  """Returns the rows of all processes, epoch after epoch, without an end.

  Dealt out in turn, each process gets its `repeated_index`. An epoch has whole
  batches: as many as an epoch without repeats.

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
  read = functools.partial(_read, source, length, seed, repeats, batch_size)
  # Grain needs a length; this one is a whole number of epochs.
  return Source(sys.maxsize // length * length, read)


def _read(
  source: Sequence[Example],
  length: int,
  seed: int,
  repeats: int,
  batch_size: int,
  position: int,
) -> Example:
  epoch, place = divmod(position, length)
  index = _index(len(source), epoch, seed, repeats, batch_size)
  return source[int(index[place])]


@functools.lru_cache(maxsize=2)  # reading ahead crosses into the next epoch
def _index(
  num_examples: int, epoch: int, seed: int, repeats: int, batch_size: int
) -> np.ndarray:
  return repeated_index(
    num_examples, epoch=epoch, seed=seed, repeats=repeats, multiple=batch_size
  )
