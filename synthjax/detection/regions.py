"""The boxes that a detector proposes, and those that it learns from.

After Faster R-CNN (Ren et al. 2015) with the numbers of detectron2's R50-C4, by
which MoCo transfers to PASCAL VOC. All shapes are static: lists have their
largest length, and masks mark the entries that count. RoIAlign, which reads the
features of a region, is in `faster_rcnn`.
"""

from collections.abc import Callable, Iterator, Sequence
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
  """Targets of the region proposal network for an image's anchors."""

  positive: jax.Array  # [a] bool
  negative: jax.Array  # [a] bool; anchors that are neither do not count
  deltas: jax.Array  # [a, 4]; zero unless positive


class RoiTargets(NamedTuple):
  """Targets of the head for an image's regions; foreground comes first."""

  rois: jax.Array  # [r, 4]
  valid: jax.Array  # [r] bool
  foreground: jax.Array  # [r] bool
  labels: jax.Array  # [r] int32; the background's is the number of classes
  deltas: jax.Array  # [r, 4]; zero unless foreground


def make_anchors(model, options: Options, grid: tuple[int, int]) -> np.ndarray:
  """Returns the anchors [h*w*A, 4] of features of size (h, w).

  Raises:
    UserError: for a model with another number of anchors.
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
    train: takes the numbers of training.
  """
  pre_top = options.pre_top if train else options.test_pre_top
  post_top = options.post_top if train else options.test_post_top
  pre_top = min(pre_top, len(anchors))
  select = partial(
    select_proposals,
    pre_top=pre_top,
    post_top=min(post_top, pre_top),
    threshold=options.proposal_nms,
    weights=options.anchor_weights,
  )
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
  """Matches an image's anchors with its objects, and samples some.

  Args:
    rng: of the sampling.
    anchors: [a, 4]; those beyond the image count too.
    boxes: [g, 4] true boxes.
    valid: [g] False for padding.
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
  # Deltas of padding may be infinite.
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
    valid: [g] False for padding.
    num_classes: k, and the label of the background.
    options: thresholds and numbers.
    subsample: as `anchors.draw_subsample`.

  Returns:
    num_rois regions; fewer valid ones where an image has fewer.
  """
  regions = jnp.concatenate([proposals, boxes])
  usable = jnp.concatenate([proposed, valid])
  index, label = match(
    geometry.iou(boxes, regions),
    valid,
    low=options.roi_iou,
    high=options.roi_iou,
    low_quality=False,
  )
  positive, negative = subsample(
    rng,
    jnp.where(usable, label, -1),
    num=options.num_rois,
    max_positive=options.max_foreground,
  )
  rank = 2 * positive.astype(jnp.float32) + negative
  # Every image has as many places; regions of one rank keep their order.
  rank, chosen = jax.lax.top_k(rank, min(options.num_rois, len(regions)))
  foreground, sampled = rank == 2, rank > 0
  # Padding gets the box of one cell, so that everything stays finite.
  one_cell = jnp.array([0, 0, 16, 16.0])
  rois = jnp.where(sampled[:, None], regions[chosen], one_cell)
  matched = index[chosen]
  deltas = geometry.encode(boxes[matched], rois, options.roi_weights)
  return RoiTargets(
    rois=rois,
    valid=sampled,
    foreground=foreground,
    labels=jnp.where(foreground, labels[matched], num_classes),
    deltas=jnp.where(foreground[:, None], deltas, 0.0),
  )


def select_proposals(
  logits: jax.Array,
  deltas: jax.Array,
  anchors: jax.Array,
  size: jax.Array,
  *,
  pre_top: int,
  post_top: int,
  threshold: float,
  weights: Sequence[float],
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the best boxes of an image, by the proposal network's outputs.

  No gradient flows back: boxes are inputs of the second stage.

  Args:
    logits: [a] of being an object.
    deltas: [a, 4] from the anchors.
    anchors: [a, 4].
    size: [2] height and width of the image, without padding.
    pre_top: how many of the highest logits to decode, clip and suppress.
    post_top: how many boxes to return.
    threshold: of the IoU, for non-maximum suppression.
    weights: factors of the deltas.

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
  boxes = geometry.decode(deltas[top], jnp.asarray(anchors)[top], weights)
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
