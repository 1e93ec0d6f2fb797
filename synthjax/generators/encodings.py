"""Encodings of prompts: each is made once, and the latest are kept."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.runtime import memory
from synthjax.runtime import mesh as meshes

CAPACITY = 512  # rows; 140 MB of the released GLIDE's in bfloat16
# Of the host, for encodings: 546 prompts of FLUX.2-klein in bfloat16, 6,754 of
# SDXL.
HOST_BYTES = 4 * memory.GIB


class Reader(NamedTuple):
  """How the prompts of batches of one size become what walks read."""

  # (prompts of a batch, coming) -> texts, arrays split over the devices.
  # `coming` are the prompts of the next batches. A prompt is a text, or
  # `Adapted`.
  read: Callable[..., Any]
  # Encodes prompts, and returns how many of them `read` then finds: the first
  # batches, one at least. The devices have no other work meanwhile.
  prepare: Callable[[Sequence[Any]], int] = len
  # Returns the shapes of texts; None is to read them.
  like: Callable[[], Any] | None = None
  # Returns the bytes on a device that are held while prompts are encoded, and
  # those of the work.
  takes: Callable[[], tuple[int, int]] | None = None


def first(
  encode: Callable[[Any, Any], Any],
  weights: Any,
  inputs_of: Callable[[Sequence[Any]], Any],
  devices: Any,
  batch_size: int,
  *,
  context: Callable[[], contextlib.AbstractContextManager],
  example: Any = "",
  against: Callable[[Any], Any] | None = None,
  beside: Callable[[Sequence[Any]], Any] = lambda prompts: {},
) -> Reader:
  """Encodes the prompts of many batches before these are drawn.

  The host keeps the encodings, at most HOST_BYTES of them or those of a batch,
  so that text encoders may leave the devices meanwhile.

  Args:
    encode: (params, inputs) -> arrays [n, ...], traced. A row depends on its
      own prompt alone.
    weights: the `batching.Weights` of the text encoders.
    inputs_of: prompts [n] -> inputs [n, ...], arrays of the host.
    devices: of `batching.own_devices`.
    batch_size: n, over all devices.
    context: within which it is traced.
    example: a prompt, of those that take the most memory.
    against: prompt -> the one that guidance leads away from; None without.
    beside: prompts [n] -> what else walks read, arrays of the host [n, ...].

  Returns:
    The Reader of triples: the encodings, those of `against` or None, and what
    is `beside`.
  """
  split, size = devices.split, devices.mesh.size
  compiled = jax.jit(encode, in_shardings=(None, split), out_shardings=split)
  checked = memory.checked(
    compiled,
    held=weights.held,
    batch_size=batch_size // size,
    field="config.generator.batch_size",
  )
  shapes = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split), tree
  )
  some = [example] * batch_size
  inputs = shapes(inputs_of(some))
  with context():
    encoded = shapes(jax.eval_shape(compiled, weights.like, inputs))

  def both(prompts):
    return [*prompts, *(map(against, prompts) if against else ())]

  each = memory.held_bytes(encoded) * size // batch_size
  capacity = max(HOST_BYTES // each, len(both(some)))

  def encode_batch(prompts):
    given = jax.device_put(inputs_of(prompts), split)
    with context():
      arrays = meshes.fetch(checked(weights.get(), given))
    leaves, tree = jax.tree.flatten(arrays)
    # Copies, as a view would keep the whole batch.
    each = zip(*([row.copy() for row in x] for x in leaves), strict=True)
    return [tree.unflatten(row) for row in each]

  look_up = cached(encode_batch, batch_size=batch_size, capacity=capacity)

  def prepare(prompts):
    wanted, count = {}, 0
    while count < len(prompts):
      batch = prompts[count : count + batch_size]
      new = dict.fromkeys(p for p in both(batch) if p not in wanted)
      if count and len(wanted) + len(new) > capacity:
        break
      wanted |= new
      count += len(batch)
    look_up(list(wanted))
    return count

  def read(prompts, coming):
    del coming  # they are prepared
    rows = look_up(both(prompts))
    texts, others = (
      jax.tree.map(lambda *x: np.stack(x), *part) if part else None
      for part in (rows[:batch_size], rows[batch_size:])
    )
    return jax.device_put((texts, others, beside(prompts)), split)

  def like():
    return encoded, encoded if against else None, shapes(beside(some))

  def takes():
    working = memory.working_bytes(
      compiled.lower(weights.like, inputs).compile()
    )
    return memory.held_bytes(weights.held), working

  return Reader(read, prepare, like, takes)


def cached(
  encode: Callable[[list[Any]], Sequence[Any]],
  *,
  batch_size: int,
  capacity: int = CAPACITY,
) -> Callable[..., list[Any]]:
  """Keeps what `encode` returns for the prompts of the latest calls.

  Args:
    encode: takes exactly `batch_size` prompts and returns as many rows, each of
      which depends on its own prompt alone.
    batch_size: of `encode`; fewer prompts are filled up with the last.
    capacity: rows that are kept between two calls.

  Returns:
    (prompts [n], coming) -> the rows of prompts, a list [n]. `coming` are the
    prompts of later calls, encoded in the places that these leave free.
  """
  rows = {}  # the latest come last

  def look_up(prompts: Sequence[Any], coming: Sequence[Any] = ()) -> list[Any]:
    distinct = dict.fromkeys(prompts)
    missing = [p for p in distinct if p not in rows]
    count = len(missing)
    if count:
      further = dict.fromkeys(coming)
      missing += [p for p in further if p not in distinct and p not in rows]
    for first in range(0, count, batch_size):
      batch = missing[first : first + batch_size]
      filler = batch[-1:] * (batch_size - len(batch))
      rows.update(zip(batch, encode(batch + filler), strict=False))
    for prompt in distinct:
      rows[prompt] = rows.pop(prompt)
    encoded = [rows[prompt] for prompt in prompts]
    for prompt in list(itertools.islice(rows, max(len(rows) - capacity, 0))):
      del rows[prompt]
    return encoded

  return look_up
