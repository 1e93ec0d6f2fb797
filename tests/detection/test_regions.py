"""Which anchors and regions a detector learns from, and its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_detector import SMALL, make_small, two_images

from synthjax.detection import objective as detection
from synthjax.detection import regions
from synthjax.detection.objective import VOC, preprocess
from synthjax.detection.regions import AnchorTargets, RoiTargets
from synthjax.runtime.errors import UserError

rng = jax.random.key(0)

# --- targets ----------------------------------------------------------------


def test_padding_is_zero():
  batch = two_images()
  got = np.asarray(preprocess(batch))
  assert not got[1, 48:].any() and got[1, :48].all()
  # The reference's mean and deviation, of pixels up to 255.
  want = (batch["image"][0] - np.array([123.675, 116.28, 103.53])) / np.array(
    [58.395, 57.12, 57.375]
  )
  np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)


def test_anchors_are_positive_negative_or_neither():
  anchors = np.array(
    [[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 8], [20, 20, 30, 30]], float
  )
  boxes = jnp.array([[0, 0, 10, 10], [0, 0, 0, 0.0]])  # the second is padding
  valid = jnp.array([True, False])
  got = regions.sample_anchors(rng, anchors, boxes, valid, options=VOC)
  # Overlaps of 1, 0.6, 0.8 and 0.
  np.testing.assert_array_equal(got.positive, [1, 0, 1, 0])
  np.testing.assert_array_equal(got.negative, [0, 0, 0, 1])
  want = np.zeros((4, 4))
  want[2] = [0, 1 / 8, 0, np.log(10 / 8)]  # a middle of 5 beside 4
  np.testing.assert_allclose(got.deltas, want, atol=1e-6)

  none = regions.sample_anchors(
    rng, anchors, boxes, ~valid & False, options=VOC
  )
  assert not none.positive.any() and none.negative.all()
  assert np.isfinite(none.deltas).all() and not none.deltas.any()


def rois_of(options):
  proposals = jnp.array(
    [[0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 4], [0, 0, 0, 0.0]]
  )
  proposed = jnp.array([True, True, True, False])
  boxes = jnp.array([[0, 0, 10, 10], [30, 30, 40, 50], [0, 0, 0, 0.0]])
  labels, valid = jnp.array([3, 1, 0]), jnp.array([True, True, False])
  return regions.sample_rois(
    rng,
    proposals,
    proposed,
    boxes,
    labels,
    valid,
    num_classes=5,
    options=options,
  )


def test_regions_are_proposals_and_true_boxes():
  got = rois_of(VOC)  # with room for all of them
  assert got.rois.shape == (7, 4)
  # A proposal with an overlap of 0.9 and both true boxes; two proposals whose
  # overlaps are 0 and 0.4; two that are none.
  np.testing.assert_array_equal(got.valid, [1, 1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(got.foreground, [1, 1, 1, 0, 0, 0, 0])
  np.testing.assert_array_equal(got.labels[:5], [3, 3, 1, 5, 5])
  np.testing.assert_allclose(
    got.rois[:5],
    [
      [0, 0, 10, 9],
      [0, 0, 10, 10],
      [30, 30, 40, 50],
      [50, 50, 60, 60],
      [0, 0, 10, 4],
    ],
  )
  want = np.zeros((7, 4))
  want[0] = [0, 10 * 0.5 / 9, 0, 5 * np.log(10 / 9)]  # weights of 10 and 5
  np.testing.assert_allclose(got.deltas, want, atol=1e-5)


def test_the_foreground_is_limited():
  got = rois_of(VOC._replace(num_rois=3, max_foreground=2))
  np.testing.assert_array_equal(got.valid, [1, 1, 1])
  np.testing.assert_array_equal(got.foreground, [1, 1, 0])
  assert got.labels[2] == 5


def test_the_models_anchors_are_those_of_the_options():
  with pytest.raises(UserError, match="6 anchors.*num_anchors=15; give it 6"):
    regions.make_anchors(make_small(num_anchors=15), SMALL, (4, 4))
  got = regions.make_anchors(make_small(), SMALL, (2, 3))
  assert got.shape == (2 * 3 * 6, 4)


# --- losses -----------------------------------------------------------------


def test_the_proposal_losses_are_divided_by_the_intended_number_of_samples():
  positive = jnp.array([[1, 0, 0, 0], [0, 0, 0, 0]], bool)
  negative = jnp.array([[0, 1, 0, 0], [1, 1, 1, 0]], bool)
  deltas = jnp.full((2, 4, 4), 0.25)
  targets = AnchorTargets(positive, negative, jnp.zeros((2, 4, 4)))
  got = detection.proposal_losses(
    jnp.zeros((2, 4)), deltas, targets, num_anchors=10
  )
  np.testing.assert_allclose(got["loss_rpn_cls"], 5 * np.log(2) / 20, rtol=1e-6)
  np.testing.assert_allclose(got["loss_rpn_box"], 1 / 20, rtol=1e-6)


def test_the_head_losses_are_divided_by_all_regions_of_the_batch():
  valid = jnp.array([[1, 1, 1], [1, 0, 0]], bool)
  foreground = jnp.array([[1, 0, 0], [1, 0, 0]], bool)
  labels = jnp.array([[1, 4, 4], [3, 4, 4]])
  # Only the deltas of the true class are wrong by 0.5, and those by 9 do not
  # count.
  deltas = np.full((2, 3, 4, 4), 9.0)
  deltas[0, 0, 1], deltas[1, 0, 3] = 0.5, -0.5
  targets = RoiTargets(
    jnp.zeros((2, 3, 4)), valid, foreground, labels, jnp.zeros((2, 3, 4))
  )
  got = detection.head_losses(
    jnp.zeros((2, 3, 5)), jnp.asarray(deltas), targets
  )
  np.testing.assert_allclose(got["loss_cls"], np.log(5), rtol=1e-6)
  np.testing.assert_allclose(got["loss_box"], 2 * 4 * 0.5 / 4, rtol=1e-6)
  np.testing.assert_allclose(got["foreground"], 2 / 4)
