"""Augmentation on the host."""

import numpy as np
import pytest

from synthjax.data.pipeline import host_augment


class Fixed:
  """Returns the given numbers in place of random ones."""

  def __init__(self, *values):
    self.values = list(values)

  def random(self):
    return self.values.pop(0)

  def uniform(self, low, high, size=None):
    del low, high, size
    return self.values.pop(0)


def dot(x=20, y=10):
  """A black square of 4 px on white, with (x, y) its left upper corner."""
  image = np.full((32, 32, 3), 255, np.uint8)
  image[y : y + 4, x : x + 4] = 0
  return image


def centre(image):
  """The centre of the dark, in px: (x, y)."""
  dark = 255.0 - image.mean(-1)
  y, x = np.mgrid[:32, :32] + 0.5
  return (x * dark).sum() / dark.sum(), (y * dark).sum() / dark.sum()


def test_flip_mirrors_or_does_not():
  image = dot()
  same = host_augment.flip({"image": image}, Fixed(0.7))["image"]
  np.testing.assert_array_equal(same, image)
  mirrored = host_augment.flip({"image": image}, Fixed(0.2))["image"]
  np.testing.assert_allclose(centre(mirrored), (32 - 22, 12), atol=0.01)


@pytest.mark.parametrize(
  ("shift", "scale", "degrees", "want"),
  [
    ((0.0, 0.0), 0.0, 0.0, (22, 12)),
    ((0.125, -0.0625), 0.0, 0.0, (26, 10)),  # 4 px right, 2 px up
    ((0.0, 0.0), 0.5, 0.0, (25, 10)),  # half again as far from the middle
    ((0.0, 0.0), 0.0, 90.0, (20, 22)),  # a quarter turn, clockwise
  ],
)
def test_jiggle_moves_scales_and_turns(shift, scale, degrees, want):
  rng = Fixed(np.array(shift), scale, degrees)
  moved = host_augment.jiggle({"image": dot()}, rng)["image"]
  np.testing.assert_allclose(centre(moved), want, atol=0.15)
  assert moved.shape == (32, 32, 3) and moved.dtype == np.uint8
  assert (moved[0, 0] == 255).all()  # what comes in from outside is white


def test_the_middle_of_a_larger_image_is_measured():
  """As DeiT's: resized to 256 px, of which 224 are cut out."""
  image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
  row = {"image": image, "label": 3}
  (whole, _), (cut, labels) = (
    next(host_augment.in_order([row], image_size=size, crop=crop))
    for size, crop in ((256, 1.0), (224, 0.875))
  )
  np.testing.assert_array_equal(cut, whole[:, 16:240, 16:240])
  assert labels.tolist() == [3]
