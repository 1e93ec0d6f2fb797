"""The multi-positive loss, its statistics and training; runs that stop."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
import torch
from test_moco import Encoder

from synthjax.data.pipeline import loader as pipeline
from synthjax.models.classifiers import make_classifier
from synthjax.training import finetune
from synthjax.training import run as runs
from synthjax.training.contrastive import cross_entropy
from synthjax.training.multi_positive import compare, multi_positive

rng = jax.random.key(0)


@jax.jit
def loss_of(features, temperature):
  return cross_entropy(*compare(features, temperature=temperature))


def of_the_paper(features, temperature):
  """Section 3.2, image by image, in PyTorch."""
  n, m, _ = features.shape
  flat, losses = features.reshape(n * m, -1), []
  for i in range(n * m):
    others = [j for j in range(n * m) if j != i]
    scores = torch.stack([flat[i] @ flat[j] / temperature for j in others])
    q = scores.exp() / scores.exp().sum()
    matches = torch.tensor([float(j // m == i // m) for j in others])
    p = matches / matches.sum()
    losses.append(-(p * q.log()).sum())
  return torch.stack(losses).mean()


@pytest.mark.parametrize(("n", "m"), [(3, 4), (5, 2)])
def test_loss_and_gradient_are_those_of_the_paper(n, m):
  draws = np.random.default_rng(n).normal(size=(n, m, 6)).astype(np.float32)
  features = draws / np.linalg.norm(draws, axis=-1, keepdims=True)
  given = torch.tensor(features, dtype=torch.float64, requires_grad=True)
  want = of_the_paper(given, 0.1)
  want.backward()
  loss, grads = jax.jit(jax.value_and_grad(loss_of))(features, 0.1)
  np.testing.assert_allclose(loss, want.item(), rtol=1e-5)
  np.testing.assert_allclose(grads, given.grad.numpy(), atol=1e-5)


def test_the_loss_of_two_prompts_by_hand():
  """Images are equal within a prompt, orthogonal between: 1 against 0 and 0."""
  features = np.eye(2, dtype=np.float32)[:, None].repeat(2, 1)
  want = np.log(np.e + 2) - 1
  np.testing.assert_allclose(loss_of(features, 1.0), want, rtol=1e-6)
  # Three of each: two of 1, and three of 0.
  features = np.eye(2, dtype=np.float32)[:, None].repeat(3, 1)
  want = np.log(2 * np.e + 3) - 1
  np.testing.assert_allclose(loss_of(features, 1.0), want, rtol=1e-6)


def test_a_single_image_of_a_prompt_has_no_positive():
  with pytest.raises(ValueError, match="1 image of each prompt.*2 or more"):
    loss_of(np.ones((4, 1, 3), np.float32), 0.1)


make = partial(
  multi_positive,
  Encoder(dim=6),
  optax.sgd(0.1, momentum=0.9),
  per_prompt=2,
  hidden=8,
  dim=4,
)
# Compiled once for all tests.
start, usual_step = jax.jit(make().init), jax.jit(make().step)


def images_of(n=4, m=2, seed=0):
  """Returns images [n m, ...], those of a prompt alike."""
  draws = np.random.default_rng(seed)
  base = draws.normal(size=(n, 1, 3, 3, 3))
  noisy = base + 0.3 * draws.normal(size=(n, m, 3, 3, 3))
  return {"image": noisy.reshape(n * m, 3, 3, 3).astype(np.float32)}


def test_each_place_in_a_prompt_has_statistics_of_its_own():
  """Moving every second image widens no variance, as the first stay."""
  state, batch = start(rng, images_of()), images_of()
  moved = {"image": batch["image"].copy()}
  moved["image"][1::2] += 5
  variances = [
    usual_step(state, each, rng)[0].encoder["batch_stats"]["bn"]["var"]
    for each in (batch, moved)
  ]
  np.testing.assert_allclose(*variances, rtol=1e-3)
  moved["image"][4:] += 5  # half of the prompts
  wider = usual_step(state, moved, rng)[0].encoder["batch_stats"]["bn"]["var"]
  assert np.abs(wider - variances[0]).max() > 0.1


def test_training_finds_the_images_of_a_prompt():
  state = start(rng, images_of())
  rows = []
  for _ in range(60):
    state, metrics = usual_step(state, images_of(), rng)
    rows.append(jax.tree.map(float, metrics))
  # At best all others are opposite: near 0 where the temperature is 0.1.
  assert rows[-1]["loss"] < 0.1 < rows[0]["loss"]
  assert rows[-1]["top1"] == 1


def test_a_backbone_starts_the_encoder_whole():
  backbone = Encoder(dim=6).init(jax.random.key(5), images_of()["image"])
  objective = finetune.start_from(make(), backbone, heads=())
  state = jax.jit(objective.init)(rng, images_of())
  jax.tree.map(np.testing.assert_array_equal, state.encoder, dict(backbone))


def test_the_projector_of_a_vit_is_the_authors():
  """Layers of 4,096, 4,096 and 256 after the 768 features of ViT-B."""
  model = make_classifier("deit_b", num_classes=None)
  objective = multi_positive(model, optax.sgd(0.1), per_prompt=6)
  batch = {"image": jax.ShapeDtypeStruct((12, 224, 224, 3), np.uint8)}
  state = jax.eval_shape(objective.init, rng, batch)
  count = lambda tree: sum(np.prod(x.shape) for x in jax.tree.leaves(tree))
  layers = (768 * 4096 + 4096) + (4096**2 + 4096) + (4096 * 256 + 256)
  assert count(state.projector["params"]) == layers + 4 * 4096
  assert "head" not in state.encoder["params"]
  state, metrics = jax.eval_shape(objective.step, state, batch, rng)
  assert metrics["loss"].shape == ()


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (20, 3, 3, 3), np.uint8)
  source = [{"image": image} for image in images]

  def train(folder, num_steps):
    return runs.train(
      make(),
      pipeline.train_batches(
        source,
        [],
        batch_size=8,
        seed=3,
        repeats=2,
        groups=np.arange(20) // 3,
      ),
      runs.Loop(log_every=1, checkpoint_every=2),
      folder=folder,
      label="stablerep",
      num_steps=num_steps,
      batch_size=8,
      seed=0,
    )

  whole = train(tmp_path / "whole", 5)
  train(tmp_path / "parts", 2)
  resumed = train(tmp_path / "parts", 5)
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
