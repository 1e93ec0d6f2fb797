"""Many items by threads, at the memory of few; and how many cores there are."""

import os
from concurrent import futures

import pytest

from synthjax.runtime import threads
from synthjax.runtime.threads import count_cores, in_threads


def test_a_million_files_take_few_futures(monkeypatch):
  """One for each of ImageNet's images would take gigabytes."""
  submitted, submit = [], futures.ThreadPoolExecutor.submit

  def note(pool, *args):
    submitted.append(args)
    return submit(pool, *args)

  monkeypatch.setattr(futures.ThreadPoolExecutor, "submit", note)
  assert in_threads(abs, {-1: "a"}) == [1]
  for count in (0, 1, 40, 1024, 1_000_003):
    submitted.clear()
    found = in_threads(abs, range(-count, 0))
    assert found == list(range(count, 0, -1))
    assert min(count, 16) <= len(submitted) <= 1024


@pytest.mark.parametrize(
  ("files", "count"),
  [
    ({}, 12),
    ({"cpu.max": "max 100000"}, 12),
    ({"cpu.max": "350000 100000"}, 3),
    ({"cpu.max": "9900000 100000"}, 12),
    ({"cpu.max": "50000 100000"}, 1),
    ({"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}, 4),
    ({"other/cpu.max": "400000 100000"}, 12),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 12),
    ({"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),
  ],
)
def test_cores_are_those_that_this_process_may_use(
  tmp_path, monkeypatch, files, count
):
  """Of a machine with 64, it is bound to 12, and a group may limit it."""
  monkeypatch.setattr(os, "cpu_count", lambda: 64)
  monkeypatch.setattr(
    os, "sched_getaffinity", lambda pid: set(range(12)), raising=False
  )
  groups = tmp_path / "cgroup"
  for name, text in files.items():
    (groups / name).parent.mkdir(parents=True, exist_ok=True)
    (groups / name).write_text(text + "\n")
  own = tmp_path / "own"
  own.write_text("1:name=systemd:/\n0::/job/step\n")
  monkeypatch.setattr(threads, "_CGROUPS", groups)
  monkeypatch.setattr(threads, "_OWN_CGROUP", own)
  assert count_cores() == count
