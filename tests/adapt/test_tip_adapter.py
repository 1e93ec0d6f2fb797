"""Tests of Tip-Adapter: parity with PyTorch, the search, and what is kept."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.adapt import few_shot_methods, linear_head, tip_adapter
from synthjax.adapt.tip_adapter import Strengths
from synthjax.runtime.errors import UserError

NUM_CLASSES, DIM = 5, 16


@pytest.fixture(scope="module")
def problem():
  """Shots in 3 passes, of unequal number by class, and validation rows."""
  rng = np.random.default_rng(0)
  labels = np.array([3, 0, 0, 1, 2, 4, 1, 0, 2, 3, 4, 4, 4])
  centres = rng.normal(size=(NUM_CLASSES, DIM))
  draw = lambda y, noise: (
    centres[y] + rng.normal(0, noise, (*np.shape(y), DIM))
  ).astype(np.float32)
  shots = draw(np.broadcast_to(labels, (3, len(labels))), 1.0)
  texts = draw(np.arange(NUM_CLASSES), 2.0)[:, None]
  y = rng.integers(0, NUM_CLASSES, 70)
  return {
    "shots": shots,
    "labels": labels,
    "texts": texts[:, 0],
    "head": linear_head.init_head(texts, 100.0),
    "cache": tip_adapter.build_cache(shots, labels, NUM_CLASSES),
    "validation": (draw(y, 1.6), y),
  }


def reference_cache(problem):
  """Returns keys [n, d] and one-hot values [n, k], in the order of the rows."""
  keys = problem["shots"].mean(0)
  keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
  return keys, np.eye(NUM_CLASSES, dtype=np.float32)[problem["labels"]]


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_class(cache):
  """Returns the keys [n, d] of a cache by falling class, and their classes."""
  filled = np.asarray(cache.filled)
  return np.asarray(cache.keys)[filled], np.nonzero(filled)[0]


def test_shots_are_averaged_over_passes_and_sorted_into_classes():
  # Averaged as they are, the longer view wins: (3, 0) and (0, 1) give
  # (3, 1) / sqrt(10); the second shot of class 0 does not exist.
  shots = np.array([[[3, 0], [0, 2], [4, 0]], [[0, 1], [0, 2], [0, 0]]])
  cache = tip_adapter.build_cache(shots, np.array([2, 0, 2]), 3)
  np.testing.assert_array_equal(
    cache.filled, [[True, False], [False, False], [True, True]]
  )
  np.testing.assert_allclose(cache.keys[0, 0], [0, 1])
  np.testing.assert_allclose(
    cache.keys[2], [[3 / math.sqrt(10), 1 / math.sqrt(10)], [1, 0]], rtol=1e-6
  )


def test_the_cache_adds_its_sharpened_cosines():
  """Two shots of class 0 at 0 and 90 degrees of the row, none of class 1."""
  cache = tip_adapter.build_cache(np.eye(2)[None], np.array([0, 0]), 2)
  head = linear_head.Head(jnp.zeros((2, 2)), jnp.array([0.5, 0.25]))
  row = jnp.array([[7.0, 0.0]])
  logits = tip_adapter.logits_fn(cache, head, row, Strengths(2.0, 3.0))
  want = [[0.5 + 3 * (1 + math.exp(-2)), 0.25]]
  np.testing.assert_allclose(logits, want, rtol=1e-6)


def test_logits_and_a_training_step_equal_pytorch(problem):
  torch = pytest.importorskip("torch")
  keys, values = reference_cache(problem)
  beta, alpha = 1.5, 2.5
  features, labels = problem["validation"]
  rows = np.arange(20)

  adapter = torch.nn.Linear(DIM, len(keys), bias=False)
  adapter.weight.data = torch.tensor(keys)
  x = torch.tensor(unit(features))
  texts = torch.tensor(unit(problem["texts"]).T)
  optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3, eps=1e-4)
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)

  def forward(x):
    affinity = adapter(x)
    votes = (-(beta - beta * affinity)).exp() @ torch.tensor(values)
    return 100.0 * x @ texts + votes * alpha

  with jax.default_matmul_precision("highest"):
    logits = tip_adapter.logits_fn(
      problem["cache"], problem["head"], features, Strengths(beta, alpha)
    )
  np.testing.assert_allclose(logits, forward(x).detach(), rtol=1e-5, atol=1e-4)

  losses = []
  for _ in range(4):
    out = forward(x[rows])
    loss = torch.nn.functional.cross_entropy(out, torch.tensor(labels[rows]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
  with jax.default_matmul_precision("highest"):
    tuned = tip_adapter.tune(
      *(problem["cache"], problem["head"], features, labels),
      index=np.tile(rows, (4, 1)),
      strengths=Strengths(beta, alpha),
    )
  np.testing.assert_allclose(tuned.losses, losses, rtol=1e-4)
  got, classes = by_class(tuned.cache)
  order = np.argsort(problem["labels"], kind="stable")
  np.testing.assert_array_equal(classes, problem["labels"][order])
  want = adapter.weight.detach().numpy()
  assert np.abs(want - keys).max() > 1e-3  # it has moved, by steps of 1e-3
  np.testing.assert_allclose(got, want[order], atol=2e-6)
  assert not np.asarray(tuned.cache.keys)[~np.asarray(tuned.cache.filled)].any()


@pytest.mark.parametrize("block", [16, 70, 128])
def test_the_search_equals_a_double_loop(problem, block):
  features, labels = problem["validation"]
  scale, steps = Strengths(12.0, 10.0), (30, 7)
  found = tip_adapter.search(
    *(problem["cache"], problem["head"], features, labels),
    scale=scale,
    steps=steps,
    block=block,
  )
  keys, values = reference_cache(problem)
  x = unit(features)
  zero_shot = 100 * x @ unit(problem["texts"]).T
  accuracies = np.zeros(steps)
  best, best_accuracy = None, 0.0
  for i in range(steps[0]):
    beta = 0.1 + i * (scale.beta - 0.1) / steps[0]
    for j in range(steps[1]):
      alpha = 0.1 + j * (scale.alpha - 0.1) / steps[1]
      votes = np.exp(-(beta - beta * x @ keys.T)) @ values
      right = (zero_shot + alpha * votes).argmax(-1) == labels
      accuracies[i, j] = right.mean()
      if accuracies[i, j] > best_accuracy:
        best, best_accuracy = (beta, alpha), accuracies[i, j]
  # The two largest logits, of about 100, differ by 8e-4 or more everywhere.
  np.testing.assert_allclose(found.accuracies, accuracies, atol=1e-6)
  np.testing.assert_allclose(found.best, best, rtol=1e-6)
  np.testing.assert_allclose(found.accuracy, best_accuracy, rtol=1e-6)
  # So that the cache matters, and more than one choice is best.
  assert accuracies.min() < accuracies.max()
  assert np.sum(accuracies == accuracies.max()) > 1


def test_the_grid_is_that_of_the_authors():
  scale = tip_adapter.SETTINGS["eurosat"].search_scale
  cache = tip_adapter.build_cache(np.ones((1, 1, 2)), np.array([0]), 2)
  head = linear_head.Head(jnp.zeros((2, 2)), jnp.zeros(2))
  found = tip_adapter.search(
    cache, head, jnp.ones((3, 2)), jnp.array([0, 0, 1]), scale=scale
  )
  assert found.accuracies.shape == (200, 20)
  np.testing.assert_allclose(found.betas[:2], [0.1, 0.1 + 11.9 / 200])
  np.testing.assert_allclose(found.betas[-1], 12 - 11.9 / 200, rtol=1e-6)
  np.testing.assert_allclose(found.alphas[-1], 10 - 9.9 / 20, rtol=1e-6)
  # All are alike, so that the first counts.
  np.testing.assert_allclose(found.best, (0.1, 0.1), rtol=1e-6)
  np.testing.assert_allclose(found.accuracies, 2 / 3, rtol=1e-6)


def test_the_first_of_equal_logits_counts():
  logits = jnp.array([[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 3.0, 2.0]])
  right = lambda labels: int(tip_adapter.count_right(logits, labels))
  assert right(jnp.array([0, 0, 1, 0])) == 4
  assert right(jnp.array([1, 1, 0, 1])) == 0
  assert right(jnp.array([0, -1, -1, 1])) == 1


def test_training_learns(problem):
  shots, targets = few_shot_methods.flatten_passes(
    problem["shots"], problem["labels"]
  )
  index = few_shot_methods.passes_index(
    *(3, len(problem["labels"])), batch_size=8, num_epochs=6, seed=0
  )
  tuned = tip_adapter.tune(
    *(problem["cache"], problem["head"], shots, targets),
    index=index,
    strengths=Strengths(1.0, 2.0),
    lr=0.05,
  )
  assert tuned.losses[-4:].mean() < tuned.losses[:4].mean()


def test_a_partial_batch_averages_over_its_rows_alone(problem):
  features, labels = problem["validation"]
  run = lambda index: tip_adapter.tune(
    *(problem["cache"], problem["head"], features, labels),
    index=np.array([index]),
    strengths=Strengths(1.0, 2.0),
  )
  np.testing.assert_allclose(
    run([4, 9, -1, -1]).losses, run([4, 9]).losses, rtol=1e-6
  )


def test_each_epoch_reads_each_image_once_in_some_pass():
  index = few_shot_methods.passes_index(
    3, 10, batch_size=4, num_epochs=20, seed=0
  )
  assert index.shape == (60, 4)
  for epoch in index.reshape(20, 12):
    np.testing.assert_array_equal(np.sort(epoch[:10] % 10), np.arange(10))
    np.testing.assert_array_equal(epoch[10:], -1)
  kept = index[index >= 0]
  assert kept.max() < 30 and len(np.unique(kept)) == 30
  # A pass of its own for each epoch: fresh crops.
  fresh = few_shot_methods.passes_index(
    None, 10, batch_size=4, num_epochs=20, seed=0
  )
  for number, epoch in enumerate(fresh.reshape(20, 12)):
    np.testing.assert_array_equal(
      np.sort(epoch[:10]), np.arange(10) + 10 * number
    )
    np.testing.assert_array_equal(epoch[10:], -1)
  features = np.arange(12).reshape(2, 3, 2)
  flat, labels = few_shot_methods.flatten_passes(features, np.array([7, 8, 9]))
  np.testing.assert_array_equal(flat[4], features[1, 1])
  np.testing.assert_array_equal(labels, [7, 8, 9, 7, 8, 9])
  with pytest.raises(ValueError, match="add an axis"):
    few_shot_methods.flatten_passes(features[0], np.array([7, 8, 9]))


def test_shots_that_fit_no_label_space_say_so():
  shots = np.ones((1, 3, 4))
  with pytest.raises(UserError, match=r"unknown classes \[5, 9\]"):
    tip_adapter.build_cache(shots, np.array([0, 9, 5]), 3)
  with pytest.raises(UserError, match="add an axis"):
    tip_adapter.build_cache(shots[0], np.array([0, 1, 2]), 3)
  with pytest.raises(UserError, match="Found 0 shots"):
    tip_adapter.build_cache(shots[:, :0], np.array([], int), 3)
  cache = tip_adapter.build_cache(shots, np.array([0, 1, 2]), 3)
  head = linear_head.Head(jnp.zeros((3, 4)), jnp.zeros(3))
  none = jnp.zeros((0, 4)), jnp.zeros(0, int)
  with pytest.raises(ValueError, match="no validation rows"):
    tip_adapter.search(cache, head, *none, scale=Strengths(7, 3))
