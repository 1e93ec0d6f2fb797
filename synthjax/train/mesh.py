"""The devices: one mesh, of the axes `data` and `fsdp`."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from synthjax.errors import UserError


def make_mesh(fsdp: int = 1) -> Mesh:
  """Lays all devices out as [data, fsdp].

  Args:
    fsdp: devices that share the parameters between them; 1 copies them.

  Raises:
    UserError: when the devices do not split into groups of that size.
  """
  count = jax.device_count()
  if fsdp < 1 or count % fsdp:
    raise UserError(
      f"fsdp={fsdp} does not divide the {count} devices; allowed are "
      f"{[d for d in range(1, count + 1) if count % d == 0]}."
    )
  return jax.make_mesh(
    (count // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2
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
