"""Tests of the linear probe: its optimum, its penalty and its search."""

import numpy as np
import pytest

from synthjax.adapt import linear_head, linear_probe
from synthjax.runtime.errors import UserError


@pytest.fixture(scope="module")
def problem():
  """Classes that overlap, so that the optimum is finite without a penalty."""
  rng = np.random.default_rng(0)
  centres = rng.normal(0, 1, (3, 6))
  labels = rng.integers(0, 3, 120)
  features = centres[labels] + rng.normal(0, 1.2, (120, 6))
  return features.astype(np.float32), labels


def gradient(head, features, labels, strength):
  """Returns the gradient of scikit-learn's objective over n, in float64."""
  x, weight = np.float64(features), np.float64(head.weight)
  logits = x @ weight.T + np.float64(head.bias)
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  error = (p - np.eye(len(weight))[labels]) / len(x)
  return error.T @ x + strength / len(x) * weight, error.sum(0)


@pytest.mark.parametrize("strength", [1e-6, 1.0, 1e3])
def test_the_gradient_at_the_optimum_is_zero(problem, strength):
  fitted = linear_probe.fit(*problem, num_classes=3, strength=strength)
  weight, bias = gradient(fitted.head, *problem, strength)
  norm = np.sqrt(np.sum(weight**2) + np.sum(bias**2))
  assert norm < 2e-5
  np.testing.assert_allclose(fitted.gradient_norm, norm, atol=1e-5)
  assert fitted.num_steps < 200


def test_the_optimum_equals_that_of_pytorch(problem):
  torch = pytest.importorskip("torch")
  x, y = torch.tensor(problem[0]).double(), torch.tensor(problem[1])
  weight = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
  bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
  optimizer = torch.optim.LBFGS(
    [weight, bias],
    max_iter=500,
    tolerance_grad=1e-10,
    tolerance_change=1e-14,
    line_search_fn="strong_wolfe",
  )

  def loss_fn():
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
    return loss + 2.0 / (2 * len(x)) * (weight**2).sum()

  def closure():
    optimizer.zero_grad()
    loss = loss_fn()
    loss.backward()
    return loss

  optimizer.step(closure)
  fitted = linear_probe.fit(*problem, num_classes=3, strength=2.0)
  np.testing.assert_allclose(fitted.loss, loss_fn().item(), rtol=1e-6)
  np.testing.assert_allclose(fitted.head.weight, weight.detach(), atol=2e-4)
  np.testing.assert_allclose(fitted.head.bias, bias.detach(), atol=2e-4)


def test_a_strong_penalty_leaves_the_frequencies_of_the_classes(problem):
  """Without weights, softmax of the bias is the share of each class."""
  features, labels = problem
  head = linear_probe.fit(
    features, labels, num_classes=3, strength=1e9, tolerance=1e-6
  ).head
  assert np.abs(head.weight).max() < 1e-5
  p = np.exp(head.bias) / np.exp(head.bias).sum()
  np.testing.assert_allclose(p, np.bincount(labels) / len(labels), atol=1e-5)


def test_the_search_tries_ever_finer_strengths_around_the_best(problem):
  features, labels = problem
  train = features[:30], labels[:30]
  validation = features[30:], labels[30:]
  probe = linear_probe.search(train, validation, num_classes=3)
  powers = np.log10(list(probe.tried))
  assert 7 + 4 <= len(powers) <= 7 + 2 * 4
  assert np.diff(powers).min() == pytest.approx(1 / 8)
  best = max(probe.tried.values())
  assert probe.accuracy == best == probe.tried[probe.strength]
  # Of equally good ones the strongest.
  assert probe.strength == max(s for s, a in probe.tried.items() if a == best)
  logits = linear_head.linear_logits(probe.head, validation[0])
  found = np.asarray(logits.argmax(-1))
  assert np.mean(found == validation[1]) == best
  again = linear_probe.fit(*train, num_classes=3, strength=probe.strength)
  np.testing.assert_allclose(probe.head.weight, again.head.weight, atol=1e-6)


def test_splits_that_do_not_fit_are_all_named():
  rows = np.zeros((4, 2), np.float32)
  with pytest.raises(UserError, match=r"(?s)train has no rows.*0\.\.1"):
    linear_probe.search(
      (rows[:0], np.zeros(0, int)),
      (rows, np.array([0, 1, 2, 0])),
      num_classes=2,
    )
  with pytest.raises(UserError, match=r"train has features \(4, 2\)"):
    linear_probe.search(
      (rows, np.zeros(3, int)), (rows, np.zeros(4, int)), num_classes=2
    )
