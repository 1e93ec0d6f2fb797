"""Made-up weights and pictures, and image files as PyTorch's data sets."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

# The start of weights that are not drawn, by their names.
_STARTS = {"mean": 0, "var": 1, "scale": 1, "bias": 0, "logit_scale": 4}


def fill(like: Any) -> Any:
  """Returns variables of these shapes: noise, and norms as they start."""
  import jax

  rng = np.random.default_rng(0)

  def leaf(path, x):
    if (start := _STARTS.get(path[-1].key)) is not None:
      return np.full(x.shape, start, x.dtype)
    deviation = max(np.prod(x.shape[:-1]), 100) ** -0.5
    return rng.normal(0, deviation, x.shape).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(leaf, like)


def repeated_noise(rng: np.random.Generator) -> Callable[..., np.ndarray]:
  """Returns a function of a shape: float32 noise of deviation 0.02.

  Its numbers come again: to draw hundreds of millions takes a minute.
  """
  pool = 0.02 * rng.standard_normal(1_000_003).astype(np.float32)
  return lambda shape: np.resize(np.roll(pool, rng.integers(len(pool))), shape)


def picture(rng: np.random.Generator, side: int) -> np.ndarray:
  """Draws uint8 [side, side, 3] with the spectrum of photographs, about 1/f."""
  image = np.full((side, side, 3), 128.0, np.float32)
  cells = 4
  while cells <= side:
    grey = rng.normal(size=(cells, cells, 1))
    colour = 0.5 * rng.normal(size=(cells, cells, 3))
    for channel in range(3):
      layer = (grey[..., 0] + colour[..., channel]).astype(np.float32)
      large = Image.fromarray(layer).resize((side, side), Image.BICUBIC)
      image[..., channel] += 110 / cells**0.85 * np.asarray(large)
    cells *= 2
  return np.clip(image, 0, 255).astype(np.uint8)


class ImageFiles:
  """Image files, transformed; a data set for PyTorch's DataLoader."""

  def __init__(
    self,
    files: Sequence[pathlib.Path],
    transform: Callable[[Image.Image], Any],
  ):
    self.files, self.transform = files, transform

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> Any:
    with self.files[index].open("rb") as file:
      return self.transform(Image.open(file).convert("RGB"))
