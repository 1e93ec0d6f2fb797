"""oneDNN's convolutions and products against JAX's, and training by both."""

import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthjax.models import conv
from synthjax.models.unet_layers import Conv3x3
from synthjax.runtime import cache
from synthjax.runtime.errors import UserError
from tools.onednn import run

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def library():
  """Registers the library, or skips."""
  try:
    run.register(run.build(cache.private_folder() / "onednn"))
  except UserError as error:
    pytest.skip(str(error).split("\n", maxsplit=1)[0])


@pytest.fixture
def installed(library, monkeypatch):
  monkeypatch.setattr(conv, "_conv", run.convolve)
  monkeypatch.setattr(jax.lax, "dot_general", run.dot_general)


def normal(seed, *shape):
  """Returns normal values that bfloat16 holds exactly."""
  values = jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)
  return values.astype(jnp.float32)


def native(x, kernel, strides, padding):
  return jax.lax.conv_general_dilated(
    *(x, kernel, strides, padding),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision="highest",
  )


def assert_close(found, wanted, tolerance):
  """Compares with the largest value."""
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(found / scale, wanted / scale, atol=tolerance)


@pytest.mark.parametrize(
  ("image", "kernel", "strides", "padding"),
  [
    ((4, 16, 16, 32), (3, 3, 32, 64), (1, 1), ((1, 1), (1, 1))),
    ((4, 16, 16, 3), (3, 3, 3, 32), (2, 2), ((1, 1), (1, 1))),
    ((4, 8, 8, 32), (3, 3, 32, 6), (1, 1), ((1, 1), (1, 1))),
    ((4, 8, 8, 64), (1, 1, 64, 32), (1, 1), ((0, 0), (0, 0))),
    # Some images of these lie side by side.
    ((12, 4, 4, 8), (3, 3, 8, 16), (1, 1), ((1, 1), (1, 1))),
    ((3, 9, 6, 8), (2, 4, 8, 16), (2, 1), ((0, 1), (2, 1))),
    # Rows and columns differ in everything, and the last row is not reached.
    ((2, 10, 7, 5), (3, 2, 5, 7), (2, 1), ((1, 0), (0, 2))),
  ],
)
def test_a_convolution_and_its_gradients_are_those_of_jax(
  library, image, kernel, strides, padding
):
  x, kernel = normal(0, *image), normal(1, *kernel)
  y, vjp = jax.vjp(lambda *a: native(*a, strides, padding), x, kernel)
  grad = normal(2, *y.shape)
  ours, our_vjp = jax.vjp(
    lambda *a: run.convolve(*a, strides, padding), x, kernel
  )
  x_grad, kernel_grad = our_vjp(grad)
  assert ours.dtype == x_grad.dtype == kernel_grad.dtype == jnp.float32
  assert_close(ours, y, 1e-5)
  # The gradient of the images passes through bfloat16.
  assert_close(x_grad, vjp(grad)[0], 2**-8)
  assert_close(kernel_grad, vjp(grad)[1], 1e-5)


def test_values_are_rounded_to_bfloat16(library):
  x = normal(0, 1, 4, 4, 8) * 1.001
  kernel = normal(1, 1, 1, 8, 8) * 1.001
  y = run.convolve(x, kernel, (1, 1), ((0, 0), (0, 0)))
  rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, kernel)]
  assert_close(y, native(*rounded, (1, 1), "VALID"), 1e-5)
  gap = jnp.abs(y - native(x, kernel, (1, 1), "VALID")).max()
  assert gap > 1e-4


def test_a_convolution_can_be_mapped(library):
  x, kernel = normal(0, 3, 2, 4, 4, 8), normal(1, 3, 3, 8, 8)
  padding = ((1, 1), (1, 1))
  mapped = jax.vmap(lambda x: run.convolve(x, kernel, (1, 1), padding))(x)
  for some, y in zip(x, mapped, strict=True):
    assert_close(y, native(some, kernel, (1, 1), padding), 1e-5)


def test_a_dense_layer_of_many_rows_is_that_of_jax(installed):
  x, layer = normal(0, 4, run.MIN_ROWS // 4, 32), nn.Dense(48)
  params = layer.init(jax.random.key(0), x)
  apply = lambda params, x: layer.apply(params, x)
  assert str(jax.make_jaxpr(apply)(params, x)).count("onednn_convolve") == 1
  few = x[:, :8]
  assert "onednn" not in str(jax.make_jaxpr(apply)(params, few))
  kernel = params["params"]["kernel"]
  assert_close(apply(params, x), x @ kernel, 0.01)
  np.testing.assert_allclose(apply(params, few), few @ kernel, atol=1e-5)


def test_other_products_stay_those_of_jax(library):
  x = normal(0, run.MIN_ROWS, 8)
  for arguments in (
    (x, normal(3, 6, 8), (((1,), (1,)), ((), ()))),
    (x, normal(3, run.MIN_ROWS, 6), (((0,), (0,)), ((), ()))),
    (x, normal(3, 8, run.MIN_ROWS), (((1,), (0,)), ((0,), (1,)))),
  ):
    np.testing.assert_array_equal(
      run.dot_general(*arguments), jax.lax.dot_general(*arguments)
    )


class Net(nn.Module):
  """Convolutions and a wide layer, as in the networks that are trained."""

  @nn.compact
  def __call__(self, x):
    x = nn.silu(Conv3x3(16)(x))
    x = x + nn.silu(nn.Dense(16)(x))
    x = nn.silu(Conv3x3(16, strides=2)(x))
    return nn.Dense(10)(x.mean((1, 2)))


def train(steps):
  """Fits made-up labels; returns the losses, and the first gradients."""
  x = jax.random.normal(jax.random.key(0), (20, 8, 8, 3))
  labels = jnp.arange(20) % 10
  net, tx = Net(), optax.adam(1e-2)
  params = net.init(jax.random.key(1), x)

  def loss_of(params):
    logits = net.apply(params, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  def step(carry, _):
    params, state = carry
    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = tx.update(grads, state)
    return (optax.apply_updates(params, updates), state), (loss, grads)

  run_all = jax.jit(
    lambda params: jax.lax.scan(
      step, (params, tx.init(params)), None, length=steps
    )[1]
  )
  losses, grads = run_all(params)
  return np.array(losses), jax.tree.map(lambda g: np.array(g[0]), grads)


@pytest.mark.slow
def test_training_loses_as_much_as_in_plain_jax(library, monkeypatch):
  plain, plain_grads = train(50)
  monkeypatch.setattr(conv, "_conv", run.convolve)
  monkeypatch.setattr(jax.lax, "dot_general", run.dot_general)
  losses, grads = train(50)
  assert plain[-1] < 0.7 * plain[0]  # it learns
  assert not np.array_equal(losses, plain)  # by other functions
  np.testing.assert_allclose(losses[0], plain[0], rtol=1e-3)
  np.testing.assert_allclose(losses, plain, atol=0.02)
  jax.tree.map(lambda g, p: assert_close(g, p, 0.05), grads, plain_grads)


def test_without_amx_it_says_so(monkeypatch, tmp_path):
  monkeypatch.setattr(run, "has_amx", lambda: False)
  with pytest.raises(UserError, match="no AMX.*synthjax.main"):
    run.build(tmp_path)


def test_without_onednn_it_says_how_to_install_it(monkeypatch, tmp_path):
  monkeypatch.setattr(run, "has_amx", lambda: True)
  monkeypatch.setenv("ONEDNN_ROOT", str(tmp_path))
  message = "(?s)dnnl.hpp.*pip install onednn.*ONEDNN_ROOT"
  with pytest.raises(UserError, match=message):
    run.build(tmp_path / "lib")
  assert not [*tmp_path.rglob("*.so")]


@pytest.mark.slow
def test_it_runs_a_config(library, tmp_path):
  command = ("-m", "tools.onednn.run", "configs/train_clip.py:runlocal")
  subprocess.run(
    [sys.executable, *command, f"--workdir={tmp_path}"], check=True, cwd=ROOT
  )
  assert [*tmp_path.glob("train_clip/*.safetensors")]
