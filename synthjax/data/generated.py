"""The generated images of a workdir, all of them or those that were kept."""

import json
from collections.abc import Sequence

from etils import epath

from synthjax.data.few_shot import subset
from synthjax.data.shards import Example, Source, open_shards
from synthjax.errors import UserError


def open_generated(
  folder: epath.PathLike,
  *,
  strategy: str | None = None,
  selection: epath.PathLike | None = None,
) -> Source:
  """Opens what `generate` has drawn.

  Args:
    folder: of the image shards.
    strategy: of the prompts; None takes the images of all.
    selection: the `selection.jsonl` of `select`, of which the rows that are
      kept are taken; None takes every image.

  Raises:
    UserError: if no image is left, or shards are missing or damaged.
  """
  if selection is not None:
    rows = [json.loads(x) for x in epath.Path(selection).open() if x.strip()]
    found = {row["strategy"] for row in rows if row["kept"]}
    ids = [
      row["id"]
      for row in rows
      if row["kept"] and strategy in (None, row["strategy"])
    ]
    if not ids:
      raise _nothing(selection, strategy, found)
    return open_shards(folder, ids)
  source = open_shards(folder)
  if strategy is None:
    return source
  spans = spans_of_strategies(source)
  if strategy not in spans:
    raise _nothing(folder, strategy, spans)
  return subset(source, spans[strategy])


def spans_of_strategies(source: Sequence[Example]) -> dict[str, range]:
  """Returns the rows of each strategy.

  Rows are ordered by strategy, so that bisection reads a few of millions.
  """
  spans, start = {}, 0
  while start < len(source):
    name, low, high = _strategy(source[start]), start, len(source)
    while high - low > 1:  # row `low` is of this strategy, row `high` is not
      middle = (low + high) // 2
      if _strategy(source[middle]) == name:
        low = middle
      else:
        high = middle
    spans[name], start = range(start, high), high
  return spans


def _strategy(row: Example) -> str:
  return row["id"].split("-")[
    0
  ]  # "<strategy>-<label>-<index>-s<seed>-<number>"


def _nothing(where, strategy, found) -> UserError:
  of = "" if strategy is None else f" of the strategy {strategy!r}"
  return UserError(
    f"{where} has no image{of} to train on; it has those of "
    f"{', '.join(sorted(found)) or 'no strategy at all'}."
  )
