"""Batches of training: whole epochs, the same for any number of processes."""

import types

import jax
import numpy as np
import pytest
from shaken_rows import shake

from synthjax.data.pipeline import loader as pipeline


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


def shares(count, monkeypatch, first=0, **changes):
  """Returns four batches from `first` on, joined from so many processes."""
  source = [{"x": np.float32([i, 0])} for i in range(30)]
  monkeypatch.setattr(jax, "process_count", lambda: count)
  found = []
  for rank in range(count):
    monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
    batches = pipeline.train_batches(
      source, [shake], batch_size=8, seed=1, **changes
    )
    iterator = batches.start_at(first)
    found.append([next(iterator)["x"] for _ in range(4)])
  return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("repeats", [1, 3])
def test_batches_are_the_same_for_any_number_of_processes(monkeypatch, repeats):
  """Row for row, draws included, from any of them on."""
  alone = shares(1, monkeypatch, repeats=repeats)
  for count in (2, 4):
    for first in (0, 2):
      found = shares(count, monkeypatch, first, repeats=repeats)
      np.testing.assert_array_equal(found[: 4 - first], alone[first:])


def pairs_of(first, **changes):
  """Returns what two data sets give beside each other and by themselves."""
  sources = [[{"x": np.float32([i, k])} for i in range(9)] for k in (0, 1)]
  parts = [
    pipeline.train_batches(x, [shake], batch_size=4, seed=k, **changes)
    for k, x in enumerate(sources)
  ]
  take = lambda batches: np.stack(
    [x["x"] for x, _ in zip(batches.start_at(first), range(5), strict=False)]
  )
  return take(pipeline.beside(parts)), [take(each) for each in parts]


def test_batches_of_several_sets_lie_beside_each_other():
  for first in (0, 3):
    found, alone = pairs_of(first)
    np.testing.assert_array_equal(found, np.stack(alone, axis=2))


@pytest.mark.slow
def test_reading_processes_read_several_sets():
  found, alone = pairs_of(3, num_workers=2)
  np.testing.assert_array_equal(found, np.stack(alone, axis=2))


@pytest.mark.slow
def test_reading_processes_start_anywhere_and_change_nothing(monkeypatch):
  want = shares(1, monkeypatch, 3)
  found = shares(1, monkeypatch, 3, num_workers=2)
  np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
  ("platform", "devices", "cores", "workers"),
  [
    ("cpu", 1, 64, 0),  # its cores train
    ("gpu", 1, 64, 8),
    ("gpu", 8, 208, 64),
    ("tpu", 4, 12, 11),
    ("gpu", 1, 1, 0),
  ],
)
def test_reading_processes_follow_from_devices_and_cores(
  monkeypatch, platform, devices, cores, workers
):
  local = [types.SimpleNamespace(platform=platform)] * devices
  monkeypatch.setattr(jax, "local_devices", lambda: local)
  monkeypatch.setattr(pipeline, "count_cores", lambda: cores)
  started = []
  monkeypatch.setattr(
    pipeline.grain, "MultiprocessingOptions", lambda n: started.append(n)
  )
  monkeypatch.setattr(
    pipeline.grain.IterDataset, "mp_prefetch", lambda ds, options: ds
  )
  batches = pipeline.train_batches(
    [{"x": 1}], [], batch_size=1, seed=0, num_workers=None
  )
  next(iter(batches))
  assert started == [workers] * (workers > 0)


def test_a_batch_that_does_not_split_is_refused(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  with pytest.raises(ValueError, match="try 3"):
    pipeline.train_batches([1], [], batch_size=4, seed=0)
