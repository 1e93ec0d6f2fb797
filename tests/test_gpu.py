"""What a GPU computes by kernels of its own: pytest -m gpu tests/test_gpu.py.

Without a GPU, that is skipped; a slow test runs the checks on the CPU.
"""

import jax
import pytest

from benchmarks import device_checks
from benchmarks.device_checks import WAYS

NAMES = [
  "attention 197 x 197 x 64",
  "attention 1024 x 1152 x 64",
  "attention 256 x 77 x 40",
  "attention 64 x 64 x 160",
  "causal attention",
  "suppression",
  "RoIAlign and its gradient",
  "resize",
  "ResNet",
  "CLIP",
  "GLIDE's base",
  "GLIDE's upsampler",
]


@pytest.fixture(scope="module")
def checks():
  return device_checks.checks(tiny=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_computes_what_the_cpu_does(checks, name):
  check = checks[name]
  for way, error in device_checks.errors(check).items():
    assert error <= (0 if check.exact else WAYS[way].most), way


@pytest.mark.slow
@pytest.mark.skipif(
  jax.default_backend() != "cpu", reason="a GPU has the test above"
)
def test_every_check_can_be_computed(checks):
  assert [*checks] == NAMES
  ways = {"bfloat16": WAYS["bfloat16"]}
  for name, check in checks.items():
    error = device_checks.errors(check, ways)["bfloat16"]
    assert error <= (0 if check.exact else ways["bfloat16"].most), name


def test_an_error_is_seen(checks):
  check, ways = checks["resize"], {"bfloat16": WAYS["bfloat16"]}
  flipped = check._replace(
    inputs=lambda dtype: tuple(
      x[:, ::-1] if dtype == "bfloat16" else x for x in check.inputs(dtype)
    )
  )
  assert device_checks.errors(flipped, ways)["bfloat16"] > 0.1
