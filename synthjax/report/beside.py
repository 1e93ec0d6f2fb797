"""Sets our numbers beside the paper's, as plain data."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.evals import classify
from synthjax.report import ours, paper
from synthjax.report.paper import Grid

_OTHER = "compare the differences, not the values"


def compare(
  key: str, results: Mapping, *, space: str | None, encoder: str | None
) -> dict[str, Any]:
  """Sets our numbers beside those of a table of the paper.

  Args:
    key: of the table, one of `paper.keys`.
    results: as of `gather.gather`.
    space: the label space of the config.
    encoder: paper.RN50 or paper.VIT_B16 where it is one of them, else None.

  Returns:
    Dict of key, title, metric, note, remark ("" where the values themselves
    can be compared), ours (our label space), paper (names of the paper's data
    sets shown), and cells: dicts of row, column, reference (another row, or
    None), paper and paper_difference (name -> share), approximate (names), arm
    (ours, or None), ours and difference (dicts of n, mean, std, stderr, low
    and high, or None). The difference is that to the reference; ours is paired
    by seed.
  """
  table = paper.read(key)
  task, _ = ours.NAMES.get(key, ("", {}))
  space = _space(results, space, task)
  data = paper.DETECTION_SETS if task == "detect" else paper.DATA_SETS
  grids, remark = _choose(table.grids, data.get(space), encoder)
  found = ours.find(key, results)
  names = _names(grids)
  cells = []
  for row, column in _places(grids, found, key):
    reference = _reference(key, row)
    start = reference, _column(grids, reference, column)
    own, other = found.get((row, column)), found.get(start)
    of_paper = {n: g.values.get((row, column)) for n, g in names.items()}
    before = {n: g.values.get(start) for n, g in names.items()}
    cells.append(
      {
        "row": row,
        "column": column,
        "reference": reference,
        "paper": of_paper,
        "paper_difference": {
          name: None
          if None in (of_paper[name], before[name])
          else of_paper[name] - before[name]
          for name in names
        },
        "approximate": [
          name for name, g in names.items() if (row, column) in g.approximate
        ],
        "arm": own.arm if own else None,
        "ours": _summary([*own.by_seed.values()]) if own else None,
        "difference": _difference(own, other),
      }
    )
  return {
    "key": key,
    "title": table.title,
    "metric": table.metric,
    "note": table.note,
    "remark": remark,
    "ours": space,
    "paper": list(names),
    "cells": cells,
  }


def _space(results: Mapping, space: str | None, task: str) -> str:
  """Returns the name of our data; a config may name a file of classes."""
  if task == "detect":  # other data than those of config.space
    return str(results.get(task, {}).get("space") or "no data")
  said = (results.get(task, {}).get("space") for task in ours.CLASSIFIERS)
  return str(next(filter(None, said), None) or space or "no data")


def _choose(
  grids: Sequence[Grid], data: str | None, encoder: str | None
) -> tuple[list[Grid], str]:
  """Chooses what the paper says of our data; else of what it shows most of."""
  same = [grid for grid in grids if grid.data == data]
  remark = "" if same else f"other data: {_OTHER}"
  chosen = same or [grid for grid in grids if grid.typical]
  if encoder:
    alike = [grid for grid in chosen if grid.encoder == encoder]
    clip = {grid.encoder for grid in chosen} & {paper.RN50, paper.VIT_B16}
    if not alike and clip and not remark:
      remark = f"other encoder: {_OTHER}"
    chosen = alike or chosen
  return chosen, remark


def _names(grids: Sequence[Grid]) -> dict[str, Grid]:
  """Names grids by their data, and by the encoder where it differs."""
  several = len({grid.encoder for grid in grids}) > 1
  return {
    f"{grid.data}, {grid.encoder}" if several else grid.data: grid
    for grid in grids
  }


def _places(grids: Sequence[Grid], found: Mapping, key: str) -> list[tuple]:
  """Returns the rows and columns of the paper, and our own of Table 3."""
  places = list(dict.fromkeys(at for grid in grids for at in grid.values))
  if key == "table3":
    places = list(dict.fromkeys([*places, *found]))
    places.sort(key=lambda at: float(at[0].split()[0]))
    return places
  rows = dict.fromkeys(row for row, _ in places)
  columns = dict.fromkeys(column for _, column in places)
  order = [*columns]
  if all(column.isdigit() for column in order):
    order.sort(key=int)
  return list(itertools.product(rows, order))


def _reference(key: str, row: str) -> str | None:
  of_table = ours.REFERENCES.get(key)
  if isinstance(of_table, Mapping):
    return of_table.get(row)
  return None if of_table == row else of_table


def _column(grids: Sequence[Grid], reference: str | None, column: str) -> str:
  """Returns the column to compare with: the only one of the reference, if so.

  Without pre-training there are no numbers but those of 0 images.
  """
  own = {c for g in grids for row, c in g.values if row == reference}
  return own.pop() if len(own) == 1 else column


def _summary(values: Sequence[float]) -> dict[str, Any]:
  return classify.summarize(values)._asdict()


def _difference(
  own: ours.Found | None, other: ours.Found | None
) -> dict[str, Any] | None:
  """Pairs two arms by seed; zero-shot has none, and pairs with all."""
  if own is None or other is None:
    return None
  a, b = own.by_seed, other.by_seed
  if [*b] == [None]:
    b = dict.fromkeys(a, b[None])
  elif [*a] == [None]:
    a = dict.fromkeys(b, a[None])
  seeds = [seed for seed in a if seed in b]
  if not seeds:
    return None
  return classify.paired_difference(
    [a[seed] for seed in seeds], [b[seed] for seed in seeds]
  )._asdict()
