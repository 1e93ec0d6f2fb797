"""Tests of the probes that measure features while they are trained."""

import numpy as np
import pytest

from synthjax.adapt import linear_probe
from synthjax.config import schema
from synthjax.evals import neighbours
from synthjax.training import monitor
from synthjax.training.monitor import Knn, LinearProbe, Monitor


def blobs(n, *, noise, num_classes=3, dim=6, seed=0):
  """Returns features around the corners of a cube, and their labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, num_classes, n)
  features = 3 * np.eye(dim)[labels] + rng.normal(0, noise, (n, dim))
  return features.astype(np.float32), labels


def probe(num_classes=3, **options):
  probe = LinearProbe(**options)
  return probe.classify(num_classes, fit=linear_probe.classify)


def test_each_probe_is_measured_on_the_held_out_images():
  pool, held_out = blobs(90, noise=0.1), blobs(40, noise=0.1, seed=1)
  watch = monitor.make_monitor(
    lambda state, images: (state * images[0], images[1]),
    pool,
    held_out,
    {"knn": Knn(k=5).classify(3), "linear_probe": probe()},
  )
  assert watch(1.0) == {"knn": 1.0, "linear_probe": 1.0}
  # Of features that are all the same, the pool's largest class is found.
  assert max(watch(0.0).values()) < 0.6


def test_the_vote_is_that_of_the_nearest():
  pool, held_out = blobs(60, noise=2.0), blobs(50, noise=2.0, seed=1)
  want = neighbours.vote(
    *pool, held_out[0], num_classes=3, k=7, temperature=0.2
  )
  found = Knn(k=7, temperature=0.2).classify(3)(*pool, held_out[0])
  np.testing.assert_array_equal(found, want)


def test_a_linear_probe_sees_neither_scale_nor_offset():
  """As both change in training, one penalty serves all steps."""
  pool, held_out = blobs(90, noise=1.5), blobs(40, noise=1.5, seed=1)
  scale = np.array([1, 10, 100, 0.1, 0.01, 1], np.float32)
  want = probe()(*pool, held_out[0])
  found = probe()(pool[0] * scale + 5, pool[1], held_out[0] * scale + 5)
  np.testing.assert_allclose(found, want, atol=2e-2)
  accuracy = np.mean(want.argmax(-1) == held_out[1])
  assert 0.8 < accuracy < 1  # of classes that overlap


def test_a_unit_that_is_always_off_tells_nothing():
  pool, held_out = blobs(90, noise=0.1), blobs(40, noise=0.1, seed=1)
  pool[0][:, 4] = 0.0
  held_out[0][:, 4] = 1e3
  scores = probe()(*pool, held_out[0])
  np.testing.assert_array_equal(scores.argmax(-1), held_out[1])
  # And where all are off, all classes are as likely as in the pool.
  labels = np.array([0, 1, 1] * 30)
  scores = probe()(np.zeros((90, 6), np.float32), labels, held_out[0])
  np.testing.assert_array_equal(scores.argmax(-1), np.ones(40))


def test_the_penalty_is_that_of_the_argument():
  pool, held_out = blobs(90, noise=1.0), blobs(40, noise=1.0, seed=1)
  spread = lambda strength: np.std(probe(strength=strength)(*pool, held_out[0]))
  assert spread(1e-3) > 2 * spread(10.0) > 4 * spread(1e4)


@pytest.mark.parametrize(
  ("rows", "most", "want"),
  [(10, 5, [0, 2, 4, 6, 9]), (3, 9, [0, 1, 2]), (4, 1, [0])],
)
def test_rows_are_taken_evenly(rows, most, want):
  np.testing.assert_array_equal(monitor.spread(range(rows), most), want)


@pytest.mark.parametrize(
  ("fields", "names"),
  [
    (dict(knn=True), ["knn"]),
    (dict(knn=dict(k=3), linear_probe=False), ["knn"]),
    (dict(knn=True, linear_probe=dict(max_steps=3)), ["knn", "linear_probe"]),
  ],
)
def test_a_block_chooses_its_probes(fields, names):
  block = schema.read(Monitor, {"every": 3} | fields, "monitor")
  assert [*block.probes(3, fit=linear_probe.classify)] == names
