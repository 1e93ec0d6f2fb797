"""The four losses of Faster R-CNN (Ren et al. 2015, Eq. 1), as in detectron2.

The distance of deltas is L1: smooth L1 whose round part has no width.
"""

import jax
import jax.numpy as jnp
import optax

from synthjax.train.regions import AnchorTargets, RoiTargets


def proposal_losses(
  logits: jax.Array,
  deltas: jax.Array,
  targets: AnchorTargets,
  *,
  num_anchors: int,
) -> dict[str, jax.Array]:
  """Returns the losses of the region proposal network.

  Args:
    logits: [n, a] float32.
    deltas: [n, a, 4] float32.
    targets: arrays [n, a, ...].
    num_anchors: meant to be sampled per image: n times that many divide both
      sums, however many were found.
  """
  total = num_anchors * len(logits)
  positive, counts = targets.positive, targets.positive | targets.negative
  entropy = optax.sigmoid_binary_cross_entropy(
    logits, positive.astype(jnp.float32)
  )
  return {
    "loss_rpn_cls": jnp.sum(entropy, where=counts) / total,
    "loss_rpn_box": _l1(deltas, targets.deltas, positive) / total,
  }


def head_losses(
  logits: jax.Array, deltas: jax.Array, targets: RoiTargets
) -> dict[str, jax.Array]:
  """Returns the losses of the head, and the share of foreground.

  Args:
    logits: [n, r, k + 1] float32.
    deltas: [n, r, k, 4] float32, of which those of the true class count.
    targets: arrays [n, r, ...]; the sums are divided by the number of all
      valid regions of the batch, foreground or not.
  """
  foreground, labels = targets.foreground, targets.labels
  total = jnp.maximum(targets.valid.sum(), 1)
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  k = deltas.shape[2]
  own = jnp.minimum(labels, k - 1)[..., None, None]  # the background has none
  own_deltas = jnp.take_along_axis(deltas, own, axis=2)[:, :, 0]
  return {
    "loss_cls": jnp.sum(entropy, where=targets.valid) / total,
    "loss_box": _l1(own_deltas, targets.deltas, foreground) / total,
    "foreground": foreground.sum() / total,
  }


def _l1(deltas: jax.Array, targets: jax.Array, where: jax.Array) -> jax.Array:
  """Sums the distances of [n, b, 4] where [n, b] says so."""
  return jnp.sum(jnp.abs(deltas - targets), where=where[..., None])
