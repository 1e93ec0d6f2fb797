"""MoCo's queue, momentum encoder and groups; runs that stop."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from synthjax.data.pipeline import loader as pipeline
from synthjax.models.classifiers import make_classifier
from synthjax.runtime.errors import UserError
from synthjax.training import device_augment, finetune
from synthjax.training import run as runs
from synthjax.training.moco import moco

rng = jax.random.key(0)


class Encoder(nn.Module):
  """The smallest encoder with batch statistics; a stand-in for a ResNet."""

  dim: int = 4

  @nn.compact
  def __call__(self, images, *, train=False):
    x = nn.Dense(8, name="conv1")(images.reshape(len(images), -1))
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x)
    return nn.Dense(self.dim, name="fc")(x)


make = partial(
  moco, Encoder(), optax.sgd(0.1), dim=4, queue_size=24, num_groups=2
)
# Compiled once for all tests.
start, usual_step = jax.jit(make().init), jax.jit(make().step)


def views(n=8, seed=0):
  draws = np.random.default_rng(seed)
  query, key = draws.normal(size=(2, n, 3, 3, 3)).astype(np.float32)
  return {"query": query, "key": key}


def test_the_start_is_a_copy_and_a_queue_of_unit_vectors():
  state = make().init(rng, views())
  jax.tree.map(np.testing.assert_array_equal, state.key, state.query)
  pairs = zip(*map(jax.tree.leaves, (state.key, state.query)), strict=True)
  for key, query in pairs:  # as a donated state must not hold one twice
    assert key.unsafe_buffer_pointer() != query.unsafe_buffer_pointer()
  assert state.queue.shape == (24, 4)
  np.testing.assert_allclose(np.linalg.norm(state.queue, axis=1), 1, rtol=1e-6)
  assert np.abs(state.queue.mean(0)).max() < 0.4
  jax.jit(make().step, donate_argnums=0)(state, views(), rng)


def test_the_queue_holds_the_keys_of_the_last_batches():
  state = start(rng, views())
  before, queues = state.queue, []
  for i in range(4):
    state, _ = usual_step(state, views(seed=i), jax.random.fold_in(rng, i))
    assert state.pointer == 8 * (i + 1) % 24 and state.step == i + 1
    queues.append(np.asarray(state.queue))
  np.testing.assert_array_equal(queues[0][8:], before[8:])
  np.testing.assert_array_equal(queues[1][:8], queues[0][:8])
  np.testing.assert_array_equal(queues[2][:16], queues[1][:16])
  # The fourth batch takes the place of the first.
  np.testing.assert_array_equal(queues[3][8:], queues[2][8:])
  assert np.abs(queues[3][:8] - queues[2][:8]).max() > 0.1
  np.testing.assert_allclose(np.linalg.norm(queues[3], axis=1), 1, rtol=1e-5)


def test_the_momentum_moves_parameters_and_not_statistics():
  state, step = start(rng, views()), jax.jit(make(momentum=0.75).step)
  first, _ = step(state, views(), rng)
  # Both start equal, so one step in the keys' parameters have not moved.
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-6),
    first.key["params"],
    state.query["params"],
  )
  second, _ = step(first, views(), rng)
  want = jax.tree.map(
    lambda k, q: 0.75 * k + 0.25 * q,
    first.key["params"],
    first.query["params"],  # before the second step of the optimizer
  )
  jax.tree.map(
    partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
    second.key["params"],
    want,
  )
  mean = lambda variables: variables["batch_stats"]["bn"]["mean"]
  images = views()["key"].reshape(8, -1)
  dense = state.query["params"]["conv1"]
  want = 0.1 * (images @ dense["kernel"] + dense["bias"]).mean(0)
  np.testing.assert_allclose(mean(first.key), want, rtol=1e-4, atol=1e-6)
  assert np.abs(mean(first.key) - mean(first.query)).max() > 1e-3


def test_each_group_has_statistics_of_its_own():
  """Moving a whole group widens the batch's variance, and no group's."""
  batch = views()
  moved = {**batch, "query": batch["query"].copy()}
  moved["query"][4:] += 5  # the second of two groups
  state, whole_step = start(rng, batch), jax.jit(make(num_groups=1).step)

  def variance(step, batch):
    state_after, _ = step(state, batch, rng)
    return np.asarray(state_after.query["batch_stats"]["bn"]["var"])

  two = variance(usual_step, moved), variance(usual_step, batch)
  np.testing.assert_allclose(*two, rtol=1e-3)
  one = variance(whole_step, moved), variance(whole_step, batch)
  assert np.abs(one[0] - one[1]).max() > 0.1


def test_the_order_of_the_keys_is_undone():
  """With one group the permutation changes nothing but rounding."""
  state, step = start(rng, views()), jax.jit(make(num_groups=1).step)
  one, two = (step(state, views(), jax.random.key(seed))[0] for seed in (1, 2))
  np.testing.assert_allclose(one.queue, two.queue, atol=1e-5)
  one, two = (
    usual_step(state, views(), jax.random.key(seed))[0] for seed in (1, 2)
  )
  assert np.abs(one.queue - two.queue).max() > 1e-2


def test_training_finds_the_copies_of_images():
  """Views are noisy copies of 24 images; the mean of four seeds is measured.

  The share of copies that are nearest rises from 0.66 to 0.91, and the loss
  falls to 0.35 of its first steps with a full queue. Single seeds reach 0.78 to
  0.99 and 0.25 to 0.50.
  """
  draws = np.random.default_rng(0)
  base = draws.normal(size=(24, 3, 3, 3))
  objective = moco(
    Encoder(dim=8),
    optax.sgd(0.3, momentum=0.9),
    dim=8,
    queue_size=16,
    num_groups=2,
    momentum=0.9,
  )
  batch_of = lambda chosen: {
    name: (base[chosen] + 0.1 * draws.normal(size=(8, 3, 3, 3))).astype("f4")
    for name in ("query", "key")
  }
  init, step = jax.jit(objective.init), jax.jit(objective.step)
  top1, loss = np.zeros((4, 90)), np.zeros((4, 90))
  for seed in range(4):
    key = jax.random.key(seed)
    state = init(key, batch_of(range(8)))
    for i in range(90):
      chosen = np.arange(8) + 8 * (i % 3)  # none that the queue still holds
      state, metrics = step(state, batch_of(chosen), jax.random.fold_in(key, i))
      top1[seed, i], loss[seed, i] = metrics["top1"], metrics["loss"]
  assert top1[:, -10:].mean() > 0.8 > top1[:, :3].mean()
  assert loss[:, -10:].mean() < 0.6 * loss[:, 3:6].mean()


@pytest.mark.slow
def test_both_views_are_made_of_one_image():
  images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3), np.uint8)
  seen = []

  def augment(images, rng):
    made = device_augment.make_augment("moco_v2", crop=True)(images, rng)
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), made)
    return made

  objective = make(augment=augment)
  state = jax.jit(objective.init)(rng, {"image": images})
  del seen[:]
  _, metrics = objective.step(state, {"image": images}, rng)
  jax.effects_barrier()
  assert len(seen) == 2 and np.isfinite(metrics["loss"])
  assert np.abs(seen[0] - seen[1]).max() > 0.5


def test_a_backbone_starts_both_encoders():
  backbone = Encoder(dim=7).init(jax.random.key(5), views()["query"])
  objective = finetune.start_from(make(), backbone, heads=("fc",))
  state = jax.jit(objective.init)(rng, views())
  for variables in (state.query, state.key):
    params = variables["params"]
    for name in ("conv1", "bn"):
      jax.tree.map(
        np.testing.assert_array_equal, params[name], backbone["params"][name]
      )
    assert params["fc"]["kernel"].shape == (8, 4)
  jax.jit(objective.step, donate_argnums=0)(state, views(), rng)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(queue_size=20), "queue_size=20 is not a multiple.*try 16"),
    (dict(num_groups=3), r"num_groups=3.*\[1, 2, 4, 8\]"),
    (dict(num_groups=8), "one image to a group"),
    (dict(queue_size=9, num_groups=3), "queue_size=9.*num_groups=3"),
  ],
)
def test_sizes_that_do_not_fit_are_refused_all_at_once(fields, words):
  state = make().init(rng, views())
  with pytest.raises(UserError, match=words):
    make(**fields).step(state, views(), rng)


def test_an_encoder_of_another_dimension_is_refused():
  with pytest.raises(UserError, match="num_classes=5"):
    make(dim=5).init(rng, views())


def test_the_encoder_of_moco_has_the_parameters_of_the_released():
  model = make_classifier("resnet50", num_classes=128, head="mlp")
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  shapes = jax.eval_shape(model.init, rng, images)["params"]
  count = sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count == 27_966_656


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
  source = [{"image": image} for image in images]

  def train(folder, num_steps):
    return runs.train(
      make(augment=device_augment.make_augment("moco_v2")),
      pipeline.train_batches(source, [], batch_size=8, seed=3),
      runs.Loop(log_every=1, checkpoint_every=2),
      folder=folder,
      label="moco",
      num_steps=num_steps,
      batch_size=8,
      seed=0,
    )

  whole = train(tmp_path / "whole", 5)
  train(tmp_path / "parts", 2)
  resumed = train(tmp_path / "parts", 5)
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
  rows = [
    (tmp_path / name / "moco_metrics.jsonl").read_text()
    for name in ("whole", "parts")
  ]
  assert rows[0] == rows[1] and rows[0].count("\n") == 5
