"""The mesh of devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from synthjax.errors import UserError
from synthjax.train import mesh


def test_one_device_makes_a_mesh_of_both_axes():
  made = mesh.make_mesh()
  assert dict(made.shape) == {"data": jax.device_count(), "fsdp": 1}
  batch = mesh.to_global(made, {"x": np.arange(4)})
  np.testing.assert_array_equal(batch["x"], np.arange(4))


def test_groups_that_do_not_divide_the_devices_are_refused():
  with pytest.raises(UserError, match="does not divide"):
    mesh.make_mesh(fsdp=jax.device_count() + 1)


SCRIPT = """
import jax, numpy as np
from synthjax.train import mesh
made = mesh.make_mesh(fsdp=2)
assert dict(made.shape) == {"data": 2, "fsdp": 2}, made.shape
x = mesh.to_global(made, {"x": np.arange(8.0)})["x"]
assert len({s.device for s in x.addressable_shards}) == 4
assert all(s.data.shape == (2,) for s in x.addressable_shards)
total = jax.jit(lambda x: x.sum(), out_shardings=mesh.copied(made))(x)
assert total == 28 and len(total.addressable_shards) == 4
"""


def test_a_batch_is_split_over_both_axes_of_four_devices():
  flags = "--xla_force_host_platform_device_count=4"
  subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    check=True,
  )
