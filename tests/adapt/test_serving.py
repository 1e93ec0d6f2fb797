"""Networks in one file: the same logits as where they come from."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip

from synthjax.adapt import classifier, serving
from synthjax.adapt.encoder_tuning import Tower
from synthjax.adapt.linear_head import Head
from synthjax.encoders import Network
from synthjax.models.classifiers import make_classifier
from synthjax.models.clip import model as clip
from synthjax.runtime.errors import UserError

pytest.importorskip("flatbuffers")  # of the extra `serving`

WEIGHT = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def network(function=None):
  function = function or (
    lambda variables, x: x.astype(jnp.float32).mean((1, 2)) @ variables["w"]
  )
  about = {"classes": ["a", "b"], "kind": "test"}
  return Network(function, {"w": WEIGHT}, 4, np.asarray, about)


def test_a_stablehlo_file_takes_any_number_of_images(tmp_path):
  written = serving.write(tmp_path, network(), ["stablehlo", "safetensors"])
  assert written["classifier.stablehlo"] < 1e-3
  assert written["classifier.safetensors"] is None
  served = serving.read(tmp_path / "classifier.stablehlo")
  for n in (1, 5):
    images = np.random.default_rng(n).integers(0, 256, (n, 4, 4, 3))
    images = images.astype(np.uint8)
    np.testing.assert_allclose(
      served(images), images.mean((1, 2)) @ WEIGHT, rtol=1e-4, atol=1e-4
    )
  about = json.loads((tmp_path / "config.json").read_text())
  assert about["classes"] == ["a", "b"] and about["image_size"] == 4
  assert about["input"]["shape"] == ["n", 4, 4, 3]


def test_a_file_of_other_logits_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(
    serving, "_with_weights", lambda network: lambda x: x.mean((1, 2))[:, :2]
  )
  with pytest.raises(UserError, match="do not serve this file"):
    serving.write(tmp_path, network(), ["stablehlo"])
  with pytest.raises(UserError, match="did you mean 'onnx'"):
    serving.write(tmp_path, network(), ["onx"])


def tuned_clip(folder, *, tower):
  """Writes an image tower and its head; returns its classifier."""
  sizes = dict(
    embed_dim=16,
    image_size=32,
    patch_size=8 if tower == "vit" else None,
    vision_width=16 if tower == "vit" else 4,
    vision_layers=2 if tower == "vit" else (1, 1, 1, 1),
    vision_heads=2,
    image_tower=tower,
    context_length=12,
    vocab_size=64,
    text_width=16,
    text_layers=1,
    text_heads=2,
  )
  variables = tiny_clip.fill(tiny_clip.shapes(clip.CLIP(**sizes)))
  tower_of = {name: value["visual"] for name, value in variables.items()}
  rng = np.random.default_rng(1)
  head = Head(
    100 * rng.normal(size=(3, 16)).astype(np.float32), np.zeros(3, np.float32)
  )
  known = Tower(None, tower_of, 32, fields=sizes)
  classifier.save_tuned(
    folder / "a.safetensors", known, tower_of, head, ["a", "b", "c"]
  )
  return classifier.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_onnx_and_stablehlo_have_the_logits_of_the_network(
  tower, tmp_path, caplog
):
  pytest.importorskip("jax2onnx")
  known = tuned_clip(tmp_path, tower=tower)
  out = tmp_path / "served"
  serving.write(out, known.network, ["stablehlo", "onnx", "safetensors"])
  assert not [r for r in caplog.records if r.name.startswith("onnx")]
  images = np.random.default_rng(2).integers(0, 256, (5, 32, 32, 3))
  images = images.astype(np.uint8)
  want = np.asarray(known.network.function(known.network.variables, images))
  for name in ("stablehlo", "onnx"):
    logits = np.asarray(serving.read(out / f"classifier.{name}")(images))
    np.testing.assert_allclose(logits, want, atol=1e-4)
    np.testing.assert_allclose(
      jax.nn.softmax(logits), known.classify(images), atol=1e-4
    )
  # What is exported is read as what a task has left.
  np.testing.assert_array_equal(
    classifier.load(out).classify(images), known.classify(images)
  )


def test_max_pooling_by_slices_is_that_of_jax():
  x = np.random.default_rng(0).normal(size=(2, 7, 8, 3)).astype(np.float32)
  pool = lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 2)))
  traced = jax.make_jaxpr(lambda x: pool(x) + 1)(x)
  (ours,) = serving._evaluate(traced.jaxpr, traced.consts, x)
  np.testing.assert_array_equal(ours, pool(x) + 1)
  names = str(
    jax.make_jaxpr(lambda x: serving._evaluate(traced.jaxpr, traced.consts, x))(
      x
    )
  )
  assert "reduce_window" in str(traced) and "reduce_window" not in names


@pytest.mark.slow
def test_onnx_has_the_logits_of_a_resnet_with_a_max_pool(tmp_path):
  pytest.importorskip("jax2onnx")
  model = make_classifier(name="resnet_tiny", stem="imagenet", num_classes=3)
  images = np.random.default_rng(2).integers(0, 256, (5, 32, 32, 3))
  images = images.astype(np.uint8)
  apply = lambda v, x: model.apply(v, x.astype(np.float32) / 255, train=False)
  variables = model.init(jax.random.key(0), images / 255.0, train=False)
  # The last norm of a block starts with 0, which would hide the rest.
  variables = jax.tree.map(lambda x: np.asarray(x) + 0.1, variables)
  network = Network(apply, variables, 32, np.asarray, {"kind": "classifier"})
  serving.write(tmp_path, network, ["onnx"])
  logits = np.asarray(serving.read(tmp_path / "classifier.onnx")(images))
  want = np.asarray(apply(variables, images))
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)
  assert np.ptp(want, axis=0).max() > 1e-3
