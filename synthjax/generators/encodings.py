"""Encodings of prompts: each is made once, and stays on the devices."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

# Of the released GLIDE, in bfloat16, so many take 140 MB.
CAPACITY = 512


def cached(
  encode: Callable[[list[str]], Sequence[Any]],
  *,
  batch_size: int,
  capacity: int = CAPACITY,
) -> Callable[..., list[Any]]:
  """Keeps what `encode` returns for the prompts that were last asked for.

  Args:
    encode: takes exactly `batch_size` prompts and returns as many rows, each of
      which depends on its own prompt alone.
    batch_size: of `encode`; fewer prompts are filled up with empty ones.
    capacity: rows that are kept between two calls.

  Returns:
    (prompts [n], coming) -> the rows of prompts, a list [n]. `coming` are the
    prompts of later calls, which fill up a batch where prompts do not.
  """
  rows = {}  # those that were last asked for come last

  def look_up(prompts: Sequence[str], coming: Sequence[str] = ()) -> list[Any]:
    wanted = dict.fromkeys(prompts)
    lacking = [p for p in wanted if p not in rows]
    count = len(lacking)
    if count:
      further = dict.fromkeys(coming)
      lacking += [p for p in further if p not in wanted and p not in rows]
    for first in range(0, count, batch_size):
      block = lacking[first : first + batch_size]
      blank = [""] * (batch_size - len(block))
      rows.update(zip(block, encode(block + blank), strict=False))
    for prompt in wanted:
      rows[prompt] = rows.pop(prompt)
    found = [rows[prompt] for prompt in prompts]
    for prompt in list(itertools.islice(rows, max(len(rows) - capacity, 0))):
      del rows[prompt]
    return found

  return look_up
