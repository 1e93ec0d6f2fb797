"""Pictures that show what changes of colour and place do to them."""

import numpy as np
from PIL import Image


def picture(h=24, w=20, seed=0):
  """Draws a smooth uint8 image with all kinds of colours, and some noise."""
  draws = np.random.default_rng(seed)
  small = Image.fromarray(draws.integers(0, 256, (5, 4, 3), np.uint8))
  smooth = np.asarray(small.resize((w, h), Image.Resampling.BICUBIC), int)
  noisy = smooth + draws.integers(-9, 10, (h, w, 3))
  return noisy.clip(0, 255).astype(np.uint8)


def to_levels(image):
  """Maps [0, 1] to the 256 levels of uint8."""
  return np.rint(255 * np.asarray(image, np.float64))
