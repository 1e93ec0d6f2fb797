"""Tests of the vote of nearest neighbours, against hand-counted cases."""

import math

import numpy as np
import pytest

from synthjax.evals import neighbours

# Directions at 0, 30, 60 and 90 degrees, of any length.
ANGLES = np.radians([0, 30, 60, 90])
FEATURES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1) * [[1], [5], [2], [9]]
QUERY = np.array([[3.0, 0.0]])  # cosines 1, sqrt(3)/2, 1/2, 0


def test_one_neighbour_decides_alone():
  votes = neighbours.vote(FEATURES, [2, 0, 0, 1], QUERY, num_classes=3, k=1)
  np.testing.assert_allclose(votes, [[0, 0, 1]])


def test_neighbours_count_by_their_cosine():
  t = 0.5
  votes = neighbours.vote(
    FEATURES, [2, 0, 0, 1], QUERY, num_classes=4, k=3, temperature=t
  )
  near, middle, far = (math.exp(c / t) for c in (1, math.sqrt(3) / 2, 0.5))
  total = near + middle + far
  expected = [[(middle + far) / total, 0, near / total, 0]]
  np.testing.assert_allclose(votes, expected, rtol=1e-5)


def test_the_temperature_tells_the_nearest_from_the_many():
  """Of cosines 1, .87 and .5: two against one where all count alike."""
  choose = lambda t: neighbours.vote(
    FEATURES, [1, 0, 0, 1], QUERY, num_classes=2, k=3, temperature=t
  ).argmax()
  assert choose(10.0) == 0  # two of about 1/3 each
  assert choose(0.07) == 1  # exp(-.134 / .07) = 0.15 against 1
  assert choose(1e-4) == 1  # and exp(1e4) does not overflow


def test_the_default_is_that_of_the_authors_with_twenty_neighbours():
  rng = np.random.default_rng(0)
  features, queries = rng.normal(size=(50, 6)), rng.normal(size=(7, 6))
  labels = rng.integers(0, 3, 50)
  found = neighbours.vote(features, labels, queries, num_classes=3)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  for query, votes in zip(unit(queries), found, strict=True):
    cosines = unit(features) @ query
    expected = np.zeros(3)
    for i in np.argsort(-cosines)[:20]:
      expected[labels[i]] += math.exp(cosines[i] / 0.07)
    np.testing.assert_allclose(votes, expected / expected.sum(), rtol=1e-4)


def test_chunks_and_more_neighbours_than_images_change_nothing():
  rng = np.random.default_rng(1)
  features, queries = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
  labels = [0, 1, 0, 1, 1]
  whole = neighbours.vote(features, labels, queries, num_classes=2, k=5)
  parts = neighbours.vote(
    features, labels, queries, num_classes=2, k=99, chunk=3
  )
  np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(labels=[0, 1]), r"features \(4, 2\), labels \(2,\)"),
    (dict(queries=np.ones((1, 3))), r"queries \(1, 3\)"),
    (dict(labels=[0, 1, 2, 3]), "labels from 0 to 3, but there are 3"),
    (dict(k=0), "k=0"),
    (dict(temperature=0), "temperature=0"),
  ],
)
def test_what_makes_no_sense_is_refused(change, words):
  fields = dict(
    features=FEATURES, labels=[0, 1, 2, 0], queries=QUERY, num_classes=3
  )
  with pytest.raises(ValueError, match=words):
    neighbours.vote(**fields | change)
