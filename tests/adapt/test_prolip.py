"""ProLIP: CLIP's last projection, tuned on features before it."""

import numpy as np
import pytest
import torch

from synthjax.adapt import few_shot_methods as methods
from synthjax.adapt import linear_head, mixed_tuning, prolip
from synthjax.adapt.linear_head import Rows
from synthjax.models.clip.projection import Projection

W, D, K, NUM_SHOTS, NUM_DRAWN = 10, 8, 3, 6, 20
STEPS = 40  # of all trainings but one, as each number is compiled


def images_of(rng, centres, count):
  labels = np.arange(count) % K
  return rng.normal(centres[labels], 0.5).astype(np.float32), labels


@pytest.fixture(scope="module")
def problem():
  """Two shots of 3 classes in 4 views, and generated images."""
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(K, W))
  kernel = rng.normal(0, W**-0.5, (W, D)).astype(np.float32)
  last = Projection(kernel, rng.normal(0, 0.1, D).astype(np.float32))
  texts = np.asarray(last(centres)) + rng.normal(0, 0.5, (K, D))
  shots, labels = images_of(rng, centres, NUM_SHOTS)
  views = shots + rng.normal(0, 0.2, (4, NUM_SHOTS, W)).astype(np.float32)
  return mixed_tuning.Problem(
    zero_shot=linear_head.init_head(texts[:, None], 20.0),
    logit_scale=20.0,
    shots=(np.asarray(last(shots)), labels),
    views=views,
    synthetic=images_of(rng, centres, NUM_DRAWN),
    validation=None,
    prompts=None,
    seed=0,
    projection=last,
  )


def tuned_of(problem, **options):
  return methods.tune_projection(problem, num_steps=STEPS, **options)


def distance(tuned, problem):
  return float(np.abs(tuned.kernel - problem.projection.kernel).max())


def test_the_training_is_that_of_pytorch(problem):
  """Adam with eps 1e-4 and a cosine on CE + SCE and CE + a penalty."""
  (z, labels), num_steps, lr, penalty = problem.synthetic, 5, 1e-2, 0.3
  views, of_views = methods.flatten_passes(problem.views, problem.shots[1])
  indices = [
    methods.passes_index(
      4, NUM_SHOTS, batch_size=NUM_SHOTS, num_epochs=num_steps, seed=0
    ),
    linear_head.cycled_index(
      NUM_DRAWN, batch_size=8, num_steps=num_steps, seed=0
    ),
  ]
  got = prolip.tune(
    [
      Rows(views, of_views, indices[0], 0.0),
      Rows(z, labels, indices[1], 0.5),
    ],
    problem.projection,
    problem.zero_shot,
    penalty=penalty,
    lr=lr,
  )

  tensor = lambda x: torch.tensor(np.array(x))
  start, bias = tensor(problem.projection.kernel), problem.projection.bias
  kernel = start.clone().requires_grad_()
  rows = tensor(problem.zero_shot.weight)
  tx = torch.optim.Adam([kernel], lr=lr, eps=1e-4)
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(tx, num_steps)
  cross_entropy = torch.nn.functional.cross_entropy

  def logits_of(kernel, z):
    features = tensor(z) @ kernel + tensor(bias)
    return torch.nn.functional.normalize(features, dim=-1) @ rows.T

  for step, (real, drawn) in enumerate(zip(*indices, strict=True)):
    drawn = drawn[drawn >= 0]
    logits = logits_of(kernel, z[drawn])
    teacher = (logits_of(start, z[drawn]) / 2).softmax(-1)
    loss = (
      cross_entropy(logits_of(kernel, views[real]), tensor(of_views[real]))
      + 0.5 * cross_entropy(logits, teacher)
      + 0.5 * cross_entropy(logits, tensor(labels[drawn]))
      + penalty * torch.nn.functional.mse_loss(kernel, start, reduction="sum")
    )
    np.testing.assert_allclose(got.losses[step], loss.item(), rtol=1e-4)
    tx.zero_grad()
    loss.backward()
    tx.step()
    schedule.step()
  np.testing.assert_allclose(
    got.projection.kernel, kernel.detach(), rtol=1e-3, atol=2e-5
  )
  np.testing.assert_array_equal(got.projection.bias, bias)


def test_a_large_penalty_leaves_zero_shot_and_none_moves_on(problem):
  held, free = (tuned_of(problem, lr=1e-3, penalty=x) for x in (1e6, 0.0))
  assert distance(held, problem) < 1e-3 < 1e-2 < distance(free, problem)
  z, _ = problem.synthetic
  zero_shot = linear_head.logits_fn(problem.zero_shot, problem.projection(z))
  np.testing.assert_allclose(held(z), zero_shot, atol=0.05)


def test_the_penalty_is_one_over_the_images_of_a_class(problem):
  for synthetic, penalty in (
    (None, K / NUM_SHOTS),
    (problem.synthetic, K / (NUM_SHOTS + NUM_DRAWN)),
  ):
    of = problem._replace(synthetic=synthetic)
    got, want, other = (
      tuned_of(of, lr=1e-2, penalty=value)
      for value in (None, penalty, 2 * penalty)
    )
    np.testing.assert_allclose(got.kernel, want.kernel, rtol=1e-5, atol=1e-6)
    assert np.abs(got.kernel - other.kernel).max() > 1e-4


def test_fresh_crops_are_drawn_for_each_step(problem):
  asked = []

  def crops(number):
    asked.append(number)
    return np.repeat(problem.views[:1], number, axis=0)

  of = problem._replace(crops=crops, views=None, synthetic=None)
  tuned_of(of, crops="fresh")
  assert asked == [STEPS]
