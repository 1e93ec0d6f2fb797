"""CLIP's resize on the host and on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from synthjax.encoders import resize
from synthjax.models.clip import model as clip

on_device = jax.jit(resize.fit_images, static_argnums=1)


def noise(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
  y, x = np.mgrid[:height, :width] / 40
  waves = [np.sin(x + y), np.cos(2 * x), np.sin(y * x)]
  return (127.5 * (1 + np.stack(waves, -1))).astype(np.uint8)


@pytest.mark.parametrize(
  ("height", "width", "size"),
  [
    (256, 256, 224),  # what GLIDE draws
    (64, 64, 224),  # EuroSAT
    (32, 32, 224),
    (375, 500, 224),
    (333, 251, 224),
    (1000, 300, 97),
    (96, 33, 32),
    (7, 5, 3),
    (224, 300, 224),  # one axis is only cropped
  ],
)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_the_device_resizes_as_pillow_does(height, width, size, kind):
  image = noise(height, width, 3) if kind == "noise" else smooth(height, width)
  want = resize.fit_image(image, size)
  got = on_device(image[None], size)
  assert got.shape == (1, size, size, 3) and got.dtype == jnp.uint8
  np.testing.assert_array_equal(got[0], want)


def rounded(x, bits):
  """Rounds to so many significant bits, as devices do to float32 factors."""
  fraction, exponent = np.frexp(x)
  return np.ldexp(np.round(np.ldexp(fraction, bits)), exponent - bits)


@pytest.mark.parametrize(
  "lengths",
  [(256, 224), (64, 224), (32, 224), (500, 224), (333, 251), (4000, 224)],
)
def test_shorter_factors_of_products_change_no_pixel(lengths):
  """TF32 keeps 11 bits; two numbers of bfloat16 keep 8 each."""
  pixels = np.arange(256)
  np.testing.assert_array_equal(rounded(pixels, 8), pixels)
  matrix = resize.bicubic_matrix(*lengths)
  for half in resize._halves(matrix):
    np.testing.assert_array_equal(rounded(half, 11), half)  # TF32
    coarse = rounded(half, 8)
    np.testing.assert_array_equal(rounded(half - coarse, 8), half - coarse)
    # Whole numbers below 2^24 are exact in float32, in whatever order.
    assert 255 * np.abs(half).sum(1).max() < 2**24
  high, low = resize._halves(matrix)
  np.testing.assert_array_equal((high << resize._HALF) + low, matrix)


@pytest.mark.parametrize("lengths", [(60, 23), (23, 60)])
def test_the_weights_of_a_row_are_pillows(lengths):
  """An image of one bright column shows the weights themselves."""
  matrix = resize.bicubic_matrix(*lengths) / 2**22
  np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
  for column in (0, 1, 11, 21, 22):
    image = np.zeros((1, lengths[0]), np.float32)
    image[0, column] = 1
    resized = Image.fromarray(image).resize(
      (lengths[1], 1), Image.Resampling.BICUBIC
    )
    np.testing.assert_allclose(
      matrix[:, column], np.asarray(resized)[0], atol=2e-7
    )


def test_images_of_the_right_size_are_not_touched():
  size = 32
  images = noise(2, size, size, 3)
  assert np.shares_memory(resize.fit_image(images[0], size), images)
  np.testing.assert_array_equal(on_device(images, size), images)


@pytest.mark.golden
@pytest.mark.parametrize("where", ["host", "device"])
def test_pixels_equal_those_of_the_reference(golden, where):
  recorded = golden("clip_preprocess")
  names = [key for key in recorded if key.startswith("in/image_")]
  assert names
  for name in names:
    want = recorded[name.replace("in/image", "out/pixels")]
    if where == "host":
      fit = resize.fit_image(recorded[name], len(want))
    else:
      fit = on_device(recorded[name][None], len(want))[0]
    got = np.asarray(clip.preprocess(jnp.asarray(fit)))
    tolerance = 1e-6 if want.dtype == np.float32 else 1e-3
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
  "images",
  [
    np.zeros((1, 32, 32, 3), np.float32),
    np.zeros((1, 32, 32), np.uint8),
    np.zeros((1, 32, 32, 4), np.uint8),
  ],
)
def test_what_is_no_colour_image_is_refused(images):
  with pytest.raises(ValueError, match="needed uint8"):
    resize.fit_images(images, 16)
  with pytest.raises(ValueError, match="needed uint8"):
    resize.fit_image(images[0], 16)


def cleanfids_pixels(image, size):
  """What clean-fid's mode "clean" does to an image, channel by channel."""
  channels = [
    Image.fromarray(np.asarray(image[..., i], np.float32)) for i in range(3)
  ]
  assert channels[0].mode == "F"
  resized = [x.resize((size, size), Image.BICUBIC) for x in channels]
  return np.stack([np.asarray(x).clip(0, 255) for x in resized], axis=2)


@pytest.mark.parametrize(
  ("height", "width", "size"),
  [(64, 64, 299), (256, 256, 299), (375, 500, 299), (299, 299, 299), (9, 4, 5)],
)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_images_are_stretched_as_clean_fid_does(height, width, size, kind):
  image = noise(height, width, 3) if kind == "noise" else smooth(height, width)
  want = cleanfids_pixels(image, size)
  got = resize.stretch_image(image, size)
  assert got.shape == (size, size, 3) and got.dtype == np.float32
  np.testing.assert_array_equal(got, want)
  of_device = jax.jit(resize.stretch_images, static_argnums=1)(
    image[None], size
  )
  assert of_device.shape == (1, size, size, 3)
  assert of_device.dtype == np.float32
  np.testing.assert_allclose(of_device[0], want, atol=2e-4)
  # What was stretched already stays as it is.
  again = resize.stretch_images(got[None], size)
  np.testing.assert_array_equal(again[0], got)


def test_stretched_pixels_are_clipped_and_not_rounded():
  image = np.zeros((8, 8, 3), np.uint8)
  image[:, 4:] = 255
  got = resize.stretch_image(image, 32)
  assert got.min() == 0 and got.max() == 255  # which the cubic overshoots
  assert (got != np.round(got)).mean() > 0.1
  with pytest.raises(ValueError, match="float32"):
    resize.stretch_image(image.astype(np.float32), 32)
