"""Training runs that stop and go on, and say what they do."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthjax.data import pipeline
from synthjax.errors import UserError
from synthjax.train import checkpoint, loop, metrics, optimizer
from synthjax.train import run as runs
from synthjax.train.denoising import DenoisingState
from synthjax.train.objective import Objective


def objective():
  """Fits a line to noisy numbers, with noise of the step's own."""
  tx = optax.adam(1e-2)

  def init(rng, batch):
    params = jax.random.normal(rng, batch["x"].shape[1:])
    return DenoisingState(
      jnp.zeros((), jnp.int32), params, jnp.copy(params), tx.init(params)
    )

  def step(state, batch, rng):
    def loss_fn(params):
      noise = jax.random.normal(rng, batch["x"].shape)
      return jnp.square(batch["x"] @ params - batch["y"] + noise[:, 0]).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    state = DenoisingState(state.step + 1, params, params * 1, opt_state)
    return state, {"loss": loss}

  return Objective(init, step)


def shake(example, rng):
  return example | {"x": example["x"] + rng.normal(size=2).astype(np.float32)}


def dataset():
  rows = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
  source = [{"x": row[:2], "y": row[2]} for row in rows]
  return pipeline.train_batches(source, [shake], batch_size=4, seed=3)


def train(folder, num_steps, every=3):
  return runs.train(
    objective(),
    dataset(),
    folder=folder,
    label="line",
    num_steps=num_steps,
    batch_size=4,
    seed=0,
    log_every=1,
    checkpoint_every=every,
  )


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
  whole = train(tmp_path / "whole", 11)
  train(tmp_path / "parts", 6)  # stops at a checkpoint
  resumed = train(tmp_path / "parts", 11)
  for want, got in zip(
    jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True
  ):
    np.testing.assert_array_equal(got, want)
  rows = [
    (tmp_path / name / "line_metrics.jsonl").read_text()
    for name in ("whole", "parts")
  ]
  assert rows[0] == rows[1] and rows[0].count("\n") == 11


def test_a_run_killed_between_checkpoints_repeats_those_steps(tmp_path):
  whole = train(tmp_path / "whole", 11)
  train(tmp_path / "parts", 8, every=3)  # its last checkpoint is that of 8
  manager = checkpoint.open_manager(tmp_path / "parts" / "line_checkpoints")
  manager.delete(8)
  manager.close()
  resumed = train(tmp_path / "parts", 11)  # from 6
  np.testing.assert_array_equal(whole.params, resumed.params)
  steps = [
    row["step"]
    for row in metrics.read_rows(tmp_path / "parts" / "line_metrics.jsonl")
  ]
  assert steps == list(range(1, 12))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
  whole = train(tmp_path / "whole", 9)
  train(tmp_path / "parts", 6)
  for file in (tmp_path / "parts" / "line_checkpoints" / "6").rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:3])
  resumed = train(tmp_path / "parts", 9)
  np.testing.assert_array_equal(whole.params, resumed.params)


def test_when_no_checkpoint_can_be_read_the_run_says_so(tmp_path):
  train(tmp_path, 3)
  for file in (tmp_path / "line_checkpoints").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  with pytest.raises(UserError, match="step 3"):
    train(tmp_path, 6)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  hook = metrics.progress_hook(
    tmp_path / "m.jsonl", label="x", every=1, num_steps=5
  )
  hook(1, None, {"loss": np.float32(1)})
  with pytest.raises(UserError, match="loss is not finite at step 2"):
    hook(2, None, {"loss": np.float32("nan")})
  rows = (tmp_path / "m.jsonl").read_text().splitlines()
  assert [json.loads(row) for row in rows] == [{"step": 1, "loss": 1.0}]


def test_metrics_cut_short_by_a_crash_are_read_up_to_there(tmp_path):
  file = tmp_path / "m.jsonl"
  file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  assert metrics.read_rows(file) == [{"step": 1, "loss": 2.0}]
  assert metrics.read_rows(tmp_path / "none.jsonl") == []


def test_batches_repeat_nothing_within_an_epoch_and_need_a_source():
  source = [{"x": np.array(i)} for i in range(12)]
  batches = iter(pipeline.train_batches(source, [], batch_size=4, seed=0))
  epochs = [
    np.concatenate([next(batches)["x"] for _ in range(3)]) for _ in range(2)
  ]
  assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
  assert list(epochs[0]) != list(epochs[1])
  with pytest.raises(ValueError, match="empty"):
    pipeline.train_batches([], [], batch_size=4, seed=0)


def test_the_rates_have_their_shapes():
  cosine = optimizer.cosine(2.0, 100)
  np.testing.assert_allclose(cosine(50), 1.0, atol=1e-6)
  np.testing.assert_allclose(cosine(100), 0.0, atol=1e-6)
  rate = optimizer.trapezoid(2.0, 100, warmup=10)
  values = [float(rate(i)) for i in (0, 5, 10, 70, 85, 100)]
  np.testing.assert_allclose(values, [0, 1, 2, 2, 1, 0], atol=1e-6)
  longer = optimizer.trapezoid(2.0, 200, warmup=10)
  assert float(longer(69)) == float(rate(69))
  warm = optimizer.cosine(2.0, 100, warmup=10)
  np.testing.assert_allclose([warm(5), warm(10)], [1.0, 2.0], atol=1e-6)
  assert float(optimizer.constant(2.0, 9, warmup=4)(2)) == 1.0


def test_sgd_decays_as_pytorch_does():
  """Two steps by hand: v = 0.9 v + g + wd w, w -= lr v."""
  tx = optimizer.make_optimizer(
    "sgd", lr=0.1, num_steps=9, rate="constant", weight_decay=0.5
  )
  w, v = 1.0, 0.0
  params = jnp.array(1.0)
  state = tx.init(params)
  for grad in (0.3, -0.2):
    updates, state = tx.update(jnp.array(grad), state, params)
    params = optax.apply_updates(params, updates)
    v = 0.9 * v + grad + 0.5 * w
    w -= 0.1 * v
    np.testing.assert_allclose(params, w, rtol=1e-6)


@pytest.mark.parametrize(
  ("change", "words"), [(dict(name="adm"), "adamw"), (dict(rate="c"), "cosine")]
)
def test_unknown_choices_name_the_known_ones(change, words):
  arguments = dict(name="adamw", lr=0.1, num_steps=3) | change
  with pytest.raises(ValueError, match=words):
    optimizer.make_optimizer(arguments.pop("name"), **arguments)


def test_a_batch_that_does_not_split_is_refused(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  with pytest.raises(ValueError, match="try 3"):
    pipeline.train_batches([1], [], batch_size=4, seed=0)


def test_the_loop_starts_where_the_state_is():
  state = loop.start(objective(), next(iter(dataset())), jax.random.key(0))
  state = state.replace(step=jnp.array(4, jnp.int32))
  seen = []
  loop.fit(
    objective(),
    state,
    iter(dataset()),
    num_steps=6,
    rng=jax.random.key(1),
    hooks=[partial(lambda step, state, metrics: seen.append(step))],
  )
  assert seen == [5, 6]
