"""DINOv2: parity with transformers' module, and the names of both layouts."""

import jax
import numpy as np
import pytest
import vit_keys
from plain_weights import random, zeros

from synthjax.models.dinov2 import model as dinov2
from synthjax.models.dinov2 import weights as convert
from synthjax.models.vit import model as vit
from synthjax.runtime.errors import UserError
from synthjax.weights import files, read

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
# As many as in the files: of the first, PyTorch's module has as many.
COUNTS = {"s": 22_056_576, "b": 86_580_480, "l": 304_368_640}
SMALL = dict(width=128, depth=2, grid=3)


def authors_shapes(*, width, depth, grid=37):
  """Returns the names of dinov2_vit*14_pretrain.pth with their shapes."""
  shapes = vit_keys.timm_shapes(
    width=width, depth=depth, patch=14, grid=grid, classes=None
  )
  scales = [f"blocks.{i}.ls{j}.gamma" for i in range(depth) for j in (1, 2)]
  return shapes | dict.fromkeys(scales, (width,)) | {"mask_token": (1, width)}


def huggingface_shapes(*, width, depth, grid=37):
  """Returns the names of facebook/dinov2-* with their shapes."""
  shapes = vit_keys.huggingface_shapes(
    width=width,
    depth=depth,
    patch=14,
    grid=grid,
    classes=None,
    prefix="",
    names=("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
  )
  scales = [
    f"encoder.layer.{i}.layer_scale{j}.lambda1"
    for i in range(depth)
    for j in (1, 2)
  ]
  shapes["embeddings.mask_token"] = (1, width)
  return shapes | dict.fromkeys(scales, (width,))


SHAPES = {"authors": authors_shapes, "huggingface": huggingface_shapes}


# --- parity -----------------------------------------------------------------


def reference(folder, **sizes):
  """Returns transformers' module, and its weights as it writes them."""
  torch = pytest.importorskip("torch")
  from transformers import Dinov2Config, Dinov2Model

  torch.manual_seed(0)
  module = Dinov2Model(Dinov2Config(patch_size=14, **sizes)).eval()
  with torch.no_grad():  # activations stay near one, and all weights matter
    for weight in module.parameters():
      wide = weight.ndim > 1
      spread = weight[0].numel() ** -0.5 if wide else 0.5
      weight.copy_(torch.randn_like(weight) * spread + (0 if wide else 0.5))
  module.save_pretrained(folder)
  return module, read.read_weights(folder / "model.safetensors")


def relative_error(folder, *, size, n, **sizes):
  torch = pytest.importorskip("torch")
  module, weights = reference(folder, **sizes)
  variables, about = convert.from_released(weights)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(n, size, size, 3)).astype(np.float32)
  with torch.no_grad():
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    want = module(pixels).pooler_output.numpy()
  got = jax.jit(dinov2.make(**about["model"]).apply)(variables, images)
  return abs(got - want).max() / abs(want).max()


@pytest.mark.parametrize("size", [70, 56, 98])
def test_features_are_those_of_transformers(tmp_path, size):
  """With the positions as they are, fewer of them, and more."""
  error = relative_error(
    tmp_path,
    size=size,
    n=3,
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=70,
  )
  assert error < 1e-5


@pytest.mark.slow
def test_the_small_one_at_full_size_is_that_of_transformers(tmp_path):
  error = relative_error(
    tmp_path,
    size=224,
    n=2,
    hidden_size=384,
    num_hidden_layers=12,
    num_attention_heads=6,
    image_size=518,
  )
  assert error < 1e-5


@pytest.mark.parametrize(("old", "new"), [(37, 16), (5, 4)])
def test_the_authors_resize_positions_by_a_factor(old, new):
  """Their code adds 0.1 to the patches and gives PyTorch the factor."""
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  positions = rng.normal(size=(1, 1 + old * old, 6)).astype(np.float32)
  grid = torch.from_numpy(positions[:, 1:]).double().reshape(1, old, old, 6)
  factor = (new + 0.1) / old
  want = torch.nn.functional.interpolate(
    grid.permute(0, 3, 1, 2), scale_factor=(factor, factor), mode="bicubic"
  )
  want = want.permute(0, 2, 3, 1).reshape(1, -1, 6).numpy()
  got = vit.resize_positions(positions, old, new, offset=dinov2.OFFSET)
  np.testing.assert_allclose(got[:, 1:], want, atol=2e-6)
  plain = vit.resize_positions(positions, old, new)
  assert abs(got - plain).max() > 0.01


def test_pixels_are_normalised_as_imagenets():
  images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, -1)
  got = np.asarray(dinov2.preprocess(images))[:, 0, 0]
  np.testing.assert_allclose(got[0], [-2.1179, -2.0357, -1.8044], atol=1e-4)
  np.testing.assert_allclose(got[1], [2.2489, 2.4286, 2.6400], atol=1e-4)


def test_images_of_other_sizes_are_refused():
  model = dinov2.DINOv2(14, 128, 1, 2, 3)
  images = jax.ShapeDtypeStruct((1, 43, 42, 3), np.float32)
  with pytest.raises(UserError, match="patches of 14 px"):
    jax.eval_shape(model.init, jax.random.key(0), images)


# --- names ------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", convert.LAYOUTS)
def test_full_size_weights_are_used_up(layout, size):
  width, depth, heads = SIZES[size]
  shapes = SHAPES[layout](width=width, depth=depth)
  variables, about = convert.from_released(zeros(shapes))
  assert about["image_size"] == 518 and about["model"]["heads"] == heads
  assert about["model"]["offset"] == (0.1 if layout == "authors" else 0)
  leaves = jax.tree.leaves(variables)
  assert sum(leaf.size for leaf in leaves) == COUNTS[size]
  released = convert.to_released(variables, about, layout)
  assert {name: w.shape for name, w in released.items()} == shapes


@pytest.mark.parametrize("layout", convert.LAYOUTS)
def test_weights_come_back_as_they_were(layout, tmp_path):
  weights = random(SHAPES[layout](**SMALL))
  variables, about = convert.from_released(weights)
  files.save_params(tmp_path / "w.safetensors", variables, about)
  variables, read_back = files.load_params(tmp_path / "w.safetensors")
  assert read_back == about
  released = convert.to_released(variables, about, layout)
  assert released.keys() == weights.keys()
  for name, weight in weights.items():
    np.testing.assert_array_equal(released[name], weight)


def test_both_layouts_give_the_same_module_but_for_the_offset():
  variables, about = convert.from_released(random(authors_shapes(**SMALL)))
  other = convert.to_released(variables, about, "huggingface")
  again, same = convert.from_released(other)
  assert same["model"] == about["model"] | {"offset": 0.0}
  jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_unsupported_weights_are_refused():
  weights = random(authors_shapes(**SMALL))
  with pytest.raises(UserError, match="register_tokens: no rule takes it"):
    convert.from_released(weights | {"register_tokens": np.zeros((1, 4, 128))})
  giant = {k.replace("mlp.fc1", "mlp.w12"): w for k, w in weights.items()}
  with pytest.raises(UserError, match=r"giant one \(SwiGLU\)"):
    convert.from_released(giant)
  with pytest.raises(UserError, match="128 wide.*over 3 heads"):
    convert.from_released(weights, heads=3)
  with pytest.raises(UserError, match=r"\(1, 11, 128\)"):
    convert.from_released(weights | {"pos_embed": np.zeros((1, 11, 128))})
  variables, about = convert.from_released(weights)
  with pytest.raises(UserError, match="did you mean 'authors'"):
    convert.to_released(variables, about, "author")
