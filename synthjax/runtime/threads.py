"""Applies a function to many items by threads; counts the cores for them."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent import futures
from typing import Any


def in_threads(
  function: Callable[[Any], Any], items: Collection[Any], *, threads: int = 16
) -> list:
  """Returns what a function makes of each item, in their order.

  A future takes 2 kB, so that those of a million files would take gigabytes:
  each is of several items where there are many.

  Args:
    function: that waits for a disk or a bucket, or releases Python's lock.
    items: each an argument of it.
    threads: which call it at the same time.

  Raises:
    Exception: what the function raises about the first item of which it does.
  """
  items = items if isinstance(items, Sequence) else list(items)
  size = 1 + len(items) // (64 * threads)
  parts = [items[i : i + size] for i in range(0, len(items), size)]
  with futures.ThreadPoolExecutor(threads) as pool:
    made = pool.map(lambda part: [function(item) for item in part], parts)
    return list(itertools.chain.from_iterable(made))


# --- cores --------------------------------------------------------------------

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN_CGROUP = pathlib.Path("/proc/self/cgroup")


def count_cores() -> int:
  """Returns the cores that this process may use, at least 1.

  The machine may have more: a scheduler binds a process to some of them, and a
  container may have the time of a few (control groups, of either version).
  """
  cores = os.cpu_count() or 1
  if hasattr(os, "sched_getaffinity"):  # on Linux
    cores = len(os.sched_getaffinity(0))
  return max(1, min([cores, *_granted()]))


def _granted() -> Iterator[int]:
  """Yields the whole cores that each limit of a control group allows."""
  own_group = ""
  with contextlib.suppress(OSError):
    own_group = _OWN_CGROUP.read_text().partition("0::/")[2].strip()
  # Groups within limited ones; a container may see its own as the root.
  parts = pathlib.PurePath(own_group).parts
  for depth in range(len(parts) + 1):
    yield from _cores(_CGROUPS.joinpath(*parts[:depth]), "cpu.max")
  names = "cpu.cfs_quota_us", "cpu.cfs_period_us"  # version 1
  yield from _cores(_CGROUPS / "cpu", *names)


def _cores(group: pathlib.Path, *names: str) -> Iterator[int]:
  """Yields quota over period, two numbers in one file or two."""
  with contextlib.suppress(OSError, ValueError):
    texts = [(group / name).read_text() for name in names]
    quota, period = map(int, " ".join(texts).split())  # "max": no limit
    if quota > 0:  # -1: no limit
      yield quota // period
