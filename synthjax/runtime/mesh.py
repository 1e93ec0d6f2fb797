"""One mesh over the devices, with the axes `data` and `fsdp`."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from synthjax.runtime.errors import UserError, gathered

# Arrays with fewer numbers cost more to shard than sharding saves.
MIN_SHARDED = 4096

# Whether this process works alone, independently of the other ones.
_ALONE = contextvars.ContextVar("alone", default=False)


@contextlib.contextmanager
def own_devices() -> Iterator[None]:
  """Makes every mesh in its context one of this process's own devices."""
  token = _ALONE.set(True)
  try:
    yield
  finally:
    _ALONE.reset(token)


def works_alone() -> bool:
  """Returns whether this is within `own_devices`."""
  return _ALONE.get()


def make_mesh(fsdp: int = 1, *, local: bool = False) -> Mesh:
  """Lays devices out as [data, fsdp].

  Args:
    fsdp: devices that share the parameters between them; 1 copies them.
    local: takes the devices of this process alone, for work that each process
      does for itself; `own_devices` does so for a whole context.

  Raises:
    UserError: when the devices do not split into groups of that size.
  """
  local = local or _ALONE.get()
  devices = jax.local_devices() if local else jax.devices()
  count = len(devices)
  _check_groups(count, fsdp, "fsdp")
  shape, axes = (count // fsdp, fsdp), ("data", "fsdp")
  laid = jax.make_mesh(shape, axes, devices=devices).devices
  # Process after process, so that the rows of a batch that a process holds lie
  # together and in order; see `data.pipeline`.
  laid = sorted(laid.flat, key=lambda device: device.process_index)
  return Mesh(
    np.array(laid).reshape(shape), axes, axis_types=(AxisType.Auto,) * 2
  )


def split(mesh: Mesh) -> NamedSharding:
  """Splits the first dimension, that of the batch, over every device."""
  return NamedSharding(mesh, P(("data", "fsdp")))


def copied(mesh: Mesh) -> NamedSharding:
  """Gives every device a whole copy."""
  return NamedSharding(mesh, P())


def shard(mesh: Mesh, tree: Any, *, min_size: int = MIN_SHARDED) -> Any:
  """Returns a sharding for each array of a state: over `fsdp`, or copied.

  An array's largest dimension that divides is split, so that each device of a
  group keeps only its share of the parameters, of the optimizer's state and of
  the average (Rajbhandari et al. 2020, ZeRO-3).

  Args:
    mesh: of the devices.
    tree: of arrays, or of their shapes.
    min_size: numbers; smaller arrays are copied.

  Returns:
    A tree of the same structure, of shardings.
  """
  parts = mesh.shape["fsdp"]

  def one(x):
    fits = [(n, -axis) for axis, n in enumerate(x.shape) if n % parts == 0]
    if parts == 1 or not fits or math.prod(x.shape) < min_size:
      return copied(mesh)
    return NamedSharding(mesh, P(*[None] * -max(fits)[1], "fsdp"))

  return jax.tree.map(one, tree)


def place_key(mesh: Mesh, rng: jax.Array) -> jax.Array:
  """Copies a random key to every device, of other processes as well."""
  data = np.asarray(jax.random.key_data(rng))
  wrap = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(rng))
  return jax.jit(wrap, out_shardings=copied(mesh))(data)


def fetch(tree: Any) -> Any:
  """Returns NumPy copies of arrays that may be split over devices.

  With several processes, all must call it together, and each gets everything.
  """
  return jax.tree.map(lambda x: jax.device_get(_whole(x)), tree)


def fetch_ahead(outputs: Iterable[Any]) -> Iterator[Any]:
  """Yields NumPy copies of arrays, while the device is at the next ones.

  Args:
    outputs: trees of arrays that a device computes, and of numbers; see
      `fetch`.
  """
  waiting = []
  for output in outputs:
    for x in jax.tree.leaves(output):
      if isinstance(x, jax.Array):
        x.copy_to_host_async()
    waiting.append(output)
    # The device has this one before the host waits for the last one.
    if len(waiting) > 1:
      yield fetch(waiting.pop(0))
  yield from map(fetch, waiting)


def over_processes(tree: Any) -> Any:
  """Returns arrays of a process's own devices as ones on those of all.

  All processes hold the same. With one process, the arrays stay where they are.
  With several, they are copied by way of the host, as JAX moves none from one
  process's devices to all.

  Args:
    tree: of arrays that are sharded over a mesh of `make_mesh(local=True)`.
  """

  def one(x):
    mesh = make_mesh(x.sharding.mesh.shape["fsdp"])
    place = NamedSharding(mesh, x.sharding.spec)
    if x.sharding == place:
      return x
    whole = np.asarray(x)
    return jax.make_array_from_callback(x.shape, place, whole.__getitem__)

  return jax.tree.map(one, tree)


def to_own(mesh: Mesh, tree: Any) -> Any:
  """Copies arrays that may be split to every device of a local mesh.

  With several processes, all must call it together.

  Args:
    mesh: of `make_mesh(local=True)`.
    tree: of arrays.
  """
  return jax.tree.map(lambda x: jax.device_put(_whole(x), copied(mesh)), tree)


def _whole(x: Any) -> Any:
  """Returns an array that lies on this process's own devices."""
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return x
  if not x.is_fully_replicated:
    x = _identity(x, copied(x.sharding.mesh))
  return x.addressable_data(0)


@partial(jax.jit, static_argnums=1)
def _identity(x: jax.Array, sharding: NamedSharding) -> jax.Array:
  return jax.lax.with_sharding_constraint(x, sharding)


def to_global(mesh: Mesh, batch: dict[str, Any]) -> dict:
  """Joins the processes' shares of a batch into arrays over the mesh.

  Arrays that lie on devices already stay as they are.
  """
  sharding = split(mesh)

  def one(x):
    if isinstance(x, jax.Array):
      return x
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))

  return jax.tree.map(one, batch)


def check_batch(mesh: Mesh, batch_size: int, *, field: str) -> None:
  """Raises UserError about a batch that does not split over the devices.

  Args:
    mesh: of the devices.
    batch_size: over all of them.
    field: of the config, for the message.
  """
  _check_batch(mesh.size, batch_size, field)


# --- before the run -----------------------------------------------------------

# Checks that wait for the number of devices, which others have.
_LATER: contextvars.ContextVar[list[Callable[[int], None]] | None] = (
  contextvars.ContextVar("later", default=None)
)


@contextlib.contextmanager
def checked_later(later: bool) -> Iterator[list[Callable[[int], None]]]:
  """Yields the checks of the context, which are made of any count of devices.

  Args:
    later: false makes them at once, of the devices of here.
  """
  checks: list[Callable[[int], None]] = []
  token = _LATER.set(checks if later else None)
  try:
    yield checks
  finally:
    _LATER.reset(token)


def check_devices(
  where: str,
  batch_sizes: Mapping[str, int] | None = None,
  *,
  fsdp: int = 1,
  local: bool = False,
) -> None:
  """Checks what has to split over the devices, before a run begins.

  Args:
    where: the block of the config, for the message.
    batch_sizes: over all devices, by their fields in the block.
    fsdp: see `make_mesh`, as is local.
    local: likewise.

  Raises:
    UserError: listing all that does not split; but later within
      `checked_later`.
  """

  if fsdp == 1 and not batch_sizes:
    return  # splits over any, which are not asked for then

  def check(count: int) -> None:
    with gathered() as attempt:
      attempt(_check_groups, count, fsdp, f"{where}.fsdp")
      for field, batch_size in (batch_sizes or {}).items():
        attempt(_check_batch, count, batch_size, f"{where}.{field}")

  if (checks := _LATER.get()) is not None:
    checks.append(check)
  else:
    local = local or _ALONE.get()
    check(jax.local_device_count() if local else jax.device_count())


def _check_groups(count: int, fsdp: int, field: str) -> None:
  if fsdp < 1 or count % fsdp:
    raise UserError(
      f"{field}={fsdp} does not divide the {count} devices; allowed are "
      f"{[d for d in range(1, count + 1) if count % d == 0]}."
    )


def _check_batch(count: int, batch_size: int, field: str) -> None:
  if rest := batch_size % count:
    raise UserError(
      f"{field}={batch_size} does not split over {count} devices; try "
      f"{batch_size + count - rest}."
    )
