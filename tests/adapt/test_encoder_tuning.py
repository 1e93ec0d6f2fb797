"""Tuning parts of an encoder: what moves, what stays, and the statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_clip

from synthjax.adapt import encoder_tuning
from synthjax.adapt.linear_head import Head, Recipe, Rows, tune
from synthjax.models.clip import model as clip
from synthjax.models.clip import resnet

MODEL = resnet.ModifiedResNet(
  embed_dim=8, image_size=32, width=4, layers=(1, 1, 1, 1), heads=2
)


def objective_of(encoder, head, tx, tuned, **options):
  """Returns the objective with the defaults of config.tune_encoder."""
  fields = encoder_tuning.TuneEncoder
  options = {
    "batch_norm": "frozen",
    "soft_weight": fields.soft_weight,
    "temperature": fields.temperature,
  } | options
  tower = encoder_tuning.Tower(MODEL, encoder, 32)
  return encoder_tuning.encoder_tuning(tower, head, tx, tuned=tuned, **options)


@pytest.fixture(scope="module")
def encoder():
  images = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), images)
  return tiny_clip.fill(shapes)


@pytest.fixture(scope="module")
def head():
  rng = np.random.default_rng(1)
  return Head(rng.normal(size=(3, 8)).astype(np.float32), np.zeros(3, "f"))


def batch_of(n=6, seed=2):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
    "label": rng.integers(0, 3, n),
  }


def run(encoder, head, tuned, *, steps=2, **options):
  objective = objective_of(encoder, head, optax.adamw(1e-2), tuned, **options)
  first = state = objective.init(jax.random.key(0), batch_of())
  step = jax.jit(objective.step)
  for i in range(steps):
    state, metrics = step(state, batch_of(seed=i), jax.random.key(0))
  return first, state, metrics


def changed(before, after):
  return {
    name
    for name in before
    if any(
      (np.asarray(a) != np.asarray(b)).any()
      for a, b in zip(
        jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True
      )
    )
  }


def test_the_ladder_leads_from_the_output_to_the_input(encoder):
  rungs = encoder_tuning.ladder(encoder["params"])
  assert list(rungs) == [
    "head",
    "attnpool",
    "layer4",
    "layer3",
    "layer2",
    "layer1",
    "stem",
  ]
  assert rungs["layer4"] == ("layer4_0",)
  assert rungs["stem"] == ("bn1", "bn2", "bn3", "conv1", "conv2", "conv3")
  parts = [part for rung in rungs.values() for part in rung]
  assert sorted(parts) == sorted([*encoder["params"], "head"])


def test_the_shares_of_the_released_encoder_are_those_of_its_blocks():
  """Of 38,316,896 parameters and a head of 10 classes (10,250)."""
  like = jax.eval_shape(
    clip.MODELS["clip_rn50"]().init,
    jax.random.key(0),
    jnp.zeros((1, 224, 224, 3)),
    jnp.zeros((1, 77), int),
  )["params"]["visual"]
  size = jax.ShapeDtypeStruct((10, 1024), "float32")
  bias = jax.ShapeDtypeStruct((10,), "float32")
  params = {"encoder": like, "head": Head(size, bias)}
  tuned, shares = [], []
  for parts in encoder_tuning.ladder(like).values():
    tuned += parts
    shares.append(100 * encoder_tuning.share_tuned(params, tuned))
  np.testing.assert_allclose(
    shares, [0.027, 38.6, 77.7, 96.2, 99.4, 99.9, 100], atol=0.06
  )


@pytest.mark.parametrize(
  "tuned", [("head",), ("head", "attnpool", "layer4_0"), ("conv1",)]
)
def test_only_what_is_tuned_changes(encoder, head, tuned):
  first, last, _ = run(encoder, head, tuned)
  parts = lambda state: {
    "head": state.params["head"],
    **state.params["encoder"],
  }
  assert changed(parts(first), parts(last)) == set(tuned)
  assert changed({"": first.teacher}, {"": last.teacher}) == set()
  assert changed({"": first.batch_stats}, {"": last.batch_stats}) == set()


def test_statistics_move_with_the_batch_alone(encoder, head):
  first, last, _ = run(encoder, head, ("head",), batch_norm="batch")
  assert changed({"": first.batch_stats}, {"": last.batch_stats})
  assert changed(first.params["encoder"], last.params["encoder"]) == set()


@pytest.mark.slow
def test_a_frozen_encoder_equals_tuning_on_stored_features(encoder, head):
  """The same head as `linear_head.tune` on the features, step by step."""
  batch = batch_of(4)
  tower = encoder_tuning.Tower(MODEL, encoder, 32)
  features, _ = encoder_tuning.encode(tower, encoder, batch["image"], False)
  index = np.tile(np.arange(4), (3, 1))
  recipe = Recipe(clip_norm=1e9)
  want = tune([Rows(features, batch["label"], index)], head, recipe)
  rate = optax.cosine_decay_schedule(2e-3, 3)
  tx = optax.adamw(rate, weight_decay=0.1)
  objective = objective_of(encoder, head, tx, ("head",))
  state = objective.init(None, batch)
  losses = []
  for _ in range(3):
    state, metrics = jax.jit(objective.step)(state, batch, None)
    losses.append(metrics["loss"])
  np.testing.assert_allclose(losses, want.losses, rtol=1e-5)
  np.testing.assert_allclose(
    state.params["head"].weight, want.head.weight, rtol=1e-4, atol=1e-5
  )


def test_unknown_parts_and_modes_are_refused(encoder, head):
  with pytest.raises(ValueError, match=r"no parts \['layer9_0'\]"):
    run(encoder, head, ("layer9_0",))
  with pytest.raises(ValueError, match="batch_norm='on'"):
    run(encoder, head, ("head",), batch_norm="on")


def test_tuned_towers_are_measured_in_float32(encoder, head, monkeypatch):
  traced = []

  def encode(tower, variables, images, train):
    traced.append(jax.config.jax_default_matmul_precision)
    return jnp.zeros((len(images), 8)), {}

  monkeypatch.setattr(encoder_tuning, "encode", encode)
  tower = encoder_tuning.Tower(None, {}, image_size=32)
  predict = encoder_tuning.predictor(tower, batch_size=2)
  image = np.zeros((32, 32, 3), np.uint8)
  state = {"encoder": {}, "head": head}
  assert predict(state, [{"image": image}]).shape == (1, 3)
  assert traced == ["highest"]
