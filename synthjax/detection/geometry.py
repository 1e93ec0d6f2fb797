"""Boxes (x0, y0, x1, y1) in pixels: areas, overlaps and the box coder.

All is computed and returned in float32, whatever the arguments are: in bfloat16
a coordinate of 800 px would be off by up to 2 px.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# No decoded box is wider or higher than 1000/16 times its anchor: without a
# bound, exp() of an untrained network's output overflows.
MAX_LOG_SCALE = math.log(1000 / 16)


def area(boxes: jax.Array) -> jax.Array:
  """Returns the areas [...] of boxes [..., 4]; 0 for degenerate ones."""
  x0, y0, x1, y1 = _edges(boxes)
  return jnp.maximum(x1 - x0, 0) * jnp.maximum(y1 - y0, 0)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the intersection over union [n, m] of boxes a [n, 4] and b [m, 4].

  It is 0, never NaN, where a box is degenerate.
  """
  # Edge by edge, as a last axis of 2 or 4 fills vector units badly.
  ax0, ay0, ax1, ay1 = (edge[:, None] for edge in _edges(a))
  bx0, by0, bx1, by1 = _edges(b)
  width = jnp.maximum(jnp.minimum(ax1, bx1) - jnp.maximum(ax0, bx0), 0)
  height = jnp.maximum(jnp.minimum(ay1, by1) - jnp.maximum(ay0, by0), 0)
  shared = width * height
  union = area(a)[:, None] + area(b) - shared
  return jnp.where(shared > 0, shared / jnp.where(shared > 0, union, 1), 0)


def encode(
  boxes: jax.Array, anchors: jax.Array, weights: Sequence[float]
) -> jax.Array:
  """Describes boxes by how they differ from anchors (Girshick et al. 2014).

  Args:
    boxes: [..., 4].
    anchors: [..., 4].
    weights: factors of the four deltas (dx, dy, dw, dh).

  Returns:
    [..., 4] deltas. They are 0, and so are their gradients, where the box or
    the anchor is degenerate, as padding is.
  """
  size, centre = _size_and_centre(boxes)
  anchor_size, anchor_centre = _size_and_centre(anchors)
  usable = (size > 0).all(-1) & (anchor_size > 0).all(-1)
  # Replaced before the division, as the gradient would be 0 * inf.
  size, anchor_size = (
    jnp.where(usable[..., None], s, 1) for s in (size, anchor_size)
  )
  shift = (centre - anchor_centre) / anchor_size
  scale = jnp.log(size / anchor_size)
  deltas = jnp.concatenate([shift, scale], -1) * jnp.asarray(
    weights, jnp.float32
  )
  return jnp.where(usable[..., None], deltas, 0)


def decode(
  deltas: jax.Array, anchors: jax.Array, weights: Sequence[float]
) -> jax.Array:
  """Inverts `encode`, up to the bound on how much a box can grow.

  Args:
    deltas: [..., 4]; [n, k, 4] with anchors [n, 1, 4] gives k boxes for each.
    anchors: [..., 4].
    weights: as in `encode`.

  Returns:
    [..., 4] boxes, which may reach out of the image.
  """
  size, centre = _size_and_centre(anchors)
  deltas = jnp.asarray(deltas, jnp.float32) / jnp.asarray(weights, jnp.float32)
  centre = deltas[..., :2] * size + centre
  half = 0.5 * size * jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE))
  return jnp.concatenate([centre - half, centre + half], -1)


def clip(boxes: jax.Array, size: jax.Array) -> jax.Array:
  """Moves what lies outside an image of `size` [2] (h, w) onto its border.

  Args:
    boxes: [..., 4].
    size: [2] height and width, in pixels.

  Returns:
    [..., 4]; a box wholly outside the image becomes empty.
  """
  height, width = jnp.asarray(size, jnp.float32)
  bound = jnp.stack([width, height, width, height])
  return jnp.clip(jnp.asarray(boxes, jnp.float32), 0, bound)


def _edges(boxes):
  boxes = jnp.asarray(boxes, jnp.float32)
  return (boxes[..., i] for i in range(4))


def _size_and_centre(boxes):
  """Returns [..., 2] (w, h) and [..., 2] (x, y)."""
  boxes = jnp.asarray(boxes, jnp.float32)
  size = boxes[..., 2:] - boxes[..., :2]
  return size, boxes[..., :2] + 0.5 * size
