"""Which boxes a detector proposes, and which of them it learns from.

After Faster R-CNN (Ren et al. 2015) with the numbers of detectron2's R50-C4, by
which MoCo transfers to PASCAL VOC. Shapes are those of full lists, and masks
say what of them counts.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.config.schema import Count, Positive, Share, Sides
from synthjax.detection import anchors as grids
from synthjax.detection import geometry
from synthjax.detection.anchors import draw_subsample, match
from synthjax.detection.nms import nms
from synthjax.runtime.errors import UserError

# (rng, label [a], num=, max_positive=) -> masks of positives and negatives.
Subsample = Callable[..., tuple[jax.Array, jax.Array]]


# Factors of the four deltas (dx, dy, dw, dh) of a box.
Weights = tuple[Positive, Positive, Positive, Positive]


class Options(NamedTuple):
  """The choices outside of the network, by default those for VOC."""

  # Anchors.
  sizes: Sides = (32, 64, 128, 256, 512)  # px
  ratios: Sides = (0.5, 1.0, 2.0)  # heights over widths

  # The region proposal network's training. An anchor is negative below the
  # first of these overlaps and positive from the second on.
  anchor_iou: tuple[Share, Share] = (0.3, 0.7)
  anchor_weights: Weights = (1, 1, 1, 1)
  num_anchors: Count = 256  # sampled per image
  max_positive_anchors: Count = 128

  # Proposals: kept by logit, then by non-maximum suppression.
  pre_top: Count = 12000
  post_top: Count = 2000
  test_pre_top: Count = 6000
  test_post_top: Count = 1000
  proposal_nms: Share = 0.7

  # The head's training.
  roi_iou: Share = 0.5
  roi_weights: Weights = (10, 10, 5, 5)
  num_rois: Count = 512  # sampled per image
  max_foreground: Count = 128

  # Detections.
  min_score: Share = 0.05
  detection_nms: Share = 0.5
  max_detections: Count = 100

  def problems(self) -> Iterator[str]:
    """Yields each number that exceeds the one that limits it."""
    for few, many in (
      ("max_positive_anchors", "num_anchors"),
      ("max_foreground", "num_rois"),
      ("post_top", "pre_top"),
      ("test_post_top", "test_pre_top"),
    ):
      if getattr(self, few) > getattr(self, many):
        yield (
          f"{few}={getattr(self, few)} is more than "
          f"{many}={getattr(self, many)}"
        )


class AnchorTargets(NamedTuple):
  """What the region proposal network shall say of an image's anchors."""

  positive: jax.Array  # [a] bool
  negative: jax.Array  # [a] bool; what is neither does not count
  deltas: jax.Array  # [a, 4]; zero unless positive


class RoiTargets(NamedTuple):
  """What the head shall say of an image's regions; foreground comes first."""

  rois: jax.Array  # [r, 4]
  valid: jax.Array  # [r] bool
  foreground: jax.Array  # [r] bool
  labels: jax.Array  # [r] int32; the background's is the number of classes
  deltas: jax.Array  # [r, 4]; zero unless foreground


def make_anchors(model, options: Options, grid: tuple[int, int]) -> np.ndarray:
  """Returns the anchors [h*w*A, 4] of features of size (h, w).

  Raises:
    UserError: for a model that rates another number of anchors.
  """
  count = len(options.sizes) * len(options.ratios)
  if count != model.num_anchors:
    raise UserError(
      f"{len(options.sizes)} sizes and {len(options.ratios)} ratios are "
      f"{count} anchors at each place, but the model has "
      f"num_anchors={model.num_anchors}; give it {count}."
    )
  return grids.make_anchors(
    grid, stride=model.stride, sizes=options.sizes, ratios=options.ratios
  )


def propose(
  logits: jax.Array,
  deltas: jax.Array,
  anchors: np.ndarray,
  size: jax.Array,
  *,
  options: Options,
  train: bool,
) -> tuple[jax.Array, jax.Array]:
  """Returns each image's proposals [n, p, 4], best first, and which are valid.

  Args:
    logits: [n, a] of being an object.
    deltas: [n, a, 4] of the anchors.
    anchors: [a, 4].
    size: [n, 2] true height and width, to which boxes are clipped.
    options: the numbers before and after the suppression.
    train: chooses those of training. No gradient passes in any case.
  """
  o = options
  pre = min(o.pre_top if train else o.test_pre_top, len(anchors))
  post = min(o.post_top if train else o.test_post_top, pre)
  select = partial(
    select_proposals, pre_top=pre, post_top=post, threshold=o.proposal_nms
  )
  logits, deltas = jax.lax.stop_gradient((logits, deltas))
  boxes, _, valid = jax.vmap(select, in_axes=(0, 0, None, 0))(
    logits, deltas, jnp.asarray(anchors, jnp.float32), size
  )
  return boxes, valid


def sample_anchors(
  rng: jax.Array,
  anchors: np.ndarray,
  boxes: jax.Array,
  valid: jax.Array,
  *,
  options: Options,
  subsample: Subsample = draw_subsample,
) -> AnchorTargets:
  """Matches an image's anchors with what is in it, and samples some.

  Args:
    rng: of the sampling.
    anchors: [a, 4]; those beyond the image take part too.
    boxes: [g, 4] true boxes.
    valid: [g] which of them there are.
    options: thresholds and numbers.
    subsample: as `anchors.draw_subsample`.
  """
  low, high = options.anchor_iou
  anchors = jnp.asarray(anchors, jnp.float32)
  index, label = match(
    geometry.iou(boxes, anchors), valid, low=low, high=high, low_quality=True
  )
  positive, negative = subsample(
    rng,
    label,
    num=options.num_anchors,
    max_positive=options.max_positive_anchors,
  )
  deltas = geometry.encode(boxes[index], anchors, options.anchor_weights)
  # Of boxes that are none they may be infinite.
  deltas = jnp.where(positive[:, None], deltas, 0.0)
  return AnchorTargets(positive, negative, deltas)


def sample_rois(
  rng: jax.Array,
  proposals: jax.Array,
  proposed: jax.Array,
  boxes: jax.Array,
  labels: jax.Array,
  valid: jax.Array,
  *,
  num_classes: int,
  options: Options,
  subsample: Subsample = draw_subsample,
) -> RoiTargets:
  """Samples regions from an image's proposals and its true boxes.

  Args:
    rng: of the sampling.
    proposals: [p, 4].
    proposed: [p] which of them are valid.
    boxes: [g, 4] true boxes: the first proposals are far from them.
    labels: [g] their classes.
    valid: [g] which of them there are.
    num_classes: k, and the label of the background.
    options: thresholds and numbers.
    subsample: as `anchors.draw_subsample`.

  Returns:
    num_rois regions, or all that there are and places that are not valid.
  """
  regions = jnp.concatenate([proposals, boxes])
  there = jnp.concatenate([proposed, valid])
  index, label = match(
    geometry.iou(boxes, regions),
    valid,
    low=options.roi_iou,
    high=options.roi_iou,
    low_quality=False,
  )
  positive, negative = subsample(
    rng,
    jnp.where(there, label, -1),
    num=options.num_rois,
    max_positive=options.max_foreground,
  )
  rank = 2 * positive.astype(jnp.float32) + negative
  # As many places for every image; equals keep their order.
  rank, chosen = jax.lax.top_k(rank, min(options.num_rois, len(regions)))
  foreground, taken = rank == 2, rank > 0
  # A box that is none gets the place of one cell, so that all stays finite.
  rois = jnp.where(taken[:, None], regions[chosen], jnp.array([0, 0, 16, 16.0]))
  matched = index[chosen]
  deltas = geometry.encode(boxes[matched], rois, options.roi_weights)
  return RoiTargets(
    rois=rois,
    valid=taken,
    foreground=foreground,
    labels=jnp.where(foreground, labels[matched], num_classes),
    deltas=jnp.where(foreground[:, None], deltas, 0.0),
  )


# --- region proposals --------------------------------------------------------

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
