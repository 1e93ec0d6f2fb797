"""Training runs that stop and go on, and say what they do."""

import contextlib
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from shaken_rows import shake

from synthjax.data.pipeline import loader as pipeline
from synthjax.runtime import processes
from synthjax.runtime.errors import UserError
from synthjax.training import loop, metrics
from synthjax.training import run as runs
from synthjax.training.denoising import DenoisingState
from synthjax.training.loop import Objective


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


def dataset():
  rows = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
  source = [{"x": row[:2], "y": row[2]} for row in rows]
  return pipeline.train_batches(source, [shake], batch_size=4, seed=3)


def train(folder, num_steps, every=3, log_every=1, given=None, **monitor):
  return runs.train(
    given or objective(),
    dataset(),
    runs.Loop(log_every=log_every, checkpoint_every=every),
    folder=folder,
    label="line",
    num_steps=num_steps,
    batch_size=4,
    seed=0,
    **monitor,
  )


def rows_of(folder):
  return metrics.read_rows(folder / "line_metrics.jsonl")


def test_a_batch_beyond_the_memory_is_refused_before_a_step(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(runs.memory, "limit", lambda: 10**8)
  assert int(train(tmp_path / "fits", 2).step) == 2
  monkeypatch.setattr(runs.memory, "limit", lambda: 100)
  named = r"config.task.batch_size=\d+ needs about .* GiB on each device"
  with pytest.raises(UserError, match=named):
    train(tmp_path / "task", 2)
  assert not (tmp_path / "task" / "line_metrics.jsonl").exists()


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
  manager = runs.open_manager(tmp_path / "parts" / "line_checkpoints")
  manager.delete(8)
  manager.close()
  resumed = train(tmp_path / "parts", 11)  # from 6
  np.testing.assert_array_equal(whole.params, resumed.params)
  steps = [
    row["step"]
    for row in metrics.read_rows(tmp_path / "parts" / "line_metrics.jsonl")
  ]
  assert steps == list(range(1, 12))


def test_a_checkpoint_that_holds_more_is_read(tmp_path):
  """Earlier versions saved the input's place beside the state."""
  whole = train(tmp_path / "whole", 9)
  state = train(tmp_path / "parts", 6)
  folder = tmp_path / "parts" / "line_checkpoints"
  manager = runs.open_manager(folder)
  manager.delete(6)
  args = ocp.args.Composite(
    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave({"next": 6})
  )
  manager.save(6, args=args)
  manager.close()
  assert (folder / "6" / "data").exists()
  resumed = train(tmp_path / "parts", 9)
  np.testing.assert_array_equal(whole.params, resumed.params)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capfd):
  whole = train(tmp_path / "whole", 9)
  train(tmp_path / "parts", 6)
  damage(tmp_path / "parts" / "line_checkpoints" / "6")
  resumed = train(tmp_path / "parts", 9)
  np.testing.assert_array_equal(whole.params, resumed.params)
  assert "step 6 could not be read and was removed" in capfd.readouterr().err


def damage(folder):
  for file in folder.rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:3])


@pytest.mark.faults
def test_a_run_is_saved_though_a_later_checkpoint_was_damaged(
  tmp_path, monkeypatch
):
  train(tmp_path, 6)  # checkpoints of steps 3 and 6
  damage(tmp_path / "line_checkpoints" / "6")

  @contextlib.contextmanager
  def at_five():
    yield lambda step: 143 if step == 5 else 0

  monkeypatch.setattr(processes, "stop_signal", at_five)
  with pytest.raises(SystemExit):
    train(tmp_path, 9, every=100)
  manager = runs.open_manager(tmp_path / "line_checkpoints")
  assert sorted(manager.all_steps()) == [3, 5]
  with pytest.raises(UserError, match="step 4 was not saved.*another run"):
    state = {"x": jnp.zeros(2)}
    save = runs.save_hook(manager, label="line", every=1, last=9)
    save(4, state, {})


@pytest.mark.faults
def test_a_full_disk_leaves_the_older_checkpoint_and_no_half_one(
  tmp_path, monkeypatch
):
  train(tmp_path, 3)
  half = tmp_path / "line_checkpoints" / "6.orbax-checkpoint-tmp"
  broken, finish = [], ocp.CheckpointManager.wait_until_finished

  def wait(manager):
    finish(manager)  # else its thread may write the folder again
    if manager.latest_step() == 6 and not broken:
      half.mkdir(exist_ok=True)
      broken.append(6)
      raise ValueError("RESOURCE_EXHAUSTED: No space left on device [28]")

  monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", wait)
  with pytest.raises(UserError, match="is full: the checkpoint of step 6 was"):
    train(tmp_path, 9)
  assert not half.exists()


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


@pytest.mark.parametrize("spoilt", ["loss", "params"])
def test_what_is_not_finite_is_never_saved(tmp_path, spoilt):
  """Though metrics are read at the end alone; and weights before their loss."""
  given = objective()

  def step(state, batch, rng):
    last = state.step == 4  # of the fifth step
    state, found = given.step(state, batch, rng)
    nan = lambda x: jnp.where(last, jnp.nan, x)
    if spoilt == "loss":
      return state, {"loss": nan(found["loss"])}
    return state.replace(params=nan(state.params)), found

  words = "loss is" if spoilt == "loss" else "the state is"
  with pytest.raises(UserError, match=f"line: {words} not finite at step 5"):
    train(tmp_path, 9, every=1, log_every=100, given=given._replace(step=step))
  with pytest.raises(UserError) as error:
    train(tmp_path, 9, every=2, log_every=1, given=given._replace(step=step))
  folder = tmp_path / "line_checkpoints"
  assert f"of step 4 in {folder}" in str(error.value)
  assert sorted(path.name for path in folder.glob("[0-9]*")) == ["3", "4"]


def test_metrics_cut_short_by_a_crash_are_read_up_to_there(tmp_path):
  file = tmp_path / "m.jsonl"
  file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  assert metrics.read_rows(file) == [{"step": 1, "loss": 2.0}]
  assert metrics.read_rows(tmp_path / "none.jsonl") == []


def test_a_line_cut_short_is_dropped_before_others_follow(tmp_path):
  whole = train(tmp_path / "whole", 6)
  train(tmp_path / "parts", 3)
  with (tmp_path / "parts" / "line_metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "lo')
  resumed = train(tmp_path / "parts", 6)
  np.testing.assert_array_equal(resumed.params, whole.params)
  assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")


# --- monitors ---------------------------------------------------------------


def norm(state):
  return {"norm": np.linalg.norm(state.params), "at": state.step}


def test_a_monitor_has_rows_of_its_own_and_changes_nothing(tmp_path, capfd):
  plain = train(tmp_path / "plain", 7)
  told = capfd.readouterr().err
  watched = train(tmp_path / "watched", 7, monitor=norm, monitor_every=3)
  jax.tree.map(np.testing.assert_array_equal, watched, plain)
  rows = rows_of(tmp_path / "watched")
  assert [row for row in rows if "loss" in row] == rows_of(tmp_path / "plain")
  found = [row for row in rows if "norm" in row]
  assert [row["step"] for row in found] == [3, 6, 7]  # and at the end
  assert [row["at"] for row in found] == [3, 6, 7]
  np.testing.assert_allclose(
    found[-1]["norm"], np.linalg.norm(plain.params), rtol=1e-6
  )
  assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
  assert "norm" not in told
  last = capfd.readouterr().err.splitlines()[-1]
  assert re.match(r"line: 7/7 steps  loss [\d.]+  norm [\d.]+ ", last)


def test_without_an_interval_the_end_alone_is_monitored(tmp_path):
  train(tmp_path, 4, monitor=norm)
  assert [row["step"] for row in rows_of(tmp_path) if "norm" in row] == [4]


@pytest.mark.faults
@pytest.mark.parametrize("killed_at", ["in the monitor", "before saving"])
def test_a_killed_run_neither_loses_nor_doubles_its_monitors(
  tmp_path, monkeypatch, killed_at
):
  """Step 6 is monitored and then saved; the run is killed in between."""
  watch = partial(train, every=3, monitor_every=2)
  whole = watch(tmp_path / "whole", 9, monitor=norm)

  def dying(state):
    if state.step == 6 and killed_at == "in the monitor":
      raise KeyboardInterrupt
    return norm(state)

  save_hook = runs.save_hook

  def dying_save_hook(*args, **kwargs):
    save = save_hook(*args, **kwargs)

    def hook(step, state, found):
      if step == 6 and killed_at == "before saving":
        raise KeyboardInterrupt
      save(step, state, found)

    return hook

  with monkeypatch.context() as patched:
    patched.setattr(runs, "save_hook", dying_save_hook)
    with pytest.raises(KeyboardInterrupt):
      watch(tmp_path / "parts", 9, monitor=dying)
  assert rows_of(tmp_path / "parts")[-1]["step"] == 6  # told, and not saved
  resumed = watch(tmp_path / "parts", 9, monitor=norm)  # from 3
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)
  rows = rows_of(tmp_path / "parts")
  assert rows == rows_of(tmp_path / "whole")
  assert [r["step"] for r in rows if "norm" in r] == [2, 4, 6, 8, 9]


def test_monitoring_does_not_count_as_training(tmp_path, monkeypatch, capsys):
  """Ten seconds of monitor, a tenth of a second a step, by a false clock."""
  clock = [0.0]
  monkeypatch.setattr(metrics.time, "monotonic", lambda: clock[0])

  def slow(state):
    clock[0] += 10
    return {"x": 1.0}

  hook = metrics.progress_hook(
    tmp_path / "m.jsonl",
    label="x",
    every=1,
    num_steps=9,
    batch_size=4,
    monitor=slow,
    monitor_every=2,
  )
  for step in range(1, 6):
    clock[0] += 0.1
    hook(step, None, {"loss": 1.0})
  assert " 40.0 images/s" in capsys.readouterr().err.splitlines()[-1]


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
