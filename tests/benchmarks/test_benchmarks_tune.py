"""Tests of the benchmark of tuning: both sides compute the same."""

import json

import numpy as np
import pytest

from benchmarks import devices, table, tune

TOY = {
  "rounds": 1,
  "dim": 8,
  "rows": 50,
  "classes": 3,
  "epochs": 2,
  "batch": 20,
  "search-rows": 30,
  "search-classes": 4,
  "shots": 2,
  "betas": 5,
  "alphas": 3,
  "timed-betas": 5,
}


def test_it_prints_a_table_and_writes_its_rows(tmp_path, capsys):
  pytest.importorskip("torch")
  path = tmp_path / "rows.json"
  flags = [f"--{name}={value}" for name, value in TOY.items()]
  tune.main([*flags, "--json", str(path)])
  rows = json.loads(path.read_text())
  assert [row["name"] for row in rows] == [
    "classifier tuning, 6 steps of 20, against DataLoader",
    "classifier tuning, 6 steps of 20, against index batches",
    "Tip-Adapter's search, 5 x 3",
  ]
  for row in rows:
    assert row["ratio"] == pytest.approx(row["reference"] / row["ours"])
    assert row["unit"] == "s" and row["device"]
    assert {"python", "jax", "torch"} <= row["versions"].keys()
  printed = capsys.readouterr().out
  assert all(row["name"] in printed for row in rows)


def test_both_sides_compute_the_same():
  pytest.importorskip("torch")
  from synthjax.adapt import linear_head, tip_adapter

  rng = np.random.default_rng(0)
  features, labels, centres = tune.make_features(rng, 3, 60, 8, 1.0)
  head = linear_head.init_head(centres[:, None], 100.0)
  index = linear_head.epochs_index(60, batch_size=25, num_epochs=3, seed=0)
  rows = linear_head.Rows(features, labels, index)
  ours = linear_head.tune([rows], head).head.weight
  weight = np.array(head.weight)
  theirs = tune.torch_tuning(features, labels, weight, index, loader=False)
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  assert np.abs(theirs - weight).max() > 1e-2
  loaded = tune.torch_tuning(features, labels, weight, index, loader=True)
  assert loaded.shape == theirs.shape and np.any(loaded != theirs)

  cache = tip_adapter.build_cache(features[None, :12], labels[:12], 3)
  filled = np.asarray(cache.filled)
  validation = features[12:], labels[12:]
  found = tip_adapter.search(
    cache,
    head,
    *validation,
    scale=tip_adapter.Strengths(7.0, 3.0),
    steps=(6, 4),
  )
  accuracy, beta, alpha = tune.torch_search(
    np.asarray(cache.keys)[filled],
    np.eye(3, dtype=np.float32)[np.nonzero(filled)[0]],
    weight,
    *validation,
    np.asarray(found.betas).tolist(),
    np.asarray(found.alphas).tolist(),
  )
  np.testing.assert_allclose(
    (accuracy, beta, alpha), (found.accuracy, *found.best), rtol=1e-6
  )


def test_a_ratio_above_1_means_that_ours_is_faster(capsys):
  rows = [
    table.row("a", "s", 2.0, 6.0, device="CPU"),
    table.row("b", "images/s", 8.0, 2.0, device="CPU", more_is_better=True),
    table.row("c", "s", 1.0, None, device="CPU"),
  ]
  assert [row["ratio"] for row in rows] == [3.0, 4.0, None]
  table.show(rows)
  assert "CPU" in capsys.readouterr().out


def test_threads_are_bound_before_jax_counts_them(monkeypatch):
  bound = {0, 1, 2, 3}
  monkeypatch.setattr(
    devices.os, "sched_getaffinity", lambda pid: set(bound), raising=False
  )

  def bind(pid, cores):
    bound.intersection_update(cores)

  monkeypatch.setattr(devices.os, "sched_setaffinity", bind, raising=False)
  assert devices.limit_threads(0) == 4
  assert devices.limit_threads(2) == 2 and bound == {0, 1}
