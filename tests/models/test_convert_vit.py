"""Released ViTs: every name and shape of the layouts, and what is wrong."""

import jax
import numpy as np
import pytest
from plain_weights import random, zeros
from vit_keys import SHAPES, huggingface_shapes, timm_shapes

from synthjax.models.classifiers import backbone, make_classifier
from synthjax.models.vit import weights as vit_weights
from synthjax.models.vit.model import resize_positions
from synthjax.runtime.errors import UserError
from synthjax.weights import files

DEIT_S = dict(width=384, depth=12, patch=16, grid=14, classes=1000)
SMALL = dict(width=128, depth=2, patch=4, grid=3, classes=5)


@pytest.mark.parametrize(
  ("layout", "entries"), [("timm", 152), ("huggingface", 200)]
)
def test_full_size_weights_are_used_up(layout, entries):
  shapes = SHAPES[layout](**DEIT_S)
  assert len(shapes) == entries
  variables, description = vit_weights.from_released(zeros(shapes))
  assert description == {
    "kind": "classifier",
    "model": {"name": "deit_s"},
    "image_size": 224,
    "num_classes": 1000,
  }
  leaves = jax.tree.leaves(variables)
  assert sum(leaf.size for leaf in leaves) == 22_050_664
  released = vit_weights.to_released(variables, description, layout)
  assert {name: w.shape for name, w in released.items()} == shapes


@pytest.mark.parametrize("layout", vit_weights.LAYOUTS)
@pytest.mark.parametrize("classes", [5, None])
def test_weights_come_back_as_they_were(layout, classes, tmp_path):
  more = {"prefix": ""} if layout == "huggingface" and not classes else {}
  weights = random(SHAPES[layout](**SMALL | dict(classes=classes), **more))
  variables, description = vit_weights.from_released(weights)
  # Through a file, as it is stored.
  files.save_params(tmp_path / "w.safetensors", variables, description)
  variables, read = files.load_params(tmp_path / "w.safetensors")
  assert read == description
  released = vit_weights.to_released(variables, description, layout)
  assert released.keys() == weights.keys()
  for name, weight in weights.items():
    np.testing.assert_array_equal(released[name], weight)


def test_both_layouts_give_the_same_module():
  """q, k and v of one layout are the thirds of the other's matrix."""
  weights = random(timm_shapes(**SMALL))
  variables, description = vit_weights.from_released(weights)
  other = vit_weights.to_released(variables, description, "huggingface")
  layer = "vit.encoder.layer.1.attention.attention"
  for k, part in enumerate(("query", "key", "value")):
    np.testing.assert_array_equal(
      other[f"{layer}.{part}.weight"],
      weights["blocks.1.attn.qkv.weight"][128 * k : 128 * (k + 1)],
    )
  again, same = vit_weights.from_released(other)
  assert same == description
  jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_the_pooler_is_dropped_and_the_prefix_may_be_missing():
  shapes = huggingface_shapes(**SMALL | dict(classes=None), prefix="")
  shapes |= {"pooler.dense.weight": (128, 128), "pooler.dense.bias": (128,)}
  variables, description = vit_weights.from_released(random(shapes))
  assert description["num_classes"] is None
  assert variables["params"].keys() == {
    *("cls_token", "pos_embed", "patch_embed", "blocks_0", "blocks_1", "norm")
  }


def test_the_description_rebuilds_the_module():
  weights = random(timm_shapes(**SMALL, hidden=192))
  variables, description = vit_weights.from_released(weights)
  assert description["model"] == {
    "name": "vit_tiny",
    "depth": 2,
    "mlp_ratio": 1.5,
  }
  assert description["image_size"] == 12
  model = make_classifier(num_classes=5, **description["model"])
  images = np.zeros((2, 12, 12, 3), np.float32)
  assert jax.eval_shape(model.apply, variables, images).shape == (2, 5)


def test_heads_are_those_of_deit_unless_given():
  weights = zeros(timm_shapes(**SMALL | dict(width=192)))

  def heads_of(**given):
    _, description = vit_weights.from_released(weights, **given)
    return make_classifier(num_classes=5, **description["model"]).heads

  assert heads_of() == 3
  assert heads_of(heads=6) == 6
  with pytest.raises(UserError, match="192 wide.*over 5 heads"):
    heads_of(heads=5)
  narrow = zeros(timm_shapes(**SMALL | dict(width=32)))
  with pytest.raises(UserError, match="32 wide.*give from_released the heads"):
    vit_weights.from_released(narrow)


def test_a_released_vit_starts_one_for_other_classes_and_another_size():
  variables, description = vit_weights.from_released(
    random(timm_shapes(**SMALL))
  )
  params = resize_positions(backbone(variables)["params"], 3, 5)
  model = make_classifier(num_classes=None, **description["model"])
  images = jax.ShapeDtypeStruct((1, 20, 20, 3), np.float32)
  want = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  shape = lambda leaf: leaf.shape
  assert jax.tree.map(shape, params) == jax.tree.map(shape, dict(want))


def test_all_that_does_not_fit_is_in_one_error():
  weights = random(timm_shapes(**SMALL))
  weights["blocks.0.ls1.gamma"] = np.zeros(128)
  weights["blocks.1.attn.proj.weight"] = np.zeros((128, 64))
  del weights["blocks.1.norm1.bias"]
  with pytest.raises(UserError) as error:
    vit_weights.from_released(weights)
  for words in (
    "blocks.0.ls1.gamma: no rule takes it",
    "params/blocks_1/attn/proj/kernel: weights have (64, 128), the model",
    "params/blocks_1/norm1/bias: weights have None",
  ):
    assert words in str(error.value)


def test_a_query_without_its_key_is_found():
  weights = random(huggingface_shapes(**SMALL))
  del weights["vit.encoder.layer.0.attention.attention.key.weight"]
  with pytest.raises(UserError) as error:
    vit_weights.from_released(weights)
  assert "attention.query.weight: no rule takes it" in str(error.value)
  assert "blocks_0/attn/qkv/kernel: weights have None" in str(error.value)


def test_other_weights_are_refused_with_the_expected_names():
  with pytest.raises(UserError, match=r"pos_embed.*Names found: model\..*"):
    vit_weights.from_released({"model": {}})
  with pytest.raises(UserError, match="none at all"):
    vit_weights.from_released({})
  distilled = random(timm_shapes(**SMALL))
  distilled["pos_embed"] = np.zeros((1, 11, 128))
  with pytest.raises(UserError, match=r"\(1, 11, 128\).*distillation token"):
    vit_weights.from_released(distilled)
  variables, description = vit_weights.from_released(
    random(timm_shapes(**SMALL))
  )
  with pytest.raises(UserError, match="did you mean 'timm'"):
    vit_weights.to_released(variables, description, "tim")
