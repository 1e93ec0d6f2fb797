"""Requests of any size, as batches of one size, with one batch in flight."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from synthjax.encoders.batching import one_ahead
from synthjax.generators import Generator
from synthjax.runtime import mesh as meshes

AHEAD = 16  # batches whose prompts are passed on before they are drawn


class Devices(NamedTuple):
  """How arrays lie on the devices of this process, which draws for itself."""

  count: int
  copied: jax.sharding.Sharding  # a whole copy on each
  split: jax.sharding.Sharding  # the rows of a batch over all


def own_devices() -> Devices:
  """Returns the devices of this process."""
  mesh = meshes.make_mesh(local=True)
  return Devices(mesh.size, meshes.copied(mesh), meshes.split(mesh))


def make_generator(
  draw: Callable[..., jax.Array],
  params: Any,
  read: Callable[..., Any],
  devices: Devices,
  *,
  batch_size: int,
  **facts: Any,
) -> Generator:
  """Returns a Generator that compiles one batch size.

  Args:
    draw: (start_steps, params, texts, rngs, references) -> uint8
      [batch_size, h, w, 3], traced once for each start_steps; here and below,
      batch_size is that of all devices.
    params: its weights, a copy on every device.
    read: (prompts [batch_size], coming) -> texts, arrays split over the
      devices. `coming` are the prompts of the next batches.
    devices: see `own_devices`.
    batch_size: images drawn at once; shorter requests are filled up.
    **facts: the other fields of the Generator.
  """
  _, copied, split = devices

  @functools.cache
  def compiled(start_steps):
    return jax.jit(
      functools.partial(draw, start_steps),
      in_shardings=(copied, split, split, split),
      out_shardings=split,
    )

  def run(prompts, rngs, references, start_steps, coming):
    lack = batch_size - len(prompts)
    texts = read([*prompts, *[""] * lack], coming)
    if references is not None:
      # Where there are several processes, `jit` takes no arrays of the host.
      references = jax.device_put(fill_up(references, lack), split)
    return compiled(start_steps)(params, texts, fill_up(rngs, lack), references)

  stream, draw_all = make_stream(run, batch_size)
  return Generator(draw_all, stream, batch_size, **facts)


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

    def outputs():
      for first in range(0, len(prompts), batch_size):
        batch = slice(first, first + batch_size)
        coming = prompts[batch.stop : batch.stop + AHEAD * batch_size]
        reference = None if references is None else references[batch]
        out = run(prompts[batch], rngs[batch], reference, start_steps, coming)
        yield out, len(prompts[batch])

    yield from one_ahead(outputs())

  def draw(*args: Any, **more: Any) -> np.ndarray:
    return np.concatenate(list(stream(*args, **more)))

  return stream, draw


def fill_up(rows: Any, lack: int) -> Any:
  """Repeats the last row, so that the batch is whole."""
  if not lack:
    return rows
  return jnp.concatenate([rows, jnp.repeat(rows[-1:], lack, axis=0)])


# --- weights ------------------------------------------------------------------


def cast_once(apply: Callable[..., Any], params: Any, *args: Any) -> Any:
  """Casts to half precision the weights that are used in it alone.

  Networks keep float32 weights and cast them where they are used, which a
  sampler would do again in each of its steps. The values are the same, bit for
  bit; a CPU, whose products XLA computes in float32 and then leaves a cast out,
  draws bfloat16 a little otherwise.

  Args:
    apply: (params, *args) -> outputs, of the network once.
    params: arrays, of this process.
    *args: arrays, or shapes; sizes of images and batches do not matter.
  """
  jaxpr = jax.make_jaxpr(apply)(params, *args).jaxpr
  leaves, tree = jax.tree.flatten(params)
  used = {var: set() for var in jaxpr.invars[: len(leaves)]}
  uses = [(var, None) for var in jaxpr.outvars]
  for eqn in jaxpr.eqns:
    cast = eqn.primitive.name == "convert_element_type"
    dtype = eqn.params["new_dtype"] if cast else None
    uses += [(var, dtype) for var in eqn.invars]
  for var, dtype in uses:
    if isinstance(var, jax.extend.core.Var) and var in used:
      used[var].add(dtype)
  half = ({jnp.dtype(jnp.bfloat16)}, {jnp.dtype(jnp.float16)})
  return tree.unflatten(
    leaf.astype(*types) if types in half else leaf
    for leaf, types in zip(leaves, used.values(), strict=True)
  )


# --- encodings of prompts ----------------------------------------------------

CAPACITY = 512  # rows; 140 MB of the released GLIDE's in bfloat16


def cached(
  encode: Callable[[list[str]], Sequence[Any]],
  *,
  batch_size: int,
  capacity: int = CAPACITY,
) -> Callable[..., list[Any]]:
  """Keeps what `encode` returns for the prompts of the latest calls.

  Args:
    encode: takes exactly `batch_size` prompts and returns as many rows, each of
      which depends on its own prompt alone.
    batch_size: of `encode`; fewer prompts are filled up with empty ones.
    capacity: rows that are kept between two calls.

  Returns:
    (prompts [n], coming) -> the rows of prompts, a list [n]. `coming` are the
    prompts of later calls, which fill up a batch where prompts do not.
  """
  rows = {}  # the latest come last

  def look_up(prompts: Sequence[str], coming: Sequence[str] = ()) -> list[Any]:
    distinct = dict.fromkeys(prompts)
    missing = [p for p in distinct if p not in rows]
    count = len(missing)
    if count:
      further = dict.fromkeys(coming)
      missing += [p for p in further if p not in distinct and p not in rows]
    for first in range(0, count, batch_size):
      batch = missing[first : first + batch_size]
      blank = [""] * (batch_size - len(batch))
      rows.update(zip(batch, encode(batch + blank), strict=False))
    for prompt in distinct:
      rows[prompt] = rows.pop(prompt)
    encoded = [rows[prompt] for prompt in prompts]
    for prompt in list(itertools.islice(rows, max(len(rows) - capacity, 0))):
      del rows[prompt]
    return encoded

  return look_up
