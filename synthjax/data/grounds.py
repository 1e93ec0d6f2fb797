"""Painted grounds: grass, water, wood and sky, of noise in several octaves."""

import numpy as np
from PIL import Image

# From dark to light; RGB.
_PALETTES = np.array(
  [
    [(38, 66, 24), (82, 118, 48), (148, 172, 92)],  # grass
    [(24, 44, 26), (52, 82, 44), (108, 130, 78)],  # forest
    [(148, 118, 78), (196, 168, 122), (230, 210, 172)],  # sand
    [(58, 42, 30), (104, 78, 56), (150, 122, 94)],  # soil
    [(76, 78, 82), (122, 122, 122), (172, 170, 164)],  # stone
    [(18, 52, 84), (44, 98, 136), (124, 170, 190)],  # water
    [(176, 190, 206), (214, 222, 232), (240, 244, 248)],  # snow
    [(92, 54, 28), (142, 94, 54), (188, 144, 98)],  # wood
    [(108, 48, 38), (154, 82, 64), (192, 132, 108)],  # brick
    [(150, 142, 128), (188, 180, 164), (218, 212, 198)],  # wall
  ],
  np.float32,
)
# From the horizon up.
_SKIES = np.array(
  [
    [(206, 220, 232), (96, 150, 208)],  # day
    [(238, 178, 130), (96, 104, 154)],  # dusk
    [(206, 208, 210), (150, 158, 168)],  # overcast
  ],
  np.float32,
)


def paint(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints a ground by chance: float32 [h, w, 3], 0 to 255."""
  kind = rng.choice((_patches, _stripes, _landscape))
  scene = kind(height, width, rng)
  # Light falls from a side, and a camera adds its grain.
  slope = rng.uniform(-30, 30, 2).astype(np.float32)
  y, x = _axes(height, width)
  light = slope[0] * (y - 0.5) + slope[1] * (x - 0.5)
  grain = rng.standard_normal((height, width), np.float32) * rng.uniform(1, 5)
  return np.clip(scene + (light + grain)[..., None], 0, 255)


def _patches(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints what has a colour and no direction, such as grass."""
  value = _noise(height, width, rng, rng.uniform(0.4, 0.85))
  return _shade(value, _PALETTES[rng.integers(len(_PALETTES))])


def _stripes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints what has a grain, such as wood or ripples."""
  y, x = _axes(height, width)
  angle, count = rng.uniform(0, np.pi), rng.uniform(2, 14)
  along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
  bend = _noise(height, width, rng, 0.5)
  wave = np.sin(2 * np.pi * (np.float32(count) * along + 2 * bend))
  fine = _noise(height, width, rng, 0.8)
  value = np.float32(rng.uniform(0.1, 0.3)) * wave + 0.25 + 0.5 * fine
  return _shade(value, _PALETTES[rng.integers(len(_PALETTES))])


def _landscape(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints a sky above a ground that meet in an uneven line."""
  y, _ = _axes(height, width)
  low, high = _SKIES[rng.integers(len(_SKIES))]
  horizon = np.float32(rng.uniform(0.25, 0.6))
  rough = np.float32(rng.uniform(0.02, 0.3))
  line = horizon + rough * (_noise(1, width, rng, 0.5) - 0.5)  # [1, w]
  up = np.clip(1 - y / horizon, 0, 1)[..., None]
  clouds = np.clip(_noise(height, width, rng, 0.6) - 0.5, 0, 1)[..., None]
  sky = low + (high - low) * up
  sky = sky + np.float32(rng.uniform(0, 1.2)) * clouds * (245 - sky)
  ground = _patches(height, width, rng)
  # An edge of two pixels, as a camera would blur it.
  below = np.clip((y - line) * height / 2 + 0.5, 0, 1)[..., None]
  return sky + below * (ground - sky)


def _shade(value: np.ndarray, palette: np.ndarray) -> np.ndarray:
  """Maps [h, w] from 0 to 1 to the colours of a palette [3, 3]."""
  value = np.clip(value, 0, 1)[..., None] * 2
  dark, middle, light = palette
  lower = dark + np.minimum(value, 1) * (middle - dark)
  return lower + np.maximum(value - 1, 0) * (light - middle)


def _noise(
  height: int, width: int, rng: np.random.Generator, keep: float
) -> np.ndarray:
  """Sums octaves of noise, [h, w], mostly within 0 and 1.

  Args:
    height: h.
    width: w.
    rng: draws the noise.
    keep: amplitude of an octave beside the one before; more is rougher.
  """
  total, power = np.zeros((1, 1), np.float32), 0.0
  for octave in range(1, 6):
    cells = 2**octave + 1
    # Each octave is laid over the enlarged ones before: the last step alone
    # has the size of the scene.
    total = _enlarge(total, min(cells, height), cells)
    grid = rng.standard_normal(total.shape, np.float32)
    total = total + np.float32(keep**octave) * grid
    power += keep ** (2 * octave)
  total = _enlarge(total, height, width)
  return 0.5 + total * np.float32(0.3 / np.sqrt(power))


def _enlarge(values: np.ndarray, height: int, width: int) -> np.ndarray:
  image = Image.fromarray(values)
  return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _axes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns y [h, 1] and x [1, w] from 0 to 1."""
  y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
  return y, np.linspace(0, 1, width, dtype=np.float32)[None]
