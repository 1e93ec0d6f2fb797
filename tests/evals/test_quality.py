"""Quality measures of image sets: references, closed forms, counted cases.

The recorded figures are those of clean-fid 0.1.35, torch-fidelity 0.4.0, prdc
0.2 and vendi-score 0.0.3, called with the recorded features in float64: 400 and
350 draws of two Gaussians in 24 dimensions, rounded to float16.
"""

import numpy as np
import pytest

from synthjax.evals import diversity, image_quality, neighbours

CLOSE = dict(rtol=1e-4)


@pytest.fixture
def recorded(golden):
  return golden("quality")


def draw(seed, n, d, shift=0.0):
  x = np.random.default_rng(seed).normal(size=(n, d)) + shift
  return x.astype(np.float32)


# --- Fréchet distance -------------------------------------------------------


@pytest.mark.golden
@pytest.mark.parametrize(
  ("key", "n", "m"), [("frechet", 400, 350), ("frechet_unequal", 60, 40)]
)
def test_the_frechet_distance_is_that_of_clean_fid(recorded, key, n, m):
  found = image_quality.frechet_distance(recorded["x"][:n], recorded["y"][:m])
  np.testing.assert_allclose(found, recorded[f"cleanfid/{key}"], rtol=1e-9)


def test_gaussians_of_one_shape_are_apart_by_their_means():
  x = draw(0, 50, 6)
  shift = np.arange(6)
  found = image_quality.frechet_distance(x.astype(np.float64), x + shift)
  np.testing.assert_allclose(found, np.square(shift).sum(), rtol=1e-6)
  assert image_quality.frechet_distance(x, x) < 1e-12


def test_diagonal_covariances_have_a_closed_form():
  a, b = np.array([1.0, 4, 9]), np.array([4.0, 1, 0])
  found = image_quality.distance_of_moments(
    np.zeros(3), np.diag(a), np.ones(3), np.diag(b)
  )
  want = 3 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
  np.testing.assert_allclose(found, want, rtol=1e-12)


def test_fewer_images_than_features_are_no_trouble():
  """tr (A B)^(1/2) is the nuclear norm of the products of centred rows."""
  x, y = draw(1, 12, 80).astype(np.float64), draw(2, 9, 80, 0.5)
  of_x, of_y = x - x.mean(0), y - y.mean(0, dtype=np.float64)
  root = np.linalg.norm(of_x @ of_y.T, "nuc") / np.sqrt(11 * 8)
  want = (
    np.square(x.mean(0) - y.mean(0, dtype=np.float64)).sum()
    + np.square(of_x).sum() / 11
    + np.square(of_y).sum() / 8
    - 2 * root
  )
  np.testing.assert_allclose(
    image_quality.frechet_distance(x, y), want, rtol=1e-9
  )


def test_moments_do_not_depend_on_blocks(monkeypatch):
  x = draw(3, 100, 5, 2.0).astype(np.float16)
  monkeypatch.setattr(image_quality, "_ROWS", 7)
  mean, cov = image_quality.moments(x)
  np.testing.assert_allclose(mean, x.astype(float).mean(0), rtol=1e-12)
  want = np.cov(x.astype(float), rowvar=False)
  np.testing.assert_allclose(cov, want, rtol=1e-10)


def test_one_image_has_no_covariance():
  with pytest.raises(ValueError, match="2 or more rows, found 1"):
    image_quality.moments(np.ones((1, 3)))


# --- kernel distance --------------------------------------------------------


def unbiased(x, y):
  """The definition, in float64."""
  k = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
  x, y = x.astype(np.float64), y.astype(np.float64)
  n, m = len(x), len(y)
  of_x, of_y = k(x, x), k(y, y)
  return (
    (of_x.sum() - np.trace(of_x)) / (n * (n - 1))
    + (of_y.sum() - np.trace(of_y)) / (m * (m - 1))
    - 2 * k(x, y).mean()
  )


@pytest.mark.golden
def test_the_kernel_distance_is_that_of_torch_fidelity(recorded):
  x, y = recorded["x"], recorded["y"]
  found = image_quality.kernel_distance(x[:350], y)
  np.testing.assert_allclose(found, recorded["fidelity/mmd2_all"], **CLOSE)
  mean, std = image_quality.kernel_distance_of_subsets(
    x, y, num_subsets=20, subset_size=100
  )
  np.testing.assert_allclose(mean, recorded["fidelity/kid_mean"], **CLOSE)
  np.testing.assert_allclose(std, recorded["fidelity/kid_std"], **CLOSE)


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_the_kernel_distance_is_its_definition_in_blocks(monkeypatch, scale):
  """Also where all kernels are nearly 1, and sets differ in size."""
  monkeypatch.setattr(image_quality, "_SIDE", 32)
  x, y = scale * draw(4, 70, 6), scale * draw(5, 45, 6, 0.4)
  found = image_quality.kernel_distance(x, y)
  np.testing.assert_allclose(found, unbiased(x, y), **CLOSE)
  np.testing.assert_allclose(
    image_quality.kernel_distance(y, x), found, **CLOSE
  )


# --- precision, recall, density, coverage -----------------------------------


@pytest.mark.golden
@pytest.mark.parametrize("k", [3, 5])
def test_balls_are_those_of_prdc(recorded, k):
  found = image_quality.compare_manifolds(recorded["x"], recorded["y"], k=k)
  np.testing.assert_allclose(found, recorded[f"prdc/{k}"], **CLOSE)


@pytest.mark.golden
def test_precision_and_recall_are_those_of_torch_fidelity(recorded):
  found = image_quality.compare_manifolds(recorded["x"], recorded["y"], k=3)
  want = recorded["fidelity/precision_recall"]
  np.testing.assert_allclose(found[:2], want, **CLOSE)


def test_balls_are_counted_by_hand():
  """On a line, with k=1: real balls (-1, 1), (0, 2) and (1, 13)."""
  real = np.array([[0.0], [1.0], [7.0]])
  generated = np.array([[0.5], [20.0], [30.0], [1.5]])
  found = image_quality.compare_manifolds(real, generated, k=1)
  # 0.5 lies in (-1, 1) and (0, 2), 1.5 in (0, 2) and (1, 13).
  assert found.precision == 2 / 4
  assert found.density == 4 / 4
  assert found.coverage == 3 / 3
  # Generated balls: (-0.5, 1.5), (10, 30), (20, 40), (0.5, 2.5).
  np.testing.assert_allclose(found.recall, 2 / 3)


def test_blocks_change_no_count(monkeypatch):
  real, generated = draw(6, 150, 8), draw(7, 90, 8, 0.3)
  whole = image_quality.compare_manifolds(real, generated, k=3)
  monkeypatch.setattr(neighbours, "_ELEMENTS", 32 * 128)
  assert image_quality.compare_manifolds(real, generated, k=3) == whole


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("itself", [False, True])
def test_the_nearest_are_those_of_a_whole_sort(monkeypatch, k, itself):
  monkeypatch.setattr(neighbours, "_ELEMENTS", 16 * 192)
  x = draw(8, 130, 5, 3.0)
  y = x if itself else draw(9, 70, 5, 3.0)
  distances, rows = neighbours.nearest(x, None if itself else y, k=k)
  whole = np.square(x[:, None].astype(float) - y).sum(-1)
  if itself:
    np.fill_diagonal(whole, np.inf)
  np.testing.assert_array_equal(rows, np.argsort(whole, 1)[:, :k])
  np.testing.assert_allclose(distances, np.sort(whole, 1)[:, :k], rtol=1e-4)


def test_more_neighbours_than_rows_are_refused():
  with pytest.raises(ValueError, match="k=3, but there are 3 rows"):
    neighbours.nearest(np.ones((3, 2)), k=3)


# --- diversity and texts ----------------------------------------------------


@pytest.mark.golden
def test_the_vendi_score_is_that_of_its_authors(recorded):
  x, y = recorded["x"], recorded["y"]
  for found, key in [(x, "x"), (y, "y"), (x[:10], "few")]:
    want = recorded[f"vendi/{key}"]
    np.testing.assert_allclose(diversity.vendi_score(found), want, **CLOSE)


def test_the_vendi_score_counts_what_is_different():
  assert diversity.vendi_score(np.ones((9, 4))) == pytest.approx(1)
  corners = np.repeat(np.eye(6), 5, axis=0) * 3
  assert diversity.vendi_score(corners) == pytest.approx(6)
  assert diversity.vendi_score(np.eye(6)[:2]) == pytest.approx(2)


def test_the_mean_cosine_distance_is_that_of_all_pairs():
  x = draw(10, 20, 4)
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  pairs = np.triu_indices(20, 1)
  want = 1 - (unit @ unit.T)[pairs].mean()
  np.testing.assert_allclose(diversity.mean_cosine_distance(x), want, rtol=1e-5)


def test_a_class_of_one_image_has_no_diversity():
  found = diversity.within_classes(
    np.eye(3), np.array([0, 0, 2]), num_classes=3
  )
  assert found["vendi"] == [pytest.approx(2), None, None]
  assert found["distance"] == [pytest.approx(1), None, None]


def test_the_clip_score_is_a_mean_cosine():
  images = np.array([[2.0, 0], [0, 3], [1, 0]])
  texts = np.array([[1.0, 0], [1, 1], [-1, 0]])
  want = 100 * (1 + np.sqrt(0.5) + 0) / 3
  assert diversity.clip_score(images, texts) == pytest.approx(want)


# --- duplicates and neighbours in another set -------------------------------


def test_images_are_counted_that_are_nearest_to_their_class():
  texts = np.array([[9.0, 0], [0, 1.0]], np.float32)  # of any length
  images = np.array([[1, 0.5], [1, 2], [0, 3]], np.float32)
  measured = image_quality.measure(images, np.array([0, 0, 1]), texts)
  assert measured["top1"] == pytest.approx(2 / 3)


def test_near_duplicates_are_found_across_blocks(monkeypatch):
  monkeypatch.setattr(neighbours, "_SIDE", 16)
  x = draw(11, 60, 32)
  x[50] = 7 * x[3] + 1e-3  # nearly the same direction, far apart in rows
  x[20] = x[3]
  x[59] = x[40]
  found = neighbours.near_duplicates(x, threshold=0.99, limit=2)
  assert found.num_pairs == 4  # (3, 20), (3, 50), (20, 50), (40, 59)
  assert len(found.pairs) == 2
  assert (3, 20) in [tuple(p) for p in found.pairs]
  np.testing.assert_allclose(found.cosines, 1, atol=1e-5)
  together = lambda i: set(np.flatnonzero(found.groups == found.groups[i]))
  assert together(3) == {3, 20, 50} and together(40) == {40, 59}
  assert len(set(found.groups)) == 57


def test_near_duplicates_within_cells_are_counted_once(monkeypatch):
  """Those of rows that share a cell, whatever other pairs there are."""
  monkeypatch.setattr(neighbours, "_SIDE", 16)
  base = draw(14, 40, 16)
  x = np.concatenate([base, base + 1e-3, base[:20]])
  rng = np.random.default_rng(0)
  cells = np.stack([rng.permutation(5)[:2] for _ in x])
  found = neighbours.near_duplicates(x, threshold=0.99, cells=cells, limit=500)
  every = neighbours.near_duplicates(x, threshold=0.99, limit=500)
  shared = lambda pair: bool({*cells[pair[0]]} & {*cells[pair[1]]})
  want = {tuple(pair) for pair in every.pairs.tolist() if shared(pair)}
  assert 0 < len(want) < every.num_pairs
  assert found.num_pairs == len(want)
  assert {tuple(pair) for pair in found.pairs.tolist()} == want
  of_want = neighbours._join(np.arange(100), [np.array(sorted(want))])
  np.testing.assert_array_equal(found.groups, of_want)


def test_faiss_puts_the_same_directions_into_the_same_cells():
  pytest.importorskip("faiss")
  x = draw(15, 4000, 16).astype(np.float16)
  x[2000:] = 2 * x[:2000]
  cells = neighbours.assign_cells(x)
  assert cells.shape == (4000, 2) and cells.max() == 3
  assert (cells[:, 0] != cells[:, 1]).all()
  np.testing.assert_array_equal(cells[:2000], cells[2000:])


def test_near_rows_share_a_cell():
  """At least 98 % of the pairs with a cosine of 0.95, among 40 cells."""
  pytest.importorskip("faiss")
  centres = draw(16, 400, 64)
  x = neighbours.unit(np.repeat(centres, 100, 0) + 0.7 * draw(17, 40_000, 64))
  far = draw(18, 2000, 64)
  far -= (far * x[:2000]).sum(1, keepdims=True) * x[:2000]
  far = neighbours.unit(far)
  x[-2000:] = 0.95 * x[:2000] + np.sqrt(1 - 0.95**2) * far
  cells = neighbours.assign_cells(x)
  assert cells.max() == 39
  a, b = cells[:2000, :, None], cells[-2000:, None, :]
  share = (a == b).any((1, 2)).mean()
  assert share >= 0.98


def test_the_threshold_is_reached_or_not():
  angle = np.arccos(0.9)
  x = np.array([[1, 0], [np.cos(angle), np.sin(angle)], [0, 0]])
  for threshold, pairs in [(0.899, 1), (0.901, 0)]:
    found = neighbours.near_duplicates(x, threshold=threshold)
    assert found.num_pairs == pairs
  with pytest.raises(ValueError, match="must be above 0"):
    neighbours.near_duplicates(x, threshold=0)


def test_the_nearest_in_another_set_is_told_by_its_cosine():
  x, y = draw(12, 30, 8), draw(13, 20, 8)
  y[11] = 5 * x[4]
  cosines, rows = neighbours.nearest_cosines(x, y)
  unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
  whole = unit(x) @ unit(y).T
  np.testing.assert_array_equal(rows, whole.argmax(1))
  np.testing.assert_allclose(cosines, whole.max(1), atol=1e-6)
  assert rows[4] == 11 and cosines[4] == pytest.approx(1)
