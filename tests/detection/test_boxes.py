"""Box geometry, anchors, matching and proposals, against plain readings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.detection import anchors, geometry, regions
from synthjax.detection.regions import Options

OPTIONS = Options()
RPN, HEAD = OPTIONS.anchor_weights, OPTIONS.roi_weights
make_anchors = partial(
  anchors.make_anchors, stride=16, sizes=OPTIONS.sizes, ratios=OPTIONS.ratios
)
select_proposals = partial(regions.select_proposals, threshold=0.7, weights=RPN)


@pytest.fixture
def recorded(golden):
  return golden("detection_boxes")


@pytest.mark.golden
def test_anchors_are_those_of_the_reference(recorded):
  np.testing.assert_allclose(
    make_anchors((1, 1)), recorded["out/cell_anchors"], rtol=1e-5
  )
  np.testing.assert_allclose(
    make_anchors((3, 4)),
    recorded["out/grid_anchors_h3_w4"],
    rtol=1e-5,
    atol=1e-5,  # of coordinates of up to 410 px, where a sum is nearly 0
  )


@pytest.mark.golden
@pytest.mark.parametrize(("stage", "weights"), [("rpn", RPN), ("head", HEAD)])
def test_the_box_coder_is_that_of_the_reference(recorded, stage, weights):
  source, target = recorded["in/src_boxes"], recorded["in/target_boxes"]
  close = partial(np.testing.assert_allclose, rtol=1e-5)
  deltas = geometry.encode(target, source, weights)
  # A delta is a difference, and exact only to the size of what it is between.
  close(deltas, recorded[f"out/{stage}/deltas"], atol=1e-5)
  random = recorded[f"in/{stage}/random_deltas"]
  want = recorded[f"out/{stage}/decoded"]
  scale = np.abs(want).max(-1, keepdims=True)
  close(
    geometry.decode(random, source, weights) / scale, want / scale, atol=1e-6
  )


@pytest.mark.golden
def test_matches_are_those_of_the_reference(recorded):
  overlap = geometry.iou(recorded["in/gt_boxes"], recorded["in/anchors"])
  want = recorded["out/iou_gt_by_anchor"]
  np.testing.assert_allclose(overlap, want, rtol=1e-5, atol=1e-7)
  valid = np.ones(len(want), bool)
  for stage, options in (
    ("rpn", dict(low=0.3, high=0.7, low_quality=True)),
    ("head", dict(low=0.5, high=0.5, low_quality=False)),
  ):
    index, label = anchors.match(jnp.asarray(overlap), valid, **options)
    assert index.dtype == jnp.int32 and label.dtype == jnp.int8
    np.testing.assert_array_equal(index, recorded[f"out/{stage}_match_index"])
    np.testing.assert_array_equal(label, recorded[f"out/{stage}_match_label"])


def test_overlaps_counted_by_hand():
  a = jnp.array([[0, 0, 4, 4], [3, 3, 3, 9], [5, 5, 2, 2]], jnp.float32)
  b = jnp.array(
    [[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [3, 3, 3, 9], [-4, 0, 0, 4]],
    jnp.float32,
  )
  np.testing.assert_array_equal(geometry.area(a), [16, 0, 0])
  want = np.zeros((3, 5))  # what touches or is degenerate overlaps nothing
  want[0, :2] = 1, 4 / 28
  np.testing.assert_allclose(geometry.iou(a, b), want, rtol=1e-6)


def test_decoding_inverts_encoding_and_bounds_the_growth():
  rng = np.random.default_rng(0)
  corner, size = rng.uniform(-50, 800, (2, 64, 2)), rng.uniform(4, 200, (64, 2))
  boxes = np.concatenate([corner[0], corner[0] + size], -1)
  others = np.concatenate([corner[1], corner[1] + size[::-1]], -1)
  for weights in (RPN, HEAD):
    deltas = geometry.encode(boxes, others, weights)
    back = geometry.decode(deltas, others, weights)
    np.testing.assert_allclose(back, boxes, rtol=1e-5, atol=1e-3)

  grown = geometry.decode(
    np.array([[0, 0, 100.0, -100.0]]), np.array([[0, 0, 16.0, 16.0]]), RPN
  )
  np.testing.assert_allclose(grown, [[-492, 8, 508, 8]], rtol=1e-5)


def test_decoding_gives_a_box_for_each_class():
  deltas = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
  rois = np.array([[0, 0, 9, 9], [2, 3, 20, 30], [5, 5, 6, 6]], np.float32)
  boxes = geometry.decode(deltas, rois[:, None], HEAD)
  for k in range(5):
    np.testing.assert_allclose(
      boxes[:, k], geometry.decode(deltas[:, k], rois, HEAD), rtol=1e-6
    )


def test_padding_encodes_to_zeros_with_gradients_of_zero():
  boxes = jnp.array([[1, 1, 9, 5], [0, 0, 0, 0], [1, 1, 9, 5]], jnp.float32)
  others = jnp.array([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0]], jnp.float32)
  np.testing.assert_allclose(
    geometry.encode(boxes, others, RPN),
    [[0.75, 0.25, np.log(2), 0], [0] * 4, [0] * 4],
    rtol=1e-6,
  )
  for i in (0, 1):
    grads = jax.grad(lambda b, a: geometry.encode(b, a, HEAD).sum(), argnums=i)(
      boxes, others
    )
    assert np.isfinite(grads).all()
    assert np.any(grads[0]) and not np.any(grads[1:])
  deltas = jnp.zeros((3, 4))
  decode = lambda d: geometry.decode(d, others, RPN).sum()
  grads = jax.jit(jax.grad(decode))(deltas)
  assert np.isfinite(grads).all()


def test_clipping_empties_boxes_outside():
  boxes = np.array([[-5, -5, 50, 5], [45, 0, 60, 60], [2, 3, 4, 5]])
  np.testing.assert_array_equal(
    geometry.clip(boxes, np.array([30, 40])),  # 30 high, 40 wide
    [[0, 0, 40, 5], [40, 0, 40, 30], [2, 3, 4, 5]],
  )


def test_half_precision_boxes_are_computed_in_float32():
  boxes = jnp.array([[0, 0, 4, 4]], jnp.bfloat16)
  for result in (
    geometry.area(boxes),
    geometry.iou(boxes, boxes),
    geometry.encode(boxes, boxes, RPN),
    geometry.decode(boxes, boxes, RPN),
    geometry.clip(boxes, jnp.array([8, 8])),
  ):
    assert result.dtype == jnp.float32


def test_anchors_run_by_row_then_column_then_size_then_ratio():
  boxes = make_anchors((2, 3), stride=8, sizes=(4, 8), ratios=(1, 4))
  assert boxes.dtype == np.float32
  boxes = boxes.reshape(2, 3, 2, 2, 4)
  np.testing.assert_array_equal(boxes[0, 0, 0, 0], [-2, -2, 2, 2])
  np.testing.assert_array_equal(boxes[0, 0, 0, 1], [-1, -4, 1, 4])
  np.testing.assert_array_equal(boxes[1, 2, 1, 0], [12, 4, 20, 12])


OVERLAPS = np.array(
  [
    [0.8, 0.6, 0.2, 0.1, 0.0],
    [0.1, 0.6, 0.29, 0.3, 0.0],
    [0.0, 0.1, 0.1, 0.0, 0.0],
    [0.9, 0.9, 0.9, 0.9, 0.9],  # padding
  ],
  np.float32,
)
VALID = np.array([True, True, True, False])


def test_matches_counted_by_hand():
  match = partial(anchors.match, OVERLAPS, VALID, low=0.3, high=0.7)
  index, label = match(low_quality=False)
  np.testing.assert_array_equal(index, [0, 0, 1, 1, 0])
  np.testing.assert_array_equal(label, [1, -1, 0, -1, 0])
  # The second object's best anchor is the second, which overlaps the first as
  # much; the third object's best anchors are tied.
  index, label = match(low_quality=True)
  np.testing.assert_array_equal(index, [0, 0, 1, 1, 0])
  np.testing.assert_array_equal(label, [1, 1, 1, -1, 0])


@pytest.mark.parametrize("low_quality", [True, False])
def test_without_objects_all_anchors_are_negative(low_quality):
  index, label = anchors.match(
    OVERLAPS, np.zeros(4, bool), low=0.3, high=0.7, low_quality=low_quality
  )
  np.testing.assert_array_equal(index, np.zeros(5))
  np.testing.assert_array_equal(label, np.zeros(5))


def test_an_object_that_overlaps_no_anchor_makes_none_positive():
  _, label = anchors.match(
    np.zeros((2, 5), np.float32),
    np.array([True, False]),
    low=0.3,
    high=0.7,
    low_quality=True,
  )
  np.testing.assert_array_equal(label, np.zeros(5))


@pytest.mark.parametrize(
  ("num_positive", "num_negative", "want"),
  [
    (40, 200, (8, 24)),
    (5, 200, (5, 27)),
    (40, 10, (8, 10)),
    (0, 200, (0, 32)),
    (0, 0, (0, 0)),
  ],
)
def test_samples_have_exact_counts(num_positive, num_negative, want):
  label = np.full(256, -1, np.int8)
  label[:num_positive] = 1
  label[num_positive : num_positive + num_negative] = 0
  label = np.random.default_rng(0).permutation(label)
  rngs = jax.random.split(jax.random.key(0), 20)
  positive, negative = jax.vmap(
    lambda rng: anchors.draw_subsample(rng, label, num=32, max_positive=8)
  )(rngs)
  np.testing.assert_array_equal(positive.sum(1), want[0])
  np.testing.assert_array_equal(negative.sum(1), want[1])
  assert (label == 1)[None].repeat(20, 0)[np.asarray(positive)].all()
  assert (label == 0)[None].repeat(20, 0)[np.asarray(negative)].all()


def test_more_samples_than_anchors_take_them_all():
  label = np.array([1, 0, -1, 1], np.int8)
  positive, negative = anchors.draw_subsample(
    jax.random.key(0), label, num=32, max_positive=8
  )
  np.testing.assert_array_equal(positive, label == 1)
  np.testing.assert_array_equal(negative, label == 0)


def test_samples_are_uniform():
  label = np.array([1] * 6 + [0] * 10 + [-1] * 2, np.int8)
  rngs = jax.random.split(jax.random.key(0), 4000)
  positive, negative = jax.vmap(
    lambda rng: anchors.draw_subsample(rng, label, num=8, max_positive=3)
  )(rngs)
  # Each is drawn half of the time: five deviations are 0.04.
  np.testing.assert_allclose(positive.mean(0)[:6], 0.5, atol=0.04)
  np.testing.assert_allclose(negative.mean(0)[6:16], 0.5, atol=0.04)
  assert not positive[:, 6:].any() and not negative[:, :6].any()


def plain_proposals(logits, deltas, boxes, size, pre_top, post_top, threshold):
  """Sorts, decodes, clips and suppresses one box after the other."""
  kept = []
  for i in np.argsort(-logits, kind="stable")[:pre_top]:
    x0, y0, x1, y1 = boxes[i]
    dx, dy, dw, dh = deltas[i]
    w, h = x1 - x0, y1 - y0
    x, y = x0 + w / 2 + dx * w, y0 + h / 2 + dy * h
    w, h = (s * np.exp(min(d, np.log(62.5))) for s, d in ((w, dw), (h, dh)))
    box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    box = np.clip(box, 0, [size[1], size[0], size[1], size[0]])
    if not (box[2] > box[0] and box[3] > box[1]):
      continue
    if all(plain_iou(box, other) <= threshold for other, _ in kept):
      kept.append((box, logits[i]))
  return kept[:post_top]


def plain_iou(a, b):
  w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
  h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
  areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
  return w * h / (sum(areas) - w * h)


@pytest.mark.parametrize(("pre_top", "post_top"), [(150, 20), (1000, 200)])
def test_proposals_are_a_plain_reading_of_their_definition(pre_top, post_top):
  boxes = make_anchors((6, 5), sizes=(16, 32))  # 180, beyond 60 x 50
  rng = np.random.default_rng(pre_top)
  logits = rng.normal(size=len(boxes)).astype(np.float32)
  deltas = rng.normal(scale=0.3, size=(len(boxes), 4)).astype(np.float32)
  size = np.array([60.0, 50.0])
  got, scores, valid = select_proposals(
    logits, deltas, boxes, size, pre_top=pre_top, post_top=post_top
  )
  want = plain_proposals(logits, deltas, boxes, size, pre_top, post_top, 0.7)
  assert got.shape == (post_top, 4) and scores.shape == (post_top,)
  n = len(want)
  np.testing.assert_array_equal(valid, np.arange(post_top) < n)
  np.testing.assert_allclose(
    got[:n], [box for box, _ in want], rtol=1e-5, atol=1e-4
  )
  np.testing.assert_array_equal(scores[:n], [score for _, score in want])
  assert not got[n:].any() and not scores[n:].any()


def test_proposals_drop_boxes_that_are_not_finite_and_pass_no_gradient():
  boxes = make_anchors((2, 2), sizes=(16,))
  deltas = np.zeros((len(boxes), 4), np.float32)
  deltas[3] = np.nan
  logits = np.zeros(len(boxes), np.float32)
  logits[5] = np.nan

  def total(logits, deltas):
    best = select_proposals(
      logits, deltas, boxes, jnp.array([32, 32]), pre_top=99, post_top=20
    )
    return best[0].sum() + best[1].sum(), best

  grads, (best, scores, valid) = jax.grad(total, (0, 1), has_aux=True)(
    logits, deltas
  )
  assert valid.any() and np.isfinite(best).all() and np.isfinite(scores).all()
  assert valid.sum() <= len(boxes) - 2
  assert not any(np.any(grad) for grad in grads)
