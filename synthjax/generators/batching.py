"""Requests of any size, as batches of one size, with one batch in flight."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AHEAD = 16  # batches of prompts that a batch is told will come


def make_stream(
  run: Callable[..., jax.Array], batch_size: int
) -> tuple[Callable[..., Iterator[np.ndarray]], Callable[..., np.ndarray]]:
  """Returns the `stream` and the `draw` of a Generator.

  Args:
    run: (prompts, rngs, references, start_steps, coming) -> uint8
      [batch_size, h, w, 3] on the device. There are at most batch_size prompts
      and keys, and as many references or None; `coming` are the prompts of the
      next batches.
    batch_size: images drawn at once.
  """

  def stream(
    prompts: Sequence[str],
    rngs: jax.Array,
    references: np.ndarray | None = None,
    start_steps: int | None = None,
  ) -> Iterator[np.ndarray]:
    """Yields uint8 [n, h, w, 3]; each number of start_steps is compiled."""
    if (references is None) != (start_steps is None):
      raise ValueError("Real guidance needs both references and start_steps.")
    waiting = None
    for first in range(0, len(prompts), batch_size):
      own = slice(first, first + batch_size)
      coming = prompts[own.stop : own.stop + AHEAD * batch_size]
      reference = None if references is None else references[own]
      out = run(prompts[own], rngs[own], reference, start_steps, coming)
      out.copy_to_host_async()
      # The device is given this batch before the last one is waited for.
      drawn, waiting = waiting, (out, len(prompts[own]))
      if drawn:
        yield np.asarray(drawn[0])[: drawn[1]]
    if waiting:
      yield np.asarray(waiting[0])[: waiting[1]]

  def draw(*args: Any, **more: Any) -> np.ndarray:
    return np.concatenate(list(stream(*args, **more)))

  return stream, draw


def fill_up(rows: Any, lack: int) -> Any:
  """Repeats the last row, so that the batch is whole."""
  if not lack:
    return rows
  return jnp.concatenate([rows, jnp.repeat(rows[-1:], lack, axis=0)])


# --- encodings of prompts ----------------------------------------------------

# Of the released GLIDE, in bfloat16, so many take 140 MB.
CAPACITY = 512


def cached(
  encode: Callable[[list[str]], Sequence[Any]],
  *,
  batch_size: int,
  capacity: int = CAPACITY,
) -> Callable[..., list[Any]]:
  """Keeps what `encode` returns for the prompts that were last asked for.

  Args:
    encode: takes exactly `batch_size` prompts and returns as many rows, each of
      which depends on its own prompt alone.
    batch_size: of `encode`; fewer prompts are filled up with empty ones.
    capacity: rows that are kept between two calls.

  Returns:
    (prompts [n], coming) -> the rows of prompts, a list [n]. `coming` are the
    prompts of later calls, which fill up a batch where prompts do not.
  """
  rows = {}  # those that were last asked for come last

  def look_up(prompts: Sequence[str], coming: Sequence[str] = ()) -> list[Any]:
    wanted = dict.fromkeys(prompts)
    lacking = [p for p in wanted if p not in rows]
    count = len(lacking)
    if count:
      further = dict.fromkeys(coming)
      lacking += [p for p in further if p not in wanted and p not in rows]
    for first in range(0, count, batch_size):
      block = lacking[first : first + batch_size]
      blank = [""] * (batch_size - len(block))
      rows.update(zip(block, encode(block + blank), strict=False))
    for prompt in wanted:
      rows[prompt] = rows.pop(prompt)
    found = [rows[prompt] for prompt in prompts]
    for prompt in list(itertools.islice(rows, max(len(rows) - capacity, 0))):
      del rows[prompt]
    return found

  return look_up
