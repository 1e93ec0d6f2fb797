"""Greedy non-maximum suppression, exact, with static shapes."""

import jax
import jax.numpy as jnp

from synthjax.detection import geometry

TILE = 256  # boxes that are decided at once


def nms(
  boxes: jax.Array,
  scores: jax.Array,
  valid: jax.Array,
  *,
  threshold: float,
  max_out: int,
) -> tuple[jax.Array, jax.Array]:
  """Keeps a box unless it overlaps a kept box with a higher score too much.

  Args:
    boxes: [n, 4].
    scores: [n], not NaN; of equal ones the lower index goes first.
    valid: [n] bool; others are never kept and suppress nothing.
    threshold: a box is dropped where the IoU is above it.
    max_out: how many boxes to keep at most.

  Returns:
    index: [max_out] int32 of the kept boxes, by falling score, then zeros.
    valid: [max_out] bool, False where fewer boxes are kept.
  """
  groups = jnp.zeros(scores.shape, jnp.int32)
  return batched_nms(
    boxes, scores, groups, valid, threshold=threshold, max_out=max_out
  )


def batched_nms(
  boxes: jax.Array,
  scores: jax.Array,
  groups: jax.Array,
  valid: jax.Array,
  *,
  threshold: float,
  max_out: int,
) -> tuple[jax.Array, jax.Array]:
  """As `nms`, where boxes suppress those of their own group [n] int alone.

  Boxes are decided in tiles, by falling score. The kept boxes of earlier tiles
  stand in a buffer that each tile is compared with, so no more than [tile,
  max_out] overlaps are in memory, and the loop ends once max_out are kept.
  """
  boxes, scores, groups, valid = map(
    jnp.asarray, (boxes, scores, groups, valid)
  )
  n = len(scores)
  tile = min(TILE, n)
  # Valid boxes first; lexsort is stable, so that ties keep their order.
  order = jnp.lexsort((-scores, ~valid)).astype(jnp.int32)
  order = jnp.pad(order, (0, -n % tile))
  boxes, groups = boxes[order], groups[order]
  num_valid = valid.sum()

  def decide(state):
    start, count, kept = state
    take = lambda x: jax.lax.dynamic_slice_in_dim(x, start, tile)
    some, group, position = take(boxes), take(groups), start + jnp.arange(tile)
    overlap = lambda other: (
      (geometry.iou(boxes[other], some) > threshold)
      & (groups[other][:, None] == group)
    )
    earlier = overlap(kept) & (jnp.arange(max_out) < count)[:, None]
    keep = _settle(
      (position < num_valid) & ~earlier.any(0),
      jnp.triu(overlap(position), 1),
    )
    slot = jnp.where(keep, count + jnp.cumsum(keep) - 1, max_out)
    kept = kept.at[slot].set(position, mode="drop")
    return start + tile, jnp.minimum(count + keep.sum(), max_out), kept

  _, count, kept = jax.lax.while_loop(
    lambda state: (state[0] < num_valid) & (state[1] < max_out),
    decide,
    (0, 0, jnp.zeros(max_out, jnp.int32)),
  )
  filled = jnp.arange(max_out) < count
  return jnp.where(filled, order[kept], 0), filled


def _settle(candidates: jax.Array, suppresses: jax.Array) -> jax.Array:
  """Decides a tile: the fixed point of "kept unless suppressed by a kept one".

  Box j depends on the boxes before it alone. So there is one fixed point, the
  greedy answer, and each round settles at least one more box of every chain
  "a would suppress b, which would suppress c": few rounds, not one a box.

  Args:
    candidates: [t] bool.
    suppresses: [t, t] bool, strictly upper triangular: whether box i, if kept,
      suppresses the later box j.

  Returns:
    [t] bool.
  """
  apply = lambda keep: candidates & ~(suppresses & keep[:, None]).any(0)
  keep, _ = jax.lax.while_loop(
    lambda state: (state[0] != state[1]).any(),
    lambda state: (apply(state[0]), state[0]),
    (apply(candidates), candidates),
  )
  return keep
