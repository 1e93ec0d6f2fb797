"""Training from a set on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_run import objective

from synthjax.config import schema
from synthjax.runtime.errors import UserError
from synthjax.training import resident
from synthjax.training import run as runs

ROWS = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
ARRAYS = {"x": jnp.asarray(ROWS[:, :2]), "y": jnp.asarray(ROWS[:, 2])}


def draw(arrays, rng):
  rows = jax.random.randint(rng, (8,), 0, len(ROWS))
  return {name: array[rows] for name, array in arrays.items()}


def train(folder, num_steps, steps_per_call):
  fields = resident.Loop(
    num_steps=num_steps,
    batch_size=8,
    log_every=4,
    checkpoint_every=4,
    steps_per_call=steps_per_call,
  )
  return runs.train(
    resident.resident(objective(), draw, steps_per_call=steps_per_call),
    resident.Resident(ARRAYS),
    fields,
    folder=folder,
    label="line",
    num_steps=num_steps,
    batch_size=8,
    seed=0,
  )


def test_steps_of_a_call_change_nothing_and_a_run_resumes(tmp_path):
  one = train(tmp_path / "one", 12, 1)
  four = train(tmp_path / "four", 12, 4)
  train(tmp_path / "parts", 8, 2)
  parts = train(tmp_path / "parts", 12, 2)
  assert int(one.step) == int(four.step) == int(parts.step) == 12
  np.testing.assert_allclose(four.params, one.params, rtol=1e-5)
  np.testing.assert_allclose(parts.params, one.params, rtol=1e-5)
  rows = (tmp_path / "parts" / "line_metrics.jsonl").read_text()
  assert rows.count("\n") == 3  # of steps 4, 8 and 12


def test_each_step_sees_the_rows_of_its_own_key():
  seen = []

  def step(state, batch, rng):
    del rng
    return state + 1, {"rows": batch["x"].sum()}

  inner = objective()._replace(init=lambda rng, batch: jnp.zeros(()), step=step)
  keys = jax.random.split(jax.random.key(1), 3)
  for key in keys:
    _, metrics = resident.resident(inner, draw).step(0.0, ARRAYS, key)
    seen.append(float(metrics["rows"]))
    want = draw(ARRAYS, jax.random.split(key)[0])["x"].sum()
    assert seen[-1] == pytest.approx(float(want), rel=1e-6)
  three = resident.resident(inner, draw, steps_per_call=3)
  state, metrics = three.step(0.0, ARRAYS, keys)
  assert state == 3 and len(set(seen)) == 3
  assert float(metrics["rows"]) == pytest.approx(np.mean(seen), rel=1e-5)


def read_loop(**given):
  fields = {"num_steps": 70, "batch_size": 8, "steps_per_call": 7}
  return schema.read(resident.Loop, fields | given, "config.train_clip")


def test_steps_that_do_not_divide_are_named():
  with pytest.raises(UserError) as error:
    read_loop(log_every=14)
  assert "checkpoint_every=1000 is no multiple" in str(error.value)
  assert "log_every" not in str(error.value)


def test_a_cpu_takes_one_step_a_call_and_others_what_is_given(monkeypatch):
  fields = read_loop(log_every=14, checkpoint_every=7)
  assert (fields.steps_per_call, fields.steps_here) == (7, 1)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert fields.steps_here == 7


def test_no_process_reads():
  with pytest.raises(UserError, match="no field 'num_workers'"):
    read_loop(num_workers=2)
