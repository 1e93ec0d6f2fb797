"""Region proposals: the boxes that the second stage looks at."""

import jax
import jax.numpy as jnp

from synthjax.boxes import geometry
from synthjax.boxes.nms import nms

# The factors of a proposal network's deltas (Ren et al. 2015, Eq. 2).
WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def select_proposals(
  logits: jax.Array,
  deltas: jax.Array,
  anchors: jax.Array,
  size: jax.Array,
  *,
  pre_top: int,
  post_top: int,
  threshold: float = 0.7,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Turns what the proposal network says of an image into its best boxes.

  No gradient flows back: boxes are inputs of the second stage.

  Args:
    logits: [a] of there being an object.
    deltas: [a, 4] from the anchors, with weights of 1.
    anchors: [a, 4].
    size: [2] height and width of the image, without padding.
    pre_top: how many of the highest logits to decode, clip and suppress.
    post_top: how many boxes to return.
    threshold: of the IoU, for non-maximum suppression.

  Returns:
    boxes: [post_top, 4] float32 within the image, by falling logit.
    logits: [post_top] float32.
    valid: [post_top] bool; where False, boxes and logits are 0. Boxes that are
      empty or not finite are dropped.
  """
  logits, deltas = jax.lax.stop_gradient((logits, deltas))
  logits, top = jax.lax.top_k(
    jnp.asarray(logits, jnp.float32), min(pre_top, len(logits))
  )
  boxes = geometry.decode(deltas[top], jnp.asarray(anchors)[top], WEIGHTS)
  finite = jnp.isfinite(boxes).all(-1) & jnp.isfinite(logits)
  boxes = geometry.clip(boxes, size)
  usable = finite & (boxes[:, 2:] > boxes[:, :2]).all(-1)
  index, valid = nms(
    boxes,
    jnp.where(usable, logits, 0),
    usable,
    threshold=threshold,
    max_out=post_top,
  )
  boxes = jnp.where(valid[:, None], boxes[index], 0)
  return boxes, jnp.where(valid, logits[index], 0), valid
