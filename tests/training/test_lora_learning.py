"""Adapters that are learned in one step: each by itself, on any devices."""

import json

import jax
import numpy as np
import pytest
import simulated
from adapter_lines import points, slopes, train

from synthjax.runtime import memory
from synthjax.runtime.errors import UserError
from synthjax.training import lora, metrics


def learn(batch, numbers, steps=100):
  state = slopes().init(lora.keys_of(0, numbers), batch)
  step, reported = jax.jit(slopes().step), []
  for _ in range(steps):
    state, metrics = step(state, batch, jax.random.key(9))
    reported.append(float(metrics["loss"]))
  return np.asarray(state.params), reported


def test_adapters_learn_their_own_and_the_same_beside_others():
  batch = points()
  together, _ = learn(batch, [0, 1, 2])
  np.testing.assert_allclose(together + 0.5, [1, 2, 3], atol=0.05)
  one = batch | {"rows": jax.tree.map(lambda x: x[1:2], batch["rows"])}
  alone, _ = learn(one, [1])
  np.testing.assert_allclose(alone, together[1:2], rtol=1e-5)


def test_adapters_that_fill_up_are_not_reported():
  batch = points()
  _, want = learn(batch, [0, 1, 2], 5)
  filled = np.array([0, 1, 2, 2, 2])
  more = batch | {"rows": jax.tree.map(lambda x: x[filled], batch["rows"])}
  _, off = learn(more, filled, 5)
  assert np.abs(np.subtract(off, want)).max() > 0.1
  counts = np.arange(5) < 3
  _, got = learn(more | {"counts": counts}, filled, 5)
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("room", [None, 10**9])
def test_trainings_of_one_size_are_compiled_once(
  tmp_path, monkeypatch, caplog, room
):
  """Where the memory is known, too, and compiled programs are looked at."""
  monkeypatch.setattr(memory, "limit", lambda: room)
  slopes.cache_clear()
  with jax.log_compiles():
    for k in (3, 3, 2, 1):
      train(tmp_path, k, 3, 2, f"of-{k}-{len(caplog.records)}")
  assert "Finished XLA compilation of jit(step)" in caplog.text
  for function in ("start", "step"):
    message = f"Finished XLA compilation of jit({function})"
    assert caplog.text.count(message) == 1


def test_the_memory_is_that_of_all_adapters_and_of_what_lies_beside(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(memory, "limit", lambda: 10**9)
  seen = []
  monkeypatch.setattr(memory, "check", lambda *a, **k: seen.append((a, k)))
  train(tmp_path, 5, 6, 1)
  ((held, working, count), named) = seen[0]
  # Of each adapter its slope, the momentum and a key, and that it counts; of
  # four points x and y. Besides, the frozen weight and the step.
  assert held == 6 * (4 + 4 + 8 + 1 + 4 * 2 * 4) + 4 + 4
  assert count == 6 and named == {
    "field": f"config.{tmp_path.name}.together",
    "devices": 1,
  }
  # A step writes a new slope, momentum and key, and computes on the points.
  assert working >= 6 * 4


def test_the_field_that_counts_for_all_devices_is_named():
  gib = memory.GIB
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(memory, "limit", lambda: 10 * gib)
    with pytest.raises(UserError, match=r"together=32 needs .* set it to 8\."):
      memory.check(4 * gib, 16 * gib, 8, field="config.t.together", devices=4)


FOUR = """
import json, pathlib, sys
import jax
from adapter_lines import train

folder = pathlib.Path(sys.argv[1])
state, four = train(folder / "four", 6, 8, 8)
train(folder / "more", 6, 8, 4)
_, less = train(folder / "less", 6, 8, 8)
held = [x.addressable_shards[0].data.shape[0] for x in jax.tree.leaves(
  (state.params, state.opt_state, state.key_data))]
print(json.dumps([four.tolist(), less.tolist(), held]))
"""


@pytest.mark.slow
def test_any_devices_learn_the_same_and_go_on_from_each_other(tmp_path):
  """Each has adapters of its own; those that fill up may be more or fewer."""
  _, want = train(tmp_path / "whole", 6, 6, 8)
  train(tmp_path / "less", 6, 6, 4)
  process = simulated.start(FOUR, tmp_path, devices=4)
  four, less, held = json.loads(simulated.finish(process))
  assert {*held} == {2}
  _, more = train(tmp_path / "more", 6, 6, 8)
  for slopes_of in (four, less, more):
    np.testing.assert_allclose(slopes_of, want, rtol=1e-5)
  losses = [
    [row["loss"] for row in metrics.read_rows(path)]
    for path in tmp_path.glob("*/lines_metrics.jsonl")
  ]
  assert len(losses) == 4 and {*map(len, losses)} == {8}
  np.testing.assert_allclose(losses, losses[:1] * 4, rtol=1e-4)
