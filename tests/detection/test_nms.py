"""Non-maximum suppression against its definition, box by box."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.detection import nms as suppression
from synthjax.detection.nms import batched_nms, nms


def plain_nms(boxes, scores, groups, valid, threshold, max_out):
  """Takes the best box left and drops those of its group that overlap it."""
  boxes = boxes.astype(np.float32)
  sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
  areas = sides[:, 0] * sides[:, 1]
  left, kept = valid.copy(), []
  while left.any() and len(kept) < max_out:
    # argmax takes the first of equals.
    best = np.argmax(np.where(left, scores, -np.inf))
    kept.append(best)
    width, height = np.maximum(
      np.minimum(boxes[:, 2:], boxes[best, 2:])
      - np.maximum(boxes[:, :2], boxes[best, :2]),
      0,
    ).T
    shared = width * height
    union = areas + areas[best] - shared
    overlap = shared / np.where(union > 0, union, 1)
    left &= ~((overlap > threshold) & (groups == groups[best]))
    left[best] = False
  return kept


def crowd(rng, n):
  """Boxes around a few centres, in float coordinates."""
  centre = rng.uniform(-50, 250, (1 + n // 12, 2))[
    rng.integers(1 + n // 12, size=n)
  ]
  centre = centre + rng.normal(scale=6, size=(n, 2))
  side = np.exp(rng.normal(3.5, 0.3, (n, 2)))
  return np.concatenate([centre - side / 2, centre + side / 2], -1)


def lattice(rng, n):
  """Boxes of few integer sizes and places: equal, touching, degenerate."""
  corner = 5 * rng.integers(-3, 6, (n, 2))
  return np.concatenate([corner, corner + 5 * rng.integers(-1, 5, (n, 2))], -1)


def make_cases(seed, num, n):
  """Returns boxes, scores, groups and valid of `num` cases of n boxes."""
  rng = np.random.default_rng(seed)
  cases = []
  for i in range(num):
    boxes = (crowd, lattice)[i % 2](rng, n).astype(np.float32)
    scores = rng.normal(size=n).astype(np.float32)
    if i % 3 == 0:  # many are equal
      scores = np.round(scores)
    groups = rng.integers(1 + i % 4, size=n)
    valid = rng.random(n) < rng.choice([0.0, 0.5, 1.0], p=[0.05, 0.45, 0.5])
    cases.append((boxes, scores, groups, valid))
  return [np.stack(arrays) for arrays in zip(*cases, strict=True)]


@pytest.mark.parametrize(
  ("num", "n", "threshold", "max_out"),
  [(300, 40, 0.5, 40), (300, 40, 0.7, 8), (24, 700, 0.5, 300)],
)
def test_kept_boxes_follow_the_definition(num, n, threshold, max_out):
  cases = make_cases(n, num, n)
  run = partial(batched_nms, threshold=threshold, max_out=max_out)
  index, valid = jax.jit(jax.vmap(run))(*cases)
  assert index.dtype == jnp.int32 and index.shape == (num, max_out)
  index, valid = np.asarray(index), np.asarray(valid)
  for i in range(num):
    want = plain_nms(*(array[i] for array in cases), threshold, max_out)
    assert list(index[i][valid[i]]) == want, f"case {i}"
    np.testing.assert_array_equal(valid[i], np.arange(max_out) < len(want))
    assert not index[i][~valid[i]].any()


def test_tiles_do_not_change_what_is_kept(monkeypatch):
  boxes, scores, _, valid = (array[0] for array in make_cases(0, 1, 300))
  run = partial(nms, boxes, scores, valid, threshold=0.4, max_out=300)
  want = run()
  monkeypatch.setattr(suppression, "TILE", 7)
  for got, expected in zip(run(), want, strict=True):
    np.testing.assert_array_equal(got, expected)


def test_a_long_chain_keeps_every_other_box():
  """Each box overlaps its neighbours alone, and half of those are dropped."""
  x = 4.0 * np.arange(600)  # IoU of neighbours 6 / 14, of the next 2 / 18
  boxes = np.stack([x, 0 * x, x + 10, 0 * x + 10], -1)
  index, valid = nms(boxes, -x, np.ones(600, bool), threshold=0.4, max_out=600)
  np.testing.assert_array_equal(index[valid], np.arange(0, 600, 2))


def test_an_overlap_of_exactly_the_threshold_keeps_the_box():
  boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 8]], np.float32)
  scores, valid = np.array([3.0, 2.0, 1.0]), np.ones(3, bool)
  index, kept = nms(boxes, scores, valid, threshold=0.7, max_out=3)
  np.testing.assert_array_equal(kept, [True, True, False])
  np.testing.assert_array_equal(index, [0, 1, 0])


def test_the_lower_index_is_kept_among_equal_scores():
  boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (500, 1))
  boxes[250:] += 100
  index, kept = nms(
    boxes, np.ones(500), np.arange(500) != 0, threshold=0.5, max_out=4
  )
  np.testing.assert_array_equal(index, [1, 250, 0, 0])
  np.testing.assert_array_equal(kept, [True, True, False, False])


def test_groups_stay_apart_however_far_out_their_boxes_are():
  boxes = np.array([[0, 0, 9, 9], [-1e6, 0, 1e6, 9], [0, 0, 9, 9]], np.float32)
  scores, valid = np.array([1.0, 2.0, 3.0]), np.ones(3, bool)
  run = partial(batched_nms, boxes, scores, threshold=0.5, max_out=3)
  index, kept = run(np.array([0, 1, 2]), valid)
  np.testing.assert_array_equal(index, [2, 1, 0])
  assert kept.all()
  index, kept = run(np.array([7, 1, 7]), valid)
  np.testing.assert_array_equal(index[kept], [2, 1])


def test_more_places_than_boxes_stay_empty():
  index, kept = nms(
    np.array([[0, 0, 5, 5]]),
    np.array([-1.0]),
    np.array([True]),
    threshold=0.5,
    max_out=6,
  )
  np.testing.assert_array_equal(index, np.zeros(6))
  np.testing.assert_array_equal(kept, np.arange(6) == 0)


def test_memory_grows_with_the_boxes_and_not_with_their_pairs():
  n = 12_000
  spec = jax.ShapeDtypeStruct
  compiled = (
    jax.jit(partial(nms, threshold=0.7, max_out=2000))
    .lower(
      spec((n, 4), jnp.float32), spec((n,), jnp.float32), spec((n,), jnp.bool)
    )
    .compile()
  )
  analysis = compiled.memory_analysis()
  if analysis is None:
    pytest.skip("this backend does not tell how much memory it takes")
  # All pairs would be 144 MB as booleans.
  assert analysis.temp_size_in_bytes < 8 * 2**20
