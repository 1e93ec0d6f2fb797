"""Changes of colour on the device, as torchvision makes them."""

import colorsys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noisy_pictures import picture, to_levels
from PIL import Image, ImageEnhance, ImageFilter

from synthjax.training import device_augment

rng = jax.random.key(0)

# In the order of the factors of `jitter`, before the hue.
ENHANCERS = (
  ImageEnhance.Brightness,
  ImageEnhance.Contrast,
  ImageEnhance.Color,
)


def change(image, which, factor, order=(0, 1, 2, 3)):
  """Makes one of the changes of `jitter` alone."""
  factors = [1.0, 1.0, 1.0, 0.0]
  factors[which] = factor
  return device_augment.jitter(image, jnp.array(order), factors)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("which", range(3))
def test_enhancements_are_those_of_pillow_to_a_level(which, factor):
  image = picture()
  want = ENHANCERS[which](Image.fromarray(image)).enhance(factor)
  got = change(jnp.asarray(image / 255), which, factor)
  assert np.abs(to_levels(got) - np.asarray(want)).max() <= 1


def test_grayscale_is_that_of_pillow():
  image = picture()
  want = np.asarray(Image.fromarray(image).convert("L"))
  got = device_augment.grayscale(jnp.asarray(image / 255))
  assert np.abs(to_levels(got) - want[..., None]).max() <= 1


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.4])
def test_hue_turns_as_in_hsv(shift):
  image = picture(6, 5) / 255
  image[0, 0] = 0.5  # gray has no hue

  def turn(pixel):
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((h + shift) % 1, s, v)

  want = np.apply_along_axis(lambda p: np.array(turn(p)), -1, image)
  got = device_augment.hue(jnp.asarray(image), shift)
  np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_jitter_makes_its_changes_in_the_given_order(order):
  factors = (1.3, 0.7, 1.4, -0.08)
  image = jnp.asarray(picture() / 255)
  want = image
  for which in order:
    want = change(want, which, factors[which])
  got = device_augment.jitter(image, jnp.array(order), factors)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_jitter_draws_its_factors_from_their_ranges():
  """A gray image shows the factor of brightness, when that is all there is."""
  image = jnp.full((1, 1, 3), 0.5)
  jitter = partial(
    device_augment.color_jitter, contrast=0.0, saturation=0.0, hue=0.0
  )
  keys = jax.random.split(rng, 500)
  jittered = jax.vmap(lambda k: jitter(image, k, brightness=0.4))(keys)
  factors = np.asarray(jittered)[:, 0, 0, 0] / 0.5
  assert 0.6 <= factors.min() < 0.63 and 1.37 < factors.max() <= 1.4
  assert abs(factors.mean() - 1) < 0.03


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_the_blur_is_gaussian_and_near_that_of_pillow(sigma):
  spot = np.zeros((21, 21, 3), np.float32)
  spot[10, 10] = 1
  got = np.asarray(device_augment.gaussian_blur(jnp.asarray(spot), sigma))[
    ..., 0
  ]
  offsets = np.arange(-10, 11)
  line = np.exp(-(offsets**2) / (2 * sigma**2)) * (np.abs(offsets) <= 6)
  line /= line.sum()
  np.testing.assert_allclose(got, np.outer(line, line), atol=1e-6)
  assert abs(got.sum() - 1) < 1e-5

  image = picture(32, 32)
  want = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
  got = device_augment.gaussian_blur(
    jnp.asarray(image / 255, jnp.float32), sigma
  )
  error = np.abs(to_levels(got) - np.asarray(want))
  print(f"sigma {sigma}: mean {error.mean():.2f}, largest {error.max()} levels")
  assert error.mean() < 0.7 and error.max() <= 4  # it sums three boxes
