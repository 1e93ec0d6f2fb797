"""Augmentation on the host: NumPy and Pillow, one example at a time."""

import math

import numpy as np
from PIL import Image

from synthjax.errors import UserError

WHITE = (255, 255, 255)


def flip(example: dict, rng: np.random.Generator) -> dict:
  """Mirrors the uint8 image [h, w, 3] left to right, half of the time."""
  image = example["image"]
  return example | {"image": image[:, ::-1] if rng.random() < 0.5 else image}


def jiggle(
  example: dict,
  rng: np.random.Generator,
  *,
  shift: float = 0.06,
  scale: float = 0.12,
  degrees: float = 8.0,
) -> dict:
  """Moves, scales and turns a drawing a little on its white ground.

  Args:
    example: with uint8 `image` [h, w, 3].
    rng: of this example.
    shift: largest move, as a share of the side.
    scale: largest change of size, as a share.
    degrees: largest turn, either way.
  """
  image = example["image"]
  h, w = image.shape[:2]
  dx, dy = rng.uniform(-shift, shift, 2) * (w, h)
  factor = 1 + rng.uniform(-scale, scale)
  angle = math.radians(rng.uniform(-degrees, degrees))
  # Pillow asks where each output pixel comes from.
  cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
  cx, cy = w / 2, h / 2
  offset_x = cx - cos * (cx + dx) - sin * (cy + dy)
  offset_y = cy + sin * (cx + dx) - cos * (cy + dy)
  moved = Image.fromarray(image).transform(
    (w, h),
    Image.Transform.AFFINE,
    (cos, sin, offset_x, -sin, cos, offset_y),
    Image.Resampling.BICUBIC,
    fillcolor=WHITE,
  )
  return example | {"image": np.asarray(moved)}


def shrink(image: np.ndarray, side: int) -> np.ndarray:
  """Averages uint8 [h, w, 3] down to [side, side, 3], rounding.

  Raises:
    UserError: when `side` does not divide the image's.
  """
  h, w, c = image.shape
  if h % side or w % side:
    raise UserError(
      f"An image of {h}x{w} does not shrink to {side}x{side} by whole blocks; "
      f"choose a divisor of {math.gcd(h, w)}."
    )
  blocks = image.reshape(side, h // side, side, w // side, c)
  return np.rint(blocks.mean((1, 3), dtype=np.float32)).astype(np.uint8)


def recolour(example: dict, rng: np.random.Generator) -> dict:
  """Changes a drawing's brightness, contrast and saturation a little.

  Half of the time the image [h, w, 3] stays as it is.
  """
  if rng.random() < 0.5:
    return example
  image = example["image"].astype(np.float32)
  gray = image.mean(axis=-1, keepdims=True)
  saturation, contrast, brightness = rng.uniform(0.6, 1.3, 3)
  image = gray + saturation * (image - gray)
  image = 255 - contrast * (255 - image)  # around white, the ground
  image = image * min(brightness, 1.1)
  return example | {"image": np.clip(np.rint(image), 0, 255).astype(np.uint8)}
