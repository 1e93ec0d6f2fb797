"""Anchors: the boxes that a region proposal network starts from."""

from collections.abc import Sequence

import numpy as np


def make_anchors(
  grid: tuple[int, int],
  *,
  stride: int = 16,
  sizes: Sequence[float] = (32, 64, 128, 256, 512),
  ratios: Sequence[float] = (0.5, 1, 2),
) -> np.ndarray:
  """Places boxes of all sizes and shapes on each cell of a grid.

  Those of cell (i, j) have their centre at the pixel (x, y) = (stride * j,
  stride * i): the corner of the cell, not its middle (an offset of 0).

  Args:
    grid: (h, w) of the feature map.
    stride: pixels from one cell to the next.
    sizes: square roots of the areas.
    ratios: heights over widths.

  Returns:
    [h * w * a, 4] float32 for a = len(sizes) * len(ratios); row by row, then
    column by column, then size by size, then ratio by ratio.
  """
  size, ratio = np.meshgrid(
    np.asarray(sizes, np.float64), np.asarray(ratios, np.float64), indexing="ij"
  )
  width = np.sqrt(size**2 / ratio).ravel()  # [a]
  height = ratio.ravel() * width
  # Rounded before they are moved, as the reference does.
  cell = np.stack([-width, -height, width, height], -1) / 2
  y, x = np.meshgrid(*(stride * np.arange(n) for n in grid), indexing="ij")
  moves = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # [h * w, 1, 4]
  anchors = moves.astype(np.float32) + cell.astype(np.float32)
  return anchors.reshape(-1, 4)
