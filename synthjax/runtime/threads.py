"""Applies a function to many items by threads."""

import itertools
from collections.abc import Callable, Collection, Sequence
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
    What the function raises about the first item of which it does.
  """
  items = items if isinstance(items, Sequence) else list(items)
  size = 1 + len(items) // (64 * threads)
  parts = [items[i : i + size] for i in range(0, len(items), size)]
  with futures.ThreadPoolExecutor(threads) as pool:
    made = pool.map(lambda part: [function(item) for item in part], parts)
    return list(itertools.chain.from_iterable(made))
