"""The mesh of devices."""

import json

import jax
import numpy as np
import pytest
import simulated

from synthjax.runtime import mesh
from synthjax.runtime.errors import UserError


def test_one_device_makes_a_mesh_of_both_axes():
  made = mesh.make_mesh()
  assert dict(made.shape) == {"data": jax.device_count(), "fsdp": 1}
  batch = mesh.to_global(made, {"x": np.arange(4)})
  np.testing.assert_array_equal(batch["x"], np.arange(4))


def test_a_process_can_work_alone():
  assert not mesh.works_alone()
  with mesh.own_devices():
    assert mesh.works_alone()
    assert mesh.make_mesh().devices.size == jax.local_device_count()
  assert not mesh.works_alone()


def test_outputs_are_read_while_the_next_ones_are_computed():
  begun = []

  def outputs():
    for i in range(3):
      begun.append(i)
      yield jax.numpy.full(2, i), i

  read = []
  for rows, i in mesh.fetch_ahead(outputs()):
    assert isinstance(rows, np.ndarray) and (rows == i).all()
    read.append((i, len(begun)))
  assert read == [(0, 2), (1, 3), (2, 3)]


def test_groups_that_do_not_divide_the_devices_are_refused():
  with pytest.raises(UserError, match="does not divide"):
    mesh.make_mesh(fsdp=jax.device_count() + 1)


SCRIPT = """
import json
import jax, numpy as np
from synthjax.runtime import mesh
made = mesh.make_mesh(fsdp=2)
assert dict(made.shape) == {"data": 2, "fsdp": 2}, made.shape
x = mesh.to_global(made, {"x": np.arange(8.0)})["x"]
assert len({s.device for s in x.addressable_shards}) == 4
assert all(s.data.shape == (2,) for s in x.addressable_shards)
total = jax.jit(lambda x: x.sum(), out_shardings=mesh.copied(made))(x)
assert total == 28 and len(total.addressable_shards) == 4

state = {"wide": np.ones((3, 64, 128)), "odd": np.ones((65, 65)),
         "tall": np.ones((256, 64)), "small": np.ones(64), "step": np.int32(0)}
laid = jax.device_put(state, mesh.shard(made, state))
print(json.dumps({k: [str(x.sharding.spec), x.addressable_shards[0].data.size]
                  for k, x in laid.items()}))
jax.tree.map(np.testing.assert_array_equal, mesh.fetch(laid), state)
own = mesh.to_own(mesh.make_mesh(local=True), laid)
assert all(x.is_fully_replicated for x in jax.tree.leaves(own))
"""


def test_batches_are_split_over_both_axes_and_large_arrays_over_fsdp():
  """On four devices; each array by its largest dimension that divides."""
  laid = json.loads(simulated.finish(simulated.start(SCRIPT, devices=4)))
  assert laid == {
    "wide": ["P(None, None, 'fsdp')", 3 * 64 * 64],
    "odd": ["P()", 65 * 65],  # does not divide
    "tall": ["P('fsdp',)", 128 * 64],
    "small": ["P()", 64],
    "step": ["P()", 1],
  }
