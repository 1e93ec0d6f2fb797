"""Anchors, the boxes that proposals start from, and their matching.

All shapes are static: ground truth is padded, and a sample is a mask.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def make_anchors(
  grid: tuple[int, int],
  *,
  stride: int,
  sizes: Sequence[float],
  ratios: Sequence[float],
) -> np.ndarray:
  """Places boxes of all sizes and shapes on each cell of a grid.

  The boxes of cell (i, j) are centred at the pixel (x, y) = (stride * j,
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


# --- matching and sampling (Ren et al. 2015, Section 3.1.2) -------------------

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match(
  iou: jax.Array,
  valid: jax.Array,
  *,
  low: float,
  high: float,
  low_quality: bool,
) -> tuple[jax.Array, jax.Array]:
  """Matches each anchor with the object that it overlaps most, and labels it.

  Args:
    iou: [g, a] of ground truth, g > 0, with anchors.
    valid: [g] bool, False for padding.
    low: anchors whose best IoU is below are negative.
    high: those whose best IoU reaches it are positive; the rest are ignored.
    low_quality: also makes those anchors positive that overlap an object most
      among all anchors (ties included), so that each object that overlaps an
      anchor has one. Such an anchor stays matched to the object that it
      overlaps most itself.

  Returns:
    index: [a] int32 into the ground truth; 0 without valid ground truth.
    label: [a] int8, POSITIVE, NEGATIVE or IGNORED; all are NEGATIVE without
      valid ground truth.
  """
  iou = jnp.where(valid[:, None], iou, -1)
  best = iou.max(0)  # [a]
  label = jnp.where(
    best >= high, POSITIVE, jnp.where(best < low, NEGATIVE, IGNORED)
  )
  if low_quality:
    most = iou.max(1, keepdims=True)  # [g, 1]
    label = jnp.where(((iou == most) & (most > 0)).any(0), POSITIVE, label)
  return iou.argmax(0).astype(jnp.int32), label.astype(jnp.int8)


def draw_subsample(
  rng: jax.Array, label: jax.Array, *, num: int, max_positive: int
) -> tuple[jax.Array, jax.Array]:
  """Draws positives and negatives uniformly at random, without replacement.

  Args:
    rng: of the sampling.
    label: [a] as `match` returns it.
    num: how many to draw in all; fewer where there are not as many.
    max_positive: how many of them may be positive; negatives fill the rest.

  Returns:
    positive: [a] bool.
    negative: [a] bool.
  """
  order = jax.random.uniform(rng, label.shape)
  positive = _first(order, label == POSITIVE, min(num, max_positive))
  negative = _first(order, label == NEGATIVE, num, num - positive.sum())
  return positive, negative


def _first(order, among, most, count=None):
  """Marks the first `count`, or `most`, of `among` [a] by falling `order`."""
  value, index = jax.lax.top_k(
    jnp.where(among, order, -1), min(most, len(order))
  )
  taken = value >= 0
  if count is not None:
    taken &= jnp.arange(len(value)) < count
  return jnp.zeros(order.shape, bool).at[index].set(taken)
