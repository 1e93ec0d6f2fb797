"""Augmentation on the device, beside Pillow and torchvision's formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noisy_pictures import picture

from synthjax.models.pixels import MEAN, STD
from synthjax.runtime.errors import UserError
from synthjax.training import device_augment

rng = jax.random.key(0)


# --- recipes ----------------------------------------------------------------


@pytest.mark.parametrize("name", device_augment.AUGMENTS)
def test_recipes_keep_the_shape_and_normalise(name):
  images = np.stack([picture(16, 16, seed) for seed in range(4)])
  augment = device_augment.make_augment(name)
  augmented = jax.jit(augment)(images, rng)
  assert augmented.shape == images.shape
  if name == "none":
    np.testing.assert_array_equal(augmented, images)
    return
  assert augmented.dtype == jnp.float32
  assert np.isfinite(augmented).all()
  if name in ("moco_v2", "crop_flip"):  # erasing has pixels of any value
    low, high = -np.array(MEAN) / STD, (1 - np.array(MEAN)) / STD
    assert (augmented > low - 1e-4).all() and (augmented < high + 1e-4).all()


@pytest.mark.parametrize("name", ["moco_v2", "deit"])
def test_an_image_depends_on_the_key_and_its_place_alone(name):
  images = np.stack([picture(16, 16, seed) for seed in range(4)])
  augment = jax.jit(device_augment.make_augment(name))
  four, again = augment(images, rng), augment(images, rng)
  np.testing.assert_array_equal(four, again)
  two = augment(images[:2], rng)  # another batch size
  np.testing.assert_allclose(two, four[:2], atol=1e-5)
  other = augment(images, jax.random.key(1))
  assert np.abs(np.asarray(other) - np.asarray(four)).max() > 0.1
  same = augment(np.broadcast_to(images[:1], images.shape), rng)
  assert all(np.abs(same[i] - same[0]).max() > 0.1 for i in (1, 2, 3))


def test_moco_turns_a_fifth_of_the_images_gray():
  images = np.broadcast_to(picture(8, 8), (600, 8, 8, 3))
  augmented = jax.jit(device_augment.make_augment("moco_v2"))(images, rng)
  pixels = np.asarray(augmented) * STD + MEAN
  gray = np.ptp(pixels, axis=-1).max((1, 2)) < 1e-4
  assert 0.14 < gray.mean() < 0.26


def test_a_flip_alone_mirrors_half_of_the_images():
  images = np.broadcast_to(picture(8, 8), (200, 8, 8, 3))
  flipped = np.asarray(
    device_augment.augment([device_augment.flip], images, rng)
  )
  mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
  same = (flipped == images).all((1, 2, 3))
  assert np.all(mirrored ^ same) and 70 < mirrored.sum() < 130


def test_crops_show_rectangles_of_the_stated_area():
  """Of an image whose channels are the coordinates, crops tell where from."""
  side = 64
  y, x = np.mgrid[:side, :side] + 0.5
  image = np.stack([y, x, 0 * x], -1).astype(np.float32)
  crop = partial(
    device_augment.random_resized_crop, image_size=16, scale=(0.2, 1.0)
  )
  keys = jax.random.split(rng, 200)
  crops = np.asarray(jax.vmap(lambda key: crop(image, key))(keys))
  assert crops.shape == (200, 16, 16, 3)
  # Between the middle of the upper half and that of the lower lies a half.
  height = 2 * (crops[:, 12, 8, 0] - crops[:, 4, 8, 0])
  width = 2 * (crops[:, 8, 12, 1] - crops[:, 8, 4, 1])
  share = height * width / side**2
  assert 0.18 < share.min() < 0.3 and 0.9 < share.max() < 1.01
  ratio = width / height
  assert ratio.min() > 0.72 and ratio.max() < 1.38
  assert crops.min() >= 0 and crops.max() <= side
  tops = crops[:, 8, 8, 0] - height / 2
  assert np.std(tops) > 5  # everywhere


def test_a_crop_of_the_whole_image_is_the_image():
  image = picture(16, 16)
  same = device_augment.random_resized_crop(
    image, rng, scale=(1.0, 1.0), ratio=(1.0, 1.0)
  )
  np.testing.assert_array_equal(same, image)


def test_unknown_recipes_name_the_known_ones():
  with pytest.raises(UserError, match="did you mean 'moco_v2'"):
    device_augment.make_augment("moco_v3")
  with pytest.raises(UserError, match="with a crop"):
    device_augment.make_augment("none", crop=True)
