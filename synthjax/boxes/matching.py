"""Which anchors or regions learn which object (Ren et al. 2015, Section 3.1.2).

All shapes are static: ground truth is padded, and a sample is a mask.
"""

import jax
import jax.numpy as jnp

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match(
  iou: jax.Array,
  valid: jax.Array,
  *,
  low: float,
  high: float,
  low_quality: bool,
) -> tuple[jax.Array, jax.Array]:
  """Gives each anchor the object that it overlaps most, and a label.

  Args:
    iou: [g, a] of ground truth, g > 0, with anchors.
    valid: [g] bool, False for padding.
    low: anchors whose best IoU is below are negative.
    high: those whose best IoU reaches it are positive; the rest are ignored.
    low_quality: makes the anchors positive that overlap an object most among
      all anchors (ties included), so that no object goes without one. Each is
      still matched to the object that it overlaps most itself. An object that
      overlaps no anchor gets none.

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


def subsample(
  rng: jax.Array, label: jax.Array, *, num: int, max_positive: int
) -> tuple[jax.Array, jax.Array]:
  """Draws positives and negatives uniformly at random, without replacement.

  Args:
    rng: a random key.
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
