"""Tests of classifier tuning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.adapt import linear_head
from synthjax.adapt.linear_head import Recipe, Rows
from synthjax.adapt.soft_targets import hard_cross_entropy


def tune(features, labels, head, *, index, **options):
  """Tunes on one set; options are of it, the recipe or `linear_head.tune`."""
  take = lambda names: {k: options.pop(k) for k in [*options] if k in names}
  rows = Rows(features, labels, index, **take(Rows._fields))
  recipe = take([field.name for field in dataclasses.fields(Recipe)])
  return linear_head.tune([rows], head, Recipe(**recipe), **options)


@pytest.fixture(scope="module")
def problem():
  """Features of 3 classes that a tuned head tells apart, and a poor head."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 50)
  centres = rng.normal(size=(3, 8))
  features = (centres[labels] + rng.normal(0, 0.7, (50, 8))).astype(np.float32)
  texts = centres[:, None] + rng.normal(0, 2, (3, 2, 8))
  return features, labels, linear_head.init_head(texts, 100.0)


@pytest.mark.golden
def test_recorded_steps_are_reproduced(golden):
  case = golden("classifier_tuning_steps")
  weight = jnp.asarray(case["in/init_weight_CD"])
  tuned = tune(
    case["in/features"],
    case["in/labels"],
    linear_head.Head(weight, jnp.zeros(len(weight))),
    index=case["in/batch_index"],
    lr=case["meta"]["lr"],
    weight_decay=case["meta"]["wd"],
  )
  assert len(tuned.losses) == case["meta"]["steps"]
  np.testing.assert_allclose(tuned.losses, case["out/losses"], rtol=1e-5)
  for got, want in (
    (tuned.head.weight, case["out/weight_CD"]),
    (tuned.head.bias, case["out/bias_C"]),
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_zero_shot_weights_are_averages_of_unit_texts():
  # Two templates of very different length count alike: the mean of (1, 0) and
  # (0, 1) points to 45 degrees.
  texts = np.array([[[5.0, 0.0], [0.0, 0.1]], [[-1.0, 0.0], [-2.0, 0.0]]])
  head = linear_head.init_head(texts, logit_scale=100.0)
  diagonal = 100 / np.sqrt(2)
  np.testing.assert_allclose(
    head.weight, [[diagonal, diagonal], [-100, 0]], rtol=1e-5
  )
  logits = linear_head.logits_fn(head, jnp.array([[0.0, 7.0]]))
  np.testing.assert_allclose(logits, [[diagonal, 0]], rtol=1e-5)
  with pytest.raises(ValueError, match="templates"):
    linear_head.init_head(texts[:, 0], 100.0)


def test_features_of_half_precision_are_scaled_in_whole_precision():
  """The square of 300 is none of float16's numbers."""
  head = linear_head.Head(jnp.eye(2), jnp.zeros(2))
  logits = head(np.array([[300, 400], [3e-4, 4e-4]], np.float16))
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, [[0.6, 0.8]] * 2, atol=1e-3)


def test_each_epoch_reads_each_row_once_in_another_order():
  index = linear_head.epochs_index(10, batch_size=4, num_epochs=3, seed=0)
  assert index.shape == (9, 4)
  epochs = index.reshape(3, 12)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch[:10]), np.arange(10))
    np.testing.assert_array_equal(epoch[10:], -1)
  assert len({tuple(epoch) for epoch in epochs}) == 3
  again = linear_head.epochs_index(10, batch_size=4, num_epochs=3, seed=0)
  other = linear_head.epochs_index(10, batch_size=4, num_epochs=3, seed=1)
  np.testing.assert_array_equal(index, again)
  assert np.any(index != other)
  with pytest.raises(ValueError, match="num_examples=0"):
    linear_head.epochs_index(0, batch_size=4, num_epochs=3, seed=0)


def test_few_rows_are_cycled_through():
  index = linear_head.cycled_index(5, batch_size=4, num_steps=7, seed=0)
  assert index.shape == (7, 4)
  rows, counts = np.unique(index[:6][index[:6] >= 0], return_counts=True)
  np.testing.assert_array_equal(rows, np.arange(5))
  np.testing.assert_array_equal(counts, 3)


def test_a_partial_batch_averages_over_its_rows_alone(problem):
  features, labels, head = problem
  index = np.array([[4, 7, 9, -1, -1]])
  full = tune(features, labels, head, index=index[:, :3])
  part = tune(features, labels, head, index=index)
  np.testing.assert_allclose(part.losses, full.losses, rtol=1e-6)
  np.testing.assert_allclose(part.head.weight, full.head.weight, rtol=1e-6)


def test_one_step_follows_the_equations(problem):
  """Adam's first step is the sign of the gradient, whatever its scale."""
  features, labels, head = problem
  index = np.arange(6)[None]

  def loss_fn(head):
    logits = linear_head.logits_fn(head, features[:6])
    return hard_cross_entropy(logits, labels[:6]).mean()

  grads = jax.grad(loss_fn)(head)
  norm = np.sqrt(np.sum(grads.weight**2) + np.sum(grads.bias**2))
  g = grads.weight * min(1, 0.01 / (norm + 1e-6))
  assert norm > 0.01  # so that the clip acts, down to where Adam's eps shows
  lr, wd = 0.5, 0.1
  want = head.weight - lr * (g / (np.abs(g) + 1e-8) + wd * head.weight)
  tuned = tune(
    *(features, labels, head),
    index=index,
    soft_weight=0.0,
    lr=lr,
    weight_decay=wd,
    clip_norm=0.01,
  )
  np.testing.assert_allclose(tuned.head.weight, want, rtol=1e-4, atol=1e-4)


def test_the_learning_rate_falls_along_a_cosine(problem):
  """With no gradient left, weight decay shows the rate of each step."""
  features, labels, head = problem
  weight = tune(
    *(features, labels, head),
    index=np.zeros((4, 1), int),
    lr=0.1,
    weight_decay=0.5,
    clip_norm=0.0,
  ).head.weight
  rates = 0.1 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
  want = head.weight * np.prod(1 - 0.5 * rates)
  np.testing.assert_allclose(weight, want, rtol=1e-5)


def test_tuning_learns_and_validation_is_classified_after_each_epoch(problem):
  features, labels, head = problem
  index = linear_head.epochs_index(50, batch_size=16, num_epochs=5, seed=0)
  tuned = tune(
    *(features, labels, head),
    index=index,
    lr=5.0,
    validation=(features, labels),
    num_epochs=5,
  )
  before = linear_head.accuracy_fn(head, features, labels)
  accuracies = np.asarray(tuned.accuracies)
  assert accuracies.shape == (5,) and accuracies.max() > before
  last = linear_head.accuracy_fn(tuned.head, features, labels)
  assert last == accuracies[-1]

  # Trained on wrong labels, the head leaves its first predictions behind.
  zero_shot = linear_head.logits_fn(head, features).argmax(-1)
  tuned = tune(
    *(features, (labels + 1) % 3, head),
    index=index,
    soft_weight=0.0,
    lr=50.0,
    validation=(features, zero_shot),
    num_epochs=5,
  )
  assert tuned.accuracies.max() > tuned.accuracies[-1]


def test_seeds_train_at_once_as_they_do_alone(problem):
  features, labels, head = problem
  indices = np.stack(
    [
      linear_head.epochs_index(50, batch_size=16, num_epochs=2, seed=seed)
      for seed in range(3)
    ]
  )
  one = lambda index: tune(features, labels, head, index=index)
  together = jax.vmap(one)(indices)
  assert len({float(losses[0]) for losses in together.losses}) == 3
  for i, index in enumerate(indices):
    alone = one(index)
    np.testing.assert_allclose(together.losses[i], alone.losses, rtol=1e-4)
    np.testing.assert_allclose(
      together.head.weight[i], alone.head.weight, rtol=1e-4
    )


def test_losses_of_several_sets_are_added(problem):
  features, labels, head = problem
  real = Rows(features[:5], labels[:5], np.arange(5)[None], soft_weight=0.0)
  drawn = Rows(features[5:], labels[5:], np.arange(9)[None])
  both = linear_head.tune([real, drawn], head)
  apart = [linear_head.tune([rows], head).losses for rows in (real, drawn)]
  np.testing.assert_allclose(both.losses, apart[0] + apart[1], rtol=1e-6)


def test_the_teacher_is_the_first_head_unless_given(problem):
  features, labels, head = problem
  index = np.arange(9)[None]
  run = lambda **kwargs: tune(
    features, labels, head, index=index, soft_weight=1.0, **kwargs
  )
  other = linear_head.Head(head.weight[::-1], head.bias)
  np.testing.assert_array_equal(run().losses, run(teacher=head).losses)
  assert np.abs(run().losses - run(teacher=other).losses).max() > 0.1


def test_progress_places_the_steps_on_the_cosine(problem):
  """Steps may come in any order, and pass the end: the rate rises again."""
  features, labels, head = problem
  progress = np.array([0.0, 0.5, 0.25, 1.0, 1.5])
  weight = tune(
    *(features, labels, head),
    index=np.zeros((5, 1), int),
    lr=0.1,
    weight_decay=0.5,
    clip_norm=0.0,
    progress=progress,
  ).head.weight
  rates = 0.1 * np.array([1, 0.5, (1 + 2**-0.5) / 2, 0, 0.5])
  want = head.weight * np.prod(1 - 0.5 * rates)
  np.testing.assert_allclose(weight, want, rtol=1e-5)
  with pytest.raises(ValueError, match="5 steps for an index of 4"):
    tune(
      *(features, labels, head), index=np.zeros((4, 1), int), progress=progress
    )


def test_usual_progress_is_no_other_training(problem):
  features, labels, head = problem
  index = linear_head.epochs_index(50, batch_size=16, num_epochs=2, seed=0)
  usual = tune(features, labels, head, index=index)
  progress = np.arange(len(index)) / len(index)
  same = tune(features, labels, head, index=index, progress=progress)
  np.testing.assert_allclose(same.head.weight, usual.head.weight, rtol=1e-6)


def test_without_a_bias_the_head_is_a_product(problem):
  """The paper's f = g^T W; the clip then sees the gradient of W alone."""
  features, labels, head = problem
  index = np.arange(6)[None]
  options = dict(index=index, soft_weight=0.0, lr=0.5, weight_decay=0.1)

  def loss_fn(weight):
    logits = linear_head.logits_fn(head.replace(weight=weight), features[:6])
    return hard_cross_entropy(logits, labels[:6]).mean()

  g = jax.grad(loss_fn)(head.weight)
  g *= min(1, 1e-6 / (np.linalg.norm(g) + 1e-6))  # down to Adam's eps
  step = g / (np.abs(g) + 1e-8) + 0.1 * head.weight
  tuned = tune(*(features, labels, head), bias=False, clip_norm=1e-6, **options)
  np.testing.assert_array_equal(tuned.head.bias, 0)
  np.testing.assert_allclose(
    tuned.head.weight, head.weight - 0.5 * step, rtol=1e-4, atol=1e-4
  )
  # One that is there already stays.
  given = head.replace(bias=jnp.array([1.0, -2.0, 3.0]))
  kept = tune(*(features, labels, given), bias=False, **options)
  np.testing.assert_array_equal(kept.head.bias, given.bias)


def test_the_bias_decays_only_if_asked(problem):
  features, labels, head = problem
  head = head.replace(bias=jnp.array([1.0, -2.0, 3.0]))
  options = dict(
    index=np.zeros((1, 1), int), lr=0.1, weight_decay=0.5, clip_norm=0.0
  )
  both = tune(features, labels, head, **options).head
  one = tune(features, labels, head, decay_bias=False, **options)
  np.testing.assert_allclose(both.bias, 0.95 * head.bias, rtol=1e-6)
  np.testing.assert_array_equal(one.head.bias, head.bias)
  np.testing.assert_array_equal(one.head.weight, both.weight)


def test_label_smoothing_spreads_the_hard_target(problem):
  features, labels, head = problem
  index, smoothing = np.arange(9)[None], 0.3
  log_p = jax.nn.log_softmax(linear_head.logits_fn(head, features[:9]))
  target = 0.7 * np.eye(3)[labels[:9]] + 0.1
  want = -(target * log_p).sum(-1).mean()
  run = lambda **kwargs: tune(features, labels, head, index=index, **kwargs)
  got = run(soft_weight=0.0, label_smoothing=smoothing).losses[0]
  np.testing.assert_allclose(got, want, rtol=1e-5)
  # It is the hard half of SCE that is smoothed, and the teacher is not.
  soft = run(soft_weight=1.0).losses[0]
  mixed = run(soft_weight=0.5, label_smoothing=smoothing).losses[0]
  np.testing.assert_allclose(mixed, 0.5 * soft + 0.5 * want, rtol=1e-5)
  none = run(label_smoothing=0.0).losses[0]
  np.testing.assert_allclose(none, run().losses[0], rtol=1e-6)


def test_sizes_that_disagree_say_so(problem):
  features, labels, head = problem
  index = np.zeros((4, 2), int)
  with pytest.raises(ValueError, match="same encoder"):
    tune(features[:, :5], labels, head, index=index)
  with pytest.raises(ValueError, match=r"\(50, 8\).*\(49,\)"):
    tune(features, labels[1:], head, index=index)
  with pytest.raises(ValueError, match="num_epochs=3"):
    tune(features, labels, head, index=index, num_epochs=3)
  rows = Rows(features, labels, index)
  with pytest.raises(ValueError, match=r"\[4, 3\] steps"):
    linear_head.tune([rows, rows._replace(index=index[:3])], head)
