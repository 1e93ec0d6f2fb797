"""Tests of retrieval: hand-counted pools, ties, chunks and bad input."""

import numpy as np
import pytest

from synthjax.adapt import feature_sets
from synthjax.runtime.errors import UserError

# Cosines to the classes (1, 0) and (0, 1); lengths differ and do not count.
POOL = np.array(
  [[3.0, 4.0], [0.0, 9.0], [5.0, 0.0], [0.8, 0.6], [0.5, 0.0], [1.0, 1.0]]
)
CLASSES = np.array([[2.0, 0.0], [0.0, 0.5]])


def by_class(found):
  return [found.rows[found.labels == c].tolist() for c in range(2)]


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_each_class_finds_its_nearest_rows(chunk):
  found = feature_sets.nearest_rows(POOL, CLASSES, per_class=3, chunk=chunk)
  # Rows 2 and 4 have cosine 1 to class 0: the lower comes first.
  assert by_class(found) == [[2, 4, 3], [1, 0, 5]]
  np.testing.assert_array_equal(found.labels, [0, 0, 0, 1, 1, 1])
  np.testing.assert_allclose(
    found.cosines, [1, 1, 0.8, 1, 0.8, 2**-0.5], rtol=1e-6
  )


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_a_row_may_be_kept_for_its_best_class_alone(chunk):
  found = feature_sets.nearest_rows(
    POOL, CLASSES, per_class=4, best_class_only=True, chunk=chunk
  )
  # Row 5 is as near to both, and goes to the first. Class 1 has only two rows.
  assert by_class(found) == [[2, 4, 3, 5], [1, 0]]
  assert len(set(found.rows)) == len(found.rows)
  several = feature_sets.nearest_rows(POOL, CLASSES, per_class=4, chunk=chunk)
  assert by_class(several) == [[2, 4, 3, 5], [1, 0, 5, 3]]


def test_the_first_of_equal_rows_are_taken():
  pool = np.ones((50, 3), np.float16)
  for chunk in (7, 50):
    found = feature_sets.nearest_rows(
      pool, np.ones((2, 3)), per_class=9, chunk=chunk
    )
    assert by_class(found) == [list(range(9))] * 2


def test_a_small_pool_gives_all_that_it_has():
  found = feature_sets.nearest_rows(POOL[:2], CLASSES, per_class=16)
  assert by_class(found) == [[0, 1], [1, 0]]
  none = feature_sets.nearest_rows(POOL[:0], CLASSES, per_class=16)
  assert none.rows.shape == none.labels.shape == none.cosines.shape == (0,)


@pytest.mark.parametrize("best_class_only", [False, True])
def test_chunks_of_a_file_find_what_sorting_all_does(tmp_path, best_class_only):
  rng = np.random.default_rng(0)
  np.save(tmp_path / "pool.npy", rng.normal(size=(1000, 8)).astype(np.float16))
  pool = np.load(tmp_path / "pool.npy", mmap_mode="r")
  classes = rng.normal(size=(5, 8))
  found = feature_sets.nearest_rows(
    pool, classes, per_class=40, best_class_only=best_class_only, chunk=64
  )
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  cosine = unit(np.float64(pool)) @ unit(classes).T
  for c in range(5):
    own = cosine.argmax(1) == c if best_class_only else np.full(1000, True)
    order = np.argsort(np.where(own, -cosine[:, c], 2.0), kind="stable")[:40]
    np.testing.assert_array_equal(found.rows[found.labels == c], order)


def test_pools_that_cannot_be_searched_say_why():
  bad = POOL.copy()
  bad[3], bad[5, 0] = 0.0, np.nan
  with pytest.raises(UserError, match=r"pool features have 2 rows.*row 3"):
    feature_sets.nearest_rows(bad, CLASSES, per_class=1, chunk=3)
  with pytest.raises(UserError, match="class features have 1 rows"):
    feature_sets.nearest_rows(POOL, CLASSES * [[0], [1]], per_class=1)
  with pytest.raises(UserError, match="same encoder"):
    feature_sets.nearest_rows(POOL, np.ones((2, 3)), per_class=1)
  with pytest.raises(UserError, match="per_class=0"):
    feature_sets.nearest_rows(POOL, CLASSES, per_class=0)
