"""Encoders without texts: pixels, batches, and what is refused."""

import jax
import numpy as np
import pytest
import tiny_encoders
import tiny_world
from PIL import Image

from synthjax import encoders
from synthjax.encoders import resize
from synthjax.models.dinov2 import model as dinov2
from synthjax.models.inception import model as inception
from synthjax.runtime.errors import UserError
from synthjax.weights import files


def images_of(n, *size, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (n, *size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_encoders.write_dinov2(
    tmp_path_factory.mktemp("dinov2") / "a.safetensors"
  )


def test_dinov2s_features_are_those_of_the_model(weights):
  """Of the middle 32 px of the 37 that 16 patches of 2 px are cut from."""
  encoder = encoders.load_image_encoder(weights, field="x", batch_size=4)
  images = images_of(6, 50, 60)
  got = encoder.encode_images(images)
  assert got.shape == (6, 16) and got.dtype == np.float32
  variables, about = files.load_params(weights)
  fitted = np.stack([resize.fit_image(x, 37, 32) for x in images])
  want = dinov2.make(**about["model"]).apply(
    variables, dinov2.preprocess(fitted)
  )
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert encoder.encode_images(images[:0]).shape == (0, 16)
  mixed = [images[0], images_of(1, 32, 32)[0]]
  np.testing.assert_allclose(
    encoder.encode_images(mixed)[0], got[0], rtol=1e-4, atol=1e-5
  )
  check_reduced(encoder)


@pytest.mark.parametrize("where", ["host", "device"])
def test_clips_features_are_those_of_images_reduced_on_reading(tmp_path, where):
  block = tiny_world.encoder_block(tiny_world.write_clip(tmp_path / "c"))
  check_reduced(encoders.load_encoder(**block | {"resize": where}))


def check_reduced(encoder):
  """Large images that are reduced one by one have the very same features."""
  photos = [*images_of(3, 600, 700), *images_of(2, 40, 30), *images_of(2, 9, 9)]
  reduced = [encoder.fit(image) for image in photos]
  sizes = [np.size(getattr(image, "pixels", image)) for image in reduced]
  assert max(sizes) <= 299 * 299 * 3
  np.testing.assert_array_equal(
    encoder.encode_images(reduced), encoder.encode_images(photos)
  )


@pytest.mark.parametrize("size", [(256, 256), (300, 400), (40, 30)])
def test_the_crop_is_that_of_torchvisions_transforms(size):
  """Resize(256, bicubic) and CenterCrop(224), as their arithmetic has it."""
  (image,) = images_of(1, *size)
  height, width = size
  short = min(size)
  height, width = int(256 * height / short), int(256 * width / short)
  whole = Image.fromarray(image).resize((width, size[0]), Image.BICUBIC)
  whole = np.asarray(whole.resize((width, height), Image.BICUBIC))
  top, left = round((height - 224) / 2), round((width - 224) / 2)
  np.testing.assert_array_equal(
    resize.fit_image(image, 256, 224),
    whole[top : top + 224, left : left + 224],
  )


def test_inceptions_features_are_those_of_the_model(tmp_path):
  """Of whole images that are stretched to 299 px in floats."""
  weights = tiny_encoders.write_inception(tmp_path / "a.safetensors")
  encoder = encoders.load_image_encoder(weights, field="x", batch_size=2)
  images = [*images_of(2, 64, 64), *images_of(1, 300, 200, seed=1)]
  got = encoder.encode_images(images)
  assert got.shape == (3, 128) and got.dtype == np.float32
  variables, about = files.load_params(weights)
  model = inception.make(**about["model"])
  pixels = np.stack([resize.stretch_image(x, 299) for x in images])
  want = jax.jit(model.apply)(variables, (pixels - 128) / 128)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  assert abs(got[0] - got[1]).max() > 0.01
  assert "clean-fid" in encoder.identity["pixels"]
  check_reduced(encoder)


def test_weights_of_another_kind_are_refused(tmp_path, monkeypatch):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  path = tiny_world.write_clip(tmp_path / "clip.safetensors")
  with pytest.raises(UserError, match=r"config\.card\.x.*'clip'.*inception"):
    encoders.check_image_encoder(path, field="card.x")
  with pytest.raises(UserError, match="fetch dinov2_vits14"):
    encoders.check_image_encoder("released:dinov2_vits14", field="card.x")
