"""Tests of supervised training."""

from functools import partial

import jax
import numpy as np
import optax
from flax import linen as nn

from synthjax.models.pixels import normalize
from synthjax.training import supervised as supervised_lib
from synthjax.training.supervised import supervised

rng = jax.random.key(0)


class Classifier(nn.Module):
  """The smallest model with batch statistics and dropout."""

  dropout: float = 0.0

  @nn.compact
  def __call__(self, images, *, train):
    x = images.reshape(len(images), -1)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(3)(x)


def a_batch(n=24):
  """Draws uint8 images whose brightest channel is their label."""
  generator = np.random.default_rng(0)
  images = generator.integers(0, 100, (n, 4, 4, 3), np.uint8)
  labels = generator.integers(0, 3, n)
  images[np.arange(n), :, :, labels] += 100
  return {"image": images, "label": labels}


def test_training_learns_and_the_average_follows():
  objective = supervised(Classifier(), optax.adam(0.03), ema_decay=0.9)
  batch = a_batch()
  state = objective.init(rng, batch)
  step = jax.jit(objective.step, donate_argnums=0)
  for i in range(40):
    state, metrics = step(state, batch, jax.random.fold_in(rng, i))
  assert int(state.step) == 40
  assert metrics["top1"] == 1 and metrics["loss"] < 0.3

  predict = supervised_lib.predictor(Classifier())
  for variables in (state.variables, state.ema):
    logits = supervised_lib.evaluate(
      predict, variables, batch["image"], batch_size=10
    )
    assert logits.shape == (24, 3)
    assert np.mean(logits.argmax(-1) == batch["label"]) == 1
  assert objective.init(rng, batch).ema is not None
  assert supervised(Classifier(), optax.sgd(0.1)).init(rng, batch).ema is None


def test_a_step_computes_the_loss_and_statistics_of_its_batch():
  batch = a_batch(8)
  objective = supervised(Classifier(), optax.sgd(0.0), label_smoothing=0.3)
  first = objective.init(rng, batch)
  state, metrics = objective.step(first, batch, rng)

  x = np.asarray(normalize(batch["image"])).reshape(8, -1)
  stats = state.variables["batch_stats"]["BatchNorm_0"]
  np.testing.assert_allclose(stats["mean"], 0.1 * x.mean(0), atol=1e-5)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var(0), rtol=1e-4)

  dense = first.variables["params"]["Dense_0"]
  y = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
  log_p = jax.nn.log_softmax(y @ dense["kernel"] + dense["bias"])
  # Of the target, 0.3 is spread over the three classes.
  target = np.full((8, 3), 0.1)
  target[np.arange(8), batch["label"]] = 0.8
  np.testing.assert_allclose(
    metrics["loss"], -(target * log_p).sum(-1).mean(), rtol=1e-4
  )


def test_a_step_depends_on_its_key_alone():
  objective = supervised(Classifier(dropout=0.5), optax.sgd(0.1))
  batch = a_batch(8)
  state = objective.init(rng, batch)
  loss = lambda seed: float(
    objective.step(state, batch, jax.random.key(seed))[1]["loss"]
  )
  assert loss(1) == loss(1) != loss(2)


def test_evaluation_compiles_one_size_and_uses_running_statistics():
  sizes = []

  def predict(variables, images):
    sizes.append(len(images))
    return images.sum((1, 2, 3))[:, None] * variables

  images = np.arange(7.0)[:, None, None, None]
  logits = supervised_lib.evaluate(predict, 2, images, batch_size=3)
  np.testing.assert_array_equal(logits[:, 0], 2 * np.arange(7))
  assert sizes == [3, 3, 3]

  batch = a_batch(8)
  model = Classifier()
  variables = supervised(model, optax.sgd(0.1)).init(rng, batch).variables
  predict = supervised_lib.predictor(model)
  together = predict(variables, batch["image"])
  alone = predict(variables, batch["image"][:1])
  np.testing.assert_allclose(together[:1], alone, rtol=1e-5)


def test_only_uint8_is_normalised():
  scaled = partial(normalize, mean=(0.2,) * 3, std=(0.4,) * 3)
  images = np.full((1, 1, 1, 3), 204, np.uint8)
  np.testing.assert_allclose(scaled(images), 1.5, rtol=1e-6)
  floats = np.full((1, 1, 1, 3), 204, np.float32)
  np.testing.assert_array_equal(scaled(floats), floats)
