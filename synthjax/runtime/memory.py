"""The memory of a device: what a compiled function takes, and what fits.

Nothing is known of a CPU's, whose memory other programs share.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from synthjax.runtime.errors import UserError

# Share of a device's memory: arrays leave gaps between them.
USABLE = 0.95
GIB = 2**30


def limit() -> int | None:
  """Returns the bytes that arrays on a device may take; None if unknown."""
  return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def peak_bytes(compiled: Any) -> int:
  """Returns the bytes of the arrays that live at a time, arguments included."""
  memory = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )


def working_bytes(compiled: Any) -> int:
  """Returns the bytes that a call takes on a device beside its arguments."""
  memory = compiled.memory_analysis()
  return peak_bytes(compiled) - memory.argument_size_in_bytes


def held_bytes(tree: Any) -> int:
  """Returns the bytes on a device of arrays that lie there, whole or split.

  An array that is there twice counts once.
  """
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in {id(x): x for x in jax.tree.leaves(tree)}.values()
  )


def largest_batch(
  held: int, working: int, batch_size: int, *, most: int | None = None
) -> int:
  """Returns the largest batch that fits; a power of two, as devices like them.

  Args:
    held: bytes on a device whatever the batch is, such as weights.
    working: bytes beside them for a batch; they grow no faster than it.
    batch_size: of that batch, on a device.
    most: that more than it is of no use.
  """
  room = USABLE * limit() - held
  count = int(max(room, 0) * batch_size // max(working, 1))
  if most is not None:
    count = min(count, most)
  return 1 << max(count.bit_length() - 1, 0)


def check(
  held: int, working: int, batch_size: int, *, field: str, devices: int = 1
) -> None:
  """Raises UserError about a batch that does not fit, where memory is known.

  Args:
    held: as `largest_batch`.
    working: as `largest_batch`.
    batch_size: on a device.
    field: of the config, for the message.
    devices: over which the field counts.
  """
  room = limit()
  if room is None or held + working <= room:
    return
  largest = devices * largest_batch(held, working, batch_size)
  advice = f"set it to {largest}"
  if held + working / batch_size > USABLE * room:
    advice = "not even one fits: take a device with more memory"
  raise UserError(
    f"{field}={devices * batch_size} needs about "
    f"{(held + working) / GIB:.1f} GiB on each device, {held / GIB:.1f} of it "
    "for what stays there, such as weights; its memory for arrays is "
    f"{room / GIB:.1f} GiB: {advice}."
  )


def check_weights(*groups: Mapping[str, int], field: str) -> None:
  """Raises UserError about weights that do not fit, where memory is known.

  Args:
    *groups: bytes on each device, by the network; of several groups, each takes
      the place of the one before.
    field: of the config, for the message.
  """
  room, total = limit(), max(sum(sizes.values()) for sizes in groups)
  if room is None or total <= USABLE * room:
    return
  listed = ", then ".join(
    ", ".join(f"{name} {n / GIB:.1f}" for name, n in sizes.items())
    for sizes in groups
  )
  raise UserError(
    f"{field}: the weights need {total / GIB:.1f} GiB on each device "
    f"({listed}), whose memory for arrays is {room / GIB:.1f} GiB. Set dtype "
    "to bfloat16 if it is not, let several devices share the weights (fsdp), "
    "or take a smaller model, or a device with more memory."
  )


def checked(
  function: Any, held: Any, *, batch_size: int, field: str, devices: int = 1
) -> Callable[..., Any]:
  """Makes a jitted function refuse a batch that does not fit, before it runs.

  Arguments that lie on devices and are not among those held are the batch's.

  Args:
    function: of `jax.jit`, whose arguments but the first have few shapes; the
      first, such as weights, has always the same.
    held: arrays that lie on the devices meanwhile.
    batch_size: of its arrays, on a device.
    field: of the config, for the message.
    devices: over which the field counts.
  """
  if limit() is None:
    return function
  staying = {*map(id, jax.tree.leaves(held))}
  programs, held = {}, held_bytes(held)

  def call(first, *others):
    leaves, tree = jax.tree.flatten(others)
    key = tree, *((x.shape, x.dtype) for x in leaves)
    if key not in programs:
      compiled = function.lower(first, *others).compile()
      batch = [
        x for x in leaves if isinstance(x, jax.Array) and id(x) not in staying
      ]
      working = working_bytes(compiled) + held_bytes(batch)
      check(held, working, batch_size, field=field, devices=devices)
      programs[key] = compiled
    return programs[key](first, *others)

  return call
