"""The devices: one mesh, of the axes `data` and `fsdp`."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from synthjax.errors import UserError

# Whether this process works alone, whatever the other ones do.
_ALONE = contextvars.ContextVar("alone", default=False)


@contextlib.contextmanager
def own_devices() -> Iterator[None]:
  """Makes every mesh within it one of this process's own devices."""
  token = _ALONE.set(True)
  try:
    yield
  finally:
    _ALONE.reset(token)


def make_mesh(fsdp: int = 1, *, local: bool = False) -> Mesh:
  """Lays devices out as [data, fsdp].

  Args:
    fsdp: devices that share the parameters between them; 1 copies them.
    local: takes the devices of this process alone, for work that each process
      does for itself, as `own_devices` does for all that is called within it.

  Raises:
    UserError: when the devices do not split into groups of that size.
  """
  local = local or _ALONE.get()
  devices = jax.local_devices() if local else jax.devices()
  count = len(devices)
  if fsdp < 1 or count % fsdp:
    raise UserError(
      f"fsdp={fsdp} does not divide the {count} devices; allowed are "
      f"{[d for d in range(1, count + 1) if count % d == 0]}."
    )
  return jax.make_mesh(
    (count // fsdp, fsdp),
    ("data", "fsdp"),
    axis_types=(AxisType.Auto,) * 2,
    devices=devices,
  )


def split(mesh: Mesh) -> NamedSharding:
  """Splits the first dimension, that of the batch, over every device."""
  return NamedSharding(mesh, P(("data", "fsdp")))


def copied(mesh: Mesh) -> NamedSharding:
  """Gives every device a whole copy."""
  return NamedSharding(mesh, P())


def to_global(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict:
  """Joins what the processes hold of a batch into arrays over the mesh."""
  sharding = split(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    batch,
  )


def check_batch(mesh: Mesh, batch_size: int, *, field: str) -> None:
  """Raises UserError about a batch that does not split over the devices.

  Args:
    mesh: of the devices.
    batch_size: over all of them.
    field: of the config, for the message.
  """
  if rest := batch_size % mesh.size:
    raise UserError(
      f"{field}={batch_size} does not split over {mesh.size} devices; try "
      f"{batch_size + mesh.size - rest}."
    )
