"""FID's Inception: parity with PyTorch, its two oddities, and its names."""

from functools import partial

import inception_keys
import jax
import numpy as np
import pytest
import tiny_encoders
import torch_pickles as tp
from plain_weights import zeros

from synthjax.models.inception import model as inception
from synthjax.models.inception import weights as convert
from synthjax.runtime.errors import UserError
from synthjax.weights import files, read

# As PyTorch counts them: without BatchNorm's averages, with the last layer.
PARAMETERS = 23_850_960
AVERAGED = ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b")


@pytest.fixture(scope="module")
def weights():
  return tiny_encoders.inception_weights()


# --- parity -----------------------------------------------------------------


def relative_error(weights, *, size, n, logits):
  torch = pytest.importorskip("torch")
  variables, about = convert.from_released(weights)
  images = np.random.default_rng(0).uniform(-1, 1, (n, size, size, 3))
  images = images.astype(np.float32)
  apply = partial(inception.make(**about["model"]).apply, logits=logits)
  got = jax.jit(apply)(variables, images)
  with torch.no_grad():
    found = inception_keys.torch_features(
      {k: torch.from_numpy(np.array(w)) for k, w in weights.items()},
      torch.from_numpy(images.transpose(0, 3, 1, 2)),
    )
  want = found[logits].numpy()
  assert got.shape == want.shape and got.dtype == want.dtype
  assert want.std(0).mean() > 0.01  # images differ
  return abs(got - want).max() / abs(want).max()


def test_features_are_those_of_pytorch(weights):
  assert relative_error(weights, size=139, n=3, logits=False) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("logits", [False, True])
def test_the_whole_one_is_that_of_pytorch(logits):
  weights = tiny_encoders.inception_weights(width=32)
  assert relative_error(weights, size=299, n=2, logits=logits) < 2e-6


# --- what sets it apart from the Inception of others ------------------------


def pooled_by(name, x):
  """Returns what the pool branch, the last, of a block of ones makes of x."""
  block = inception.Mixed(name, 2, np.float32)
  like = jax.eval_shape(block.init, jax.random.key(0), x)
  variables = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), like)
  branch = variables["params"]["branch_pool"]
  branch["conv"]["kernel"][:] = 1 / x.shape[-1]  # the mean over the channels
  branch["bn"]["scale"][:] = 1
  variables["batch_stats"]["branch_pool"]["bn"]["var"][:] = 1 - 1e-3
  return np.asarray(jax.jit(block.apply)(variables, x))[..., -1]


@pytest.mark.parametrize("block", AVERAGED)
def test_averages_leave_padding_out(block):
  """So the average of ones is one in the corners too, not 4/9."""
  got = pooled_by(f"Mixed_{block}", np.ones((1, 5, 4, 4), np.float32))
  np.testing.assert_allclose(got, 1, rtol=1e-6)
  bright = np.zeros((1, 5, 4, 4), np.float32)
  bright[0, 0, 0] = 36
  want = np.zeros((5, 4))
  want[:2, :2] = [[9, 6], [6, 4]]  # of 4, 6 and 9 places
  got = pooled_by(f"Mixed_{block}", bright)[0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_last_block_takes_the_maximum():
  rng = np.random.default_rng(0)
  x = np.repeat(rng.uniform(1, 2, (1, 5, 4, 1)), 4, axis=-1).astype(np.float32)
  around = np.pad(x[0, ..., 0], 1, constant_values=-np.inf)
  want = [
    [around[i : i + 3, j : j + 3].max() for j in range(4)] for i in range(5)
  ]
  np.testing.assert_allclose(pooled_by("Mixed_7c", x)[0], want, rtol=1e-5)
  assert abs(pooled_by("Mixed_7b", x)[0] - want).max() > 0.1


def test_pixels_are_normalised_as_the_graph_does():
  images = np.array([0, 128, 255, 64.5], np.float32).reshape(4, 1, 1, 1)
  got = np.asarray(inception.preprocess(images)).ravel()
  np.testing.assert_array_equal(got, [-1, 0, 127 / 128, -63.5 / 128])


# --- names ------------------------------------------------------------------


def test_full_size_weights_are_used_up():
  shapes = inception_keys.shapes()
  variables, about = convert.from_released(zeros(shapes))
  assert about == {
    "kind": "inception",
    "model": {"width": 32},
    "image_size": 299,
  }
  sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
  assert sum(sizes) == PARAMETERS
  assert inception.make(**about["model"]).num_features == 2048
  released = convert.to_released(variables, about)
  kept = {k: s for k, s in shapes.items() if not k.endswith("tracked")}
  assert {name: w.shape for name, w in released.items()} == kept


def test_weights_come_back_as_they_were(weights, tmp_path):
  variables, about = convert.from_released(weights)
  files.save_params(tmp_path / "w.safetensors", variables, about)
  variables, read_back = files.load_params(tmp_path / "w.safetensors")
  assert read_back == about
  released = convert.to_released(variables, about)
  assert len(released) == 94 * 5 + 2
  for name, weight in released.items():
    np.testing.assert_array_equal(weight, weights[name])
  # Some files do not count the batches.
  again, _ = convert.from_released(released)
  jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_unsupported_weights_are_refused(weights):
  with pytest.raises(UserError, match=r"AuxLogits\.fc\.weight: no rule"):
    convert.from_released(weights | {"AuxLogits.fc.weight": np.zeros((1, 1))})
  name = "Mixed_6b.branch7x7_2.bn.running_var"
  less = {k: w for k, w in weights.items() if k != name}
  with pytest.raises(UserError, match=r"7x7_2/bn/var: weights have None.*8"):
    convert.from_released(less)
  name = "Mixed_5b.branch1x1.conv.weight"
  with pytest.raises(UserError, match=r"\(1, 1, 12, 5\).*\(1, 1, 12, 4\)"):
    convert.from_released(weights | {name: np.zeros((5, 12, 1, 1))})
  less = {k: w for k, w in weights.items() if not k.startswith("fc.")}
  with pytest.raises(UserError, match="fc/kernel: weights have None"):
    convert.from_released(less)
  for wrong in ({}, {"conv1.weight": np.zeros((64, 3, 7, 7))}):
    with pytest.raises(UserError, match=r"Looked for Conv2d_1a_3x3\.conv"):
      convert.from_released(wrong)


@pytest.mark.parametrize("num_classes", [1000, 1001])
def test_the_inception_of_others_is_refused(num_classes):
  """torchvision's and timm's, whose features give other distances."""
  other = zeros(inception_keys.shapes(2, num_classes=num_classes))
  with pytest.raises(UserError, match="fetch inception_fid"):
    convert.from_released(other)


def pth_file(path, weights):
  """Writes weights as torch.save does."""
  kinds = {"f": "FloatStorage", "i": "LongStorage"}
  state, storages = {}, {}
  for i, (name, weight) in enumerate(weights.items()):
    strides = tuple(
      s // weight.itemsize for s in np.empty(weight.shape, weight.dtype).strides
    )
    held = tp.storage(weight.size, str(i), kinds[weight.dtype.kind])
    state[name] = tp.tensor(weight.shape, strides, of=held)
    storages[str(i)] = weight.tobytes()
  return tp.zip_file(path, state, storages)


def test_the_file_is_read_and_one_cut_short_is_refused(weights, tmp_path):
  path = pth_file(tmp_path / "pt_inception.pth", weights)
  got, _ = convert.from_released(read.read_weights(path))
  want, _ = convert.from_released(weights)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  content = path.read_bytes()
  for part in (0.3, 0.9, 0.999):
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match="cut short|damaged|begins"):
      read.read_weights(path)
