"""SigLIP 2 as an encoder: from released files to features and probabilities."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from synthjax import encoders
from synthjax.adapt import classifier, encoder_tuning
from synthjax.adapt.linear_head import Head, logits_fn
from synthjax.encoders import resize
from synthjax.main import load_config
from synthjax.models.siglip import model as siglip
from synthjax.models.siglip.weights import to_released
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import gemma

FIELDS = dict(
  image_size=32,
  patch_size=16,
  vision_width=24,
  vision_layers=1,
  vision_heads=2,
  vision_mlp_width=40,
  context_length=12,
  vocab_size=400,
  text_width=24,
  text_layers=1,
  text_heads=3,
  text_mlp_width=40,
)
SETTINGS = {
  "model_type": "siglip",
  "vision_config": {"image_size": 32, "num_attention_heads": 2},
  "text_config": {"num_attention_heads": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder as the hub has it: config, weights, tokenizer."""
  from safetensors.numpy import save_file

  transformers = pytest.importorskip("transformers")
  folder = tmp_path_factory.mktemp("siglip")
  model = siglip.SigLIP(**FIELDS)
  variables = model.init(
    jax.random.key(0), np.zeros((1, 32, 32, 3)), np.zeros((1, 12), int)
  )
  released = to_released(variables, {})
  released = {k: np.ascontiguousarray(v) for k, v in released.items()}
  save_file(released, folder / "model.safetensors")
  np.savez(folder / "model.npz", **released)  # under these names, too
  (folder / "config.json").write_text(json.dumps(SETTINGS))
  tokens = [*gemma.SPECIAL, "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
  vocabulary = {token: i for i, token in enumerate(tokens)}
  theirs = transformers.Siglip2Tokenizer(vocabulary, [])
  theirs.backend_tokenizer.save(str(folder / "tokenizer.json"))
  return folder, model, variables


def load(folder, **more):
  fields = dict(name="siglip", weights=str(folder), batch_size=4) | more
  return encoders.load_encoder(**fields)


def images_of(*shape):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, shape, np.uint8)


def test_nothing_ends_in_a_projection(folder):
  assert load(folder[0]).unprojected is None


def test_a_folder_of_the_hub_gives_the_features_of_the_model(folder):
  path, model, variables = folder
  encoder, texts = load(path), ["A red apple", "a bird"]
  images = images_of(3, 20, 50, 3)  # wide: they are squeezed, not cropped
  small = [
    np.asarray(Image.fromarray(x).resize((32, 20), 2).resize((32, 32), 2))
    for x in images
  ]
  pixels = np.stack(small).astype(np.float32) / 127.5 - 1
  tokens = gemma.load(path / "tokenizer.json").siglip_tokens(texts, 12)
  for got, want in (
    (
      encoder.encode_images(images),
      model.apply(variables, pixels, method="encode_image"),
    ),
    (
      encoder.encode_texts(texts),
      model.apply(variables, tokens, method="encode_text"),
    ),
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert encoder.logit_scale == pytest.approx(10)
  same = load(path, weights=str(path / "model.npz"))
  np.testing.assert_array_equal(
    same.encode_texts(texts), encoder.encode_texts(texts)
  )


def test_the_device_squeezes_images_as_the_host_does(folder):
  here, there = (load(folder[0], resize=where) for where in ("host", "device"))
  images = images_of(2, 20, 50, 3)
  np.testing.assert_array_equal(
    here.encode_images(images), there.encode_images(images)
  )
  assert here.identity == there.identity


@pytest.mark.parametrize(
  ("height", "width", "size"), [(375, 500, 224), (64, 64, 224), (7, 300, 32)]
)
def test_a_square_has_pillows_pixels(height, width, size):
  image = images_of(height, width, 3)
  want = resize.square_image(image, size)
  got = jax.jit(resize.square_images, static_argnums=1)(image[None], size)
  assert want.shape == (size, size, 3)
  np.testing.assert_array_equal(got[0], want)
  float_image = np.asarray(
    Image.fromarray(image[..., 0]).convert("F").resize((size, size), 2)
  )
  assert np.abs(want[..., 0] - float_image).max() <= 1  # it rounds twice


def test_its_image_tower_is_tuned_and_served(folder, tmp_path):
  encoder, images = load(folder[0]), images_of(3, 20, 50, 3)
  want = encoder.encode_images(images)
  tower = encoder_tuning.load_tower(str(folder[0]))
  small = np.stack([tower.family.fit_image(x, 32) for x in images])
  features, _ = encoder_tuning.encode(tower, tower.variables, small, False)
  np.testing.assert_allclose(features, want, rtol=1e-4, atol=1e-5)
  network = encoder.network
  served = network.function(network.variables, small)
  np.testing.assert_allclose(served, want, rtol=1e-4, atol=1e-5)

  head = Head(np.eye(3, 24, dtype=np.float32), np.zeros(3, np.float32))
  path = tmp_path / "a.safetensors"
  classifier.save_tuned(path, tower, tower.variables, head, ["a", "b", "c"])
  known = classifier.load(tmp_path)
  np.testing.assert_allclose(
    known.classify(images), jax.nn.softmax(logits_fn(head, want)), rtol=1e-4
  )


def test_what_does_not_belong_to_it_is_refused(folder, tmp_path):
  with pytest.raises(UserError, match="weights of 'clip'"):
    load("embedded:clip.safetensors", tokenizer=str(folder[0]))
  with pytest.raises(UserError, match="tokenizer"):
    load(folder[0], tokenizer=str(tmp_path / "none.json"))
  with pytest.raises(UserError, match="belongs to another model"):
    load(folder[0], tokenizer="embedded:tokenizer.json")


def test_published_ones_are_named_alone():
  with pytest.raises(UserError, match="fetch siglip2_vit_b16"):
    encoders.check_encoder("siglip2_vit_b16")
  block = load_config("configs/own_labels.py:encoder=siglip2_vit_b16").encoder
  assert block.weights == "released:siglip2_vit_b16/siglip.safetensors"
