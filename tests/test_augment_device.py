"""Augmentation on the device, beside Pillow and torchvision's formulas."""

import colorsys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from synthjax.data.repeated import repeated_index
from synthjax.errors import UserError
from synthjax.train import augment_device, color, rand_augment
from synthjax.train.supervised import MEAN, STD

rng = jax.random.key(0)


def picture(h=24, w=20, seed=0):
  """Draws a smooth uint8 image with all kinds of colours, and some noise."""
  draws = np.random.default_rng(seed)
  small = Image.fromarray(draws.integers(0, 256, (5, 4, 3), np.uint8))
  smooth = np.asarray(small.resize((w, h), Image.Resampling.BICUBIC), int)
  noisy = smooth + draws.integers(-9, 10, (h, w, 3))
  return noisy.clip(0, 255).astype(np.uint8)


def to_levels(image):
  return np.rint(255 * np.asarray(image, np.float64))


# --- colours ----------------------------------------------------------------

ENHANCERS = {
  "brightness": ImageEnhance.Brightness,
  "contrast": ImageEnhance.Contrast,
  "saturation": ImageEnhance.Color,
}


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancements_are_those_of_pillow_to_a_level(name, factor):
  image = picture()
  want = ENHANCERS[name](Image.fromarray(image)).enhance(factor)
  got = getattr(color, name)(jnp.asarray(image / 255), factor)
  assert np.abs(to_levels(got) - np.asarray(want)).max() <= 1


def test_grayscale_is_that_of_pillow():
  image = picture()
  want = np.asarray(Image.fromarray(image).convert("L"))
  got = color.grayscale(jnp.asarray(image / 255))
  assert np.abs(to_levels(got) - want[..., None]).max() <= 1


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.4])
def test_hue_turns_as_in_hsv(shift):
  image = picture(6, 5) / 255
  image[0, 0] = 0.5  # gray has no hue

  def turn(pixel):
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((h + shift) % 1, s, v)

  want = np.apply_along_axis(lambda p: np.array(turn(p)), -1, image)
  got = color.hue(jnp.asarray(image), shift)
  np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_jitter_makes_its_changes_in_the_given_order(order):
  factors = (1.3, 0.7, 1.4, -0.08)
  image = jnp.asarray(picture() / 255)
  changes = [color.brightness, color.contrast, color.saturation, color.hue]
  want = image
  for which in order:
    want = changes[which](want, factors[which])
  got = color.jitter(image, jnp.array(order), factors)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_jitter_draws_its_factors_from_their_ranges():
  """A gray image shows the factor of brightness, when that is all there is."""
  image = jnp.full((1, 1, 3), 0.5)
  jitter = partial(color.color_jitter, contrast=0.0, saturation=0.0, hue=0.0)
  keys = jax.random.split(rng, 500)
  jittered = jax.vmap(lambda k: jitter(image, k, brightness=0.4))(keys)
  factors = np.asarray(jittered)[:, 0, 0, 0] / 0.5
  assert 0.6 <= factors.min() < 0.63 and 1.37 < factors.max() <= 1.4
  assert abs(factors.mean() - 1) < 0.03


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_the_blur_is_gaussian_and_near_that_of_pillow(sigma):
  spot = np.zeros((21, 21, 3), np.float32)
  spot[10, 10] = 1
  got = np.asarray(color.gaussian_blur(jnp.asarray(spot), sigma))[..., 0]
  offsets = np.arange(-10, 11)
  line = np.exp(-(offsets**2) / (2 * sigma**2)) * (np.abs(offsets) <= 6)
  line /= line.sum()
  np.testing.assert_allclose(got, np.outer(line, line), atol=1e-6)
  assert abs(got.sum() - 1) < 1e-5

  image = picture(32, 32)
  want = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
  got = color.gaussian_blur(jnp.asarray(image / 255, jnp.float32), sigma)
  error = np.abs(to_levels(got) - np.asarray(want))
  print(f"sigma {sigma}: mean {error.mean():.2f}, largest {error.max()} levels")
  assert error.mean() < 0.7 and error.max() <= 4  # it sums three boxes


# --- RandAugment ------------------------------------------------------------


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
  augment = partial(augment_device.augment, [rand_augment.rand_augment])
  augmented = np.asarray(jax.jit(augment)(images, rng))
  assert augmented.dtype == np.uint8
  same = (augmented == images).all((1, 2, 3)).mean()
  assert 0.2 < same < 0.4


# --- recipes ----------------------------------------------------------------


@pytest.mark.parametrize("name", augment_device.AUGMENTS)
def test_recipes_keep_the_shape_and_normalise(name):
  images = np.stack([picture(16, 16, seed) for seed in range(4)])
  augment = augment_device.make_augment(name)
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
  augment = jax.jit(augment_device.make_augment(name))
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
  augmented = jax.jit(augment_device.make_augment("moco_v2"))(images, rng)
  pixels = np.asarray(augmented) * STD + MEAN
  gray = np.ptp(pixels, axis=-1).max((1, 2)) < 1e-4
  assert 0.14 < gray.mean() < 0.26


def test_a_flip_alone_mirrors_half_of_the_images():
  images = np.broadcast_to(picture(8, 8), (200, 8, 8, 3))
  flipped = np.asarray(
    augment_device.augment([augment_device.flip], images, rng)
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
    augment_device.random_resized_crop, image_size=16, scale=(0.2, 1.0)
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
  same = augment_device.random_resized_crop(
    image, rng, scale=(1.0, 1.0), ratio=(1.0, 1.0)
  )
  np.testing.assert_array_equal(same, image)


def test_unknown_recipes_name_the_known_ones():
  with pytest.raises(UserError, match="did you mean 'moco_v2'"):
    augment_device.make_augment("moco_v3")
  with pytest.raises(UserError, match="with a crop"):
    augment_device.make_augment("none", crop=True)


# --- repeated augmentation --------------------------------------------------


def test_repeats_follow_each_other_over_the_ranks():
  shares = [
    repeated_index(1000, epoch=2, seed=1, rank=rank, num_ranks=4, multiple=256)
    for rank in range(4)
  ]
  assert {len(share) for share in shares} == {768 // 4}
  # Dealt back to one row, each example comes three times in a row.
  row = np.stack(shares, 1).ravel()
  np.testing.assert_array_equal(row[::3], row[1::3])
  np.testing.assert_array_equal(row[::3], row[2::3])
  assert len(set(row)) == 256  # a third of the length


def test_the_order_changes_with_the_epoch_alone():
  one, again, two = (
    repeated_index(10, epoch=epoch, multiple=1) for epoch in (0, 0, 1)
  )
  assert len(one) == 10 and set(one) <= set(range(10))
  np.testing.assert_array_equal(one, again)
  assert (one != two).any()


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(num_examples=100), "at most 100"),
    (dict(num_examples=999, rank=2, num_ranks=2), "count from 0"),
    (dict(num_examples=999, repeats=0), "from 1"),
  ],
)
def test_orders_of_nothing_are_refused(fields, words):
  with pytest.raises(UserError, match=words):
    repeated_index(epoch=0, **fields)
