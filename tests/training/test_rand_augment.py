"""RandAugment on the device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noisy_pictures import picture
from PIL import Image, ImageEnhance, ImageOps

from synthjax.training import device_augment, rand_augment

rng = jax.random.key(0)


def apply(image, name, level, sign=1.0):
  """Applies an operation of RandAugment to a uint8 image [h, w, 3]."""
  index = rand_augment.OPERATIONS.index(name)
  return np.asarray(_apply(image, index, level, sign)).astype(int)


_apply = jax.jit(rand_augment.apply)


def pillow(image, name, level, sign):
  """Applies one of timm's operations of increasing severity with Pillow."""
  image = Image.fromarray(image)
  share = level / 10
  factor = max(0.1, 1 + 0.9 * share * sign)
  bits = 4 - int(share * 4)
  values = np.arange(256)
  added = np.where(
    values < 128, np.minimum(255, values + int(share * 110)), values
  )
  operations = {
    "auto_contrast": lambda: ImageOps.autocontrast(image),
    "equalize": lambda: ImageOps.equalize(image),
    "invert": lambda: ImageOps.invert(image),
    # Pillow refuses to keep 0 bits since version 12; before, that was black.
    "posterize": lambda: (
      ImageOps.posterize(image, bits) if bits else image.point(lambda _: 0)
    ),
    "solarize": lambda: ImageOps.solarize(image, 256 - int(share * 256)),
    "solarize_add": lambda: image.point(list(added) * 3),
    "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
    "color": lambda: ImageEnhance.Color(image).enhance(factor),
    "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
  }
  return np.asarray(operations[name]()).astype(int)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", [0.0, 5.3, 9.0, 10.0])
@pytest.mark.parametrize("name", rand_augment.OPERATIONS[:10])
def test_operations_on_colours_are_those_of_pillow(name, level, sign):
  image = picture() // 2 + 30  # so that there is contrast to gain
  want = pillow(image, name, level, sign)
  error = np.abs(apply(image, name, level, sign) - want)
  # Where float32 and float64 fall on two sides of a whole number.
  assert error.max() <= 1 and (error > 0).mean() < 0.05
  if level == 9 and name not in ("color",):
    assert np.abs(want - image.astype(int)).mean() > 1


def test_flat_images_survive_the_tables():
  image = np.full((8, 8, 3), 77, np.uint8)
  for name in ("auto_contrast", "equalize"):
    np.testing.assert_array_equal(apply(image, name, 9.0), image)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", rand_augment.OPERATIONS[10:])
def test_warps_are_the_bilinear_ones_of_pillow(name, sign):
  image, level = picture(32, 28), 9.0
  h, w, _ = image.shape
  x = sign * level / 10
  matrices = {
    "shear_x": (1, 0.3 * x, 0, 0, 1, 0),
    "shear_y": (1, 0, 0, 0.3 * x, 1, 0),
    "translate_x": (1, 0, 0.45 * w * x, 0, 1, 0),
    "translate_y": (1, 0, 0, 0, 1, 0.45 * h * x),
  }
  fields = dict(resample=Image.Resampling.BILINEAR, fillcolor=rand_augment.FILL)
  given = Image.fromarray(image)
  if name == "rotate":
    want = given.rotate(30 * x, **fields)
  else:
    want = given.transform(
      (w, h), Image.Transform.AFFINE, matrices[name], **fields
    )
  want = np.asarray(want).astype(int)
  error = np.abs(apply(image, name, level, sign) - want).max(-1)
  # A place on the image's very edge may count as outside to one of the two.
  assert (error > 1).mean() < 0.01
  filled = (want == rand_augment.FILL).all(-1)
  assert filled.mean() > 0.05 and np.abs(want - image).mean() > 5


@pytest.mark.slow
def test_no_operation_is_the_identity():
  image = picture()
  got = rand_augment.apply(image, -1, 9.0, 1.0)
  np.testing.assert_array_equal(got, image)


def test_two_operations_are_drawn_and_each_is_applied_half_of_the_time():
  """A quarter of the images stay, but for operations that change nothing."""
  images = jnp.broadcast_to(picture(16, 16), (400, 16, 16, 3))
  augment = partial(device_augment.augment, [rand_augment.rand_augment])
  augmented = np.asarray(jax.jit(augment)(images, rng))
  assert augmented.dtype == np.uint8
  same = (augmented == images).all((1, 2, 3)).mean()
  assert 0.2 < same < 0.4
