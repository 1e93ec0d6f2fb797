"""Sets our numbers beside the paper's, which paper_tables.json has."""

import functools
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.evals import accuracy
from synthjax.report.results import CLASSIFYING

# --- the paper's tables, as grids read from paper_tables.json ----------------

_FILE = pathlib.Path(__file__).parent / "paper_tables.json"
ZERO_SHOT = "zero-shot"  # a row
RN50, VIT_B16 = "CLIP-RN50", "CLIP-ViT-B/16"

Values = dict[tuple[str, str], float]  # (row, column) -> share


class Grid(NamedTuple):
  """The numbers of a table for one data set."""

  data: str
  values: Values
  encoder: str = RN50
  approximate: frozenset[tuple[str, str]] = frozenset()  # rows and columns
  typical: bool = True  # shown where no grid is of our data


class Table(NamedTuple):
  """A table of the paper."""

  title: str
  metric: str
  note: str
  task: str  # ours, shown beside it; "" if arms are not matched by name
  # Row -> our arm, method or first weights, where they are named differently.
  # An arm for one column alone has the key "row, column"; in few-shot tables
  # the columns are shots.
  arms: Mapping[str, str]
  # The row that others are compared with; or, of each row, its own.
  reference: str | Mapping[str, str] | None
  grids: tuple[Grid, ...]

  def reference_of(self, row: str) -> str | None:
    """Returns the row that a row is compared with."""
    if isinstance(self.reference, Mapping):
      return self.reference.get(row)
    return None if self.reference == row else self.reference


def data_sets() -> dict[str, str]:
  """Returns label space, or data of `detect` -> the paper's data set."""
  return _load()["_data_sets"]


def keys() -> list[str]:
  """Returns the names of all tables."""
  return [key for key in _load() if not key.startswith("_")]


def read(key: str) -> Table:
  """Reads one of `keys`."""
  table = _load()[key]
  return Table(
    table["title"],
    table["metric"],
    table.get("note", ""),
    table.get("task", ""),
    table.get("arms", {}),
    table.get("reference"),
    tuple(map(_grid, table["grids"])),
  )


def _grid(grid: Mapping[str, Any]) -> Grid:
  """Reads row -> percent, or row -> column -> percent, as shares."""
  rows = {
    row: columns if isinstance(columns, Mapping) else {"": columns}
    for row, columns in grid["values"].items()
  }
  return Grid(
    grid["data"],
    {
      (row, column): percent / 100
      for row, columns in rows.items()
      for column, percent in columns.items()
    },
    grid.get("encoder", RN50),
    frozenset(
      (row, column)
      for row, columns in grid.get("approximate", {}).items()
      for column in columns
    ),
    grid.get("typical", True),
  )


@functools.cache
def _load() -> dict[str, Any]:
  return json.loads(_FILE.read_text("utf-8"))


# --- our rows and columns ----------------------------------------------------

_HEAD = "0.02 %"  # the row of Table 3 that tunes the classifier alone
_DATA = {"real": "real", "syn": "synthetic"}  # of the rows of Table 6
_BATCH_NORM = {"BN frozen": "frozen", "BN not frozen": "batch"}


class Ours(NamedTuple):
  """One of our arms on the test images."""

  arm: str
  by_seed: dict[Any, float]  # seed -> accuracy; the seed of zero-shot is None


Index = dict[tuple[str, str, Any], dict[Any, float]]


def find(
  key: str, results: Mapping, given: Mapping[str, str] | None = None
) -> dict[tuple[str, str], Ours]:
  """Finds our numbers for a table of the paper.

  Args:
    key: of the table.
    results: as of `results.gather`.
    given: our arms -> "row" or "row, column", besides those of the table.

  Returns:
    (row, column) -> our arm. Table 3 gets further rows: one for each share of
    the parameters that our arms tune.
  """
  index = _index(results)
  if key == "table3":
    return _ladder(results, index)
  if key == "table6":
    return _batch_norms(results, index)
  if key == "A16":
    return _quality(results)
  if key == "table4":
    return {
      (f"{shots:g} real per class", ""): Ours(init, by_seed)
      for (task, init, shots), by_seed in index.items()
      if (task, init) == ("transfer", "random") and shots is not None
    }
  ours = {}
  task, names = read(key).task, read(key).arms
  rows = {arm: row for row, arm in names.items()} | (given or {})
  for (other, arm, shots), by_seed in index.items():
    # An arm with the name of a row that is another arm's belongs to no row.
    if other == task and arm not in names:
      row, column = rows.get(arm, arm), "" if shots is None else f"{shots:g}"
      if not column and ", " in row:
        ours[tuple(row.rsplit(", ", 1))] = Ours(arm, by_seed)
      ours.setdefault((row, column), Ours(arm, by_seed))
  if task == "few_shot" and (task, ZERO_SHOT, None) in index:
    # It has seen no shots, and is the same beside any number of them.
    start = Ours(ZERO_SHOT, index[task, ZERO_SHOT, None])
    for shots in {shots or 0 for other, _, shots in index if other == task}:
      ours[ZERO_SHOT, f"{shots:g}"] = start
  if key == "figure1":  # its curve starts with generated images alone
    if by_seed := index.get(("tune", "LE+CF SCE", None)):
      ours["CT w. Syn", "0"] = Ours("LE+CF SCE", by_seed)
  return ours


def _index(results: Mapping) -> Index:
  """Returns (task, arm, shots) -> seed -> number on the test images."""
  index: Index = {}
  for task, name, metric in (
    ("tune", "arm", "accuracy"),
    ("few_shot", "method", "accuracy"),
    ("tune_encoder", "arm", "accuracy"),
    ("transfer", "init", "accuracy"),
    ("detect", "init", "AP50"),
  ):
    measured = results.get(task, {})
    start = measured.get("zero_shot", {}).get("test")
    if start is not None:
      index[task, ZERO_SHOT, None] = {None: start}
    for row in measured.get("rows", ()):
      share = row[metric]
      if isinstance(share, Mapping):  # by split
        share = share.get("test")
      if share is not None:
        key = task, row[name], row.get("shots")
        index.setdefault(key, {})[row["seed"]] = share
  # The tasks of one workdir start from the same classifier.
  starts = [index.get((task, ZERO_SHOT, None)) for task in CLASSIFYING]
  if start := next(filter(None, starts), None):
    for task in CLASSIFYING:
      index.setdefault((task, ZERO_SHOT, None), start)
  return index


def _tuned(results: Mapping) -> list[Mapping]:
  """Returns the arms of `tune_encoder` on the test images."""
  entries = results.get("encoder_accuracy", [])
  return next((e["arms"] for e in entries if e["split"] == "test"), [])


def _ladder(results: Mapping, index: Index) -> dict:
  """Matches Table 3 by the share tuned, as the paper names no layers."""
  ours = {}
  if start := index.get(("tune_encoder", ZERO_SHOT, None)):
    ours["0 %", ""] = Ours(ZERO_SHOT, start)
  for arm in _tuned(results):
    share = arm["share_tuned"]
    by_seed = index.get(("tune_encoder", arm["arm"], None))
    frozen = arm["batch_norm"] in (None, "frozen") and arm["data"] != "real"
    if share is not None and by_seed and frozen:
      row = _HEAD if arm["up_to"] == "head" else f"{100 * share:.4g} %"
      ours.setdefault((row, ""), Ours(arm["arm"], by_seed))
  return ours


def _batch_norms(results: Mapping, index: Index) -> dict:
  """Table 6: pairs of arms that differ in BatchNorm alone."""
  ours, tuned = {}, _tuned(results)
  for data, our_data in _DATA.items():
    rungs: dict = {}
    for arm in tuned:
      if arm["data"] == our_data:
        rungs.setdefault(arm["up_to"], {}).setdefault(arm["batch_norm"], arm)
    # The first `up_to` of the config that was tuned in both ways counts.
    both = [arms for arms in rungs.values() if len(arms) > 1]
    for arms in (both or [*rungs.values()])[:1]:
      for words, batch_norm in _BATCH_NORM.items():
        arm = arms.get(batch_norm, {}).get("arm")
        if by_seed := index.get(("tune_encoder", arm, None)):
          ours[f"{data}, {words}", ""] = Ours(arm, by_seed)
  return ours


_STRATEGIES = {"basic": "B", "enhanced": "LE"}  # of Table A.16, without shots


def _quality(results: Mapping) -> dict:
  """Table A.16: the card's figures, if all images are of one strategy."""
  card = results.get("card") or {}
  used = [*results.get("prompts", {}).get("by_strategy", ())]
  name = _STRATEGIES.get(used[0]) if len(used) == 1 else None
  quality, ours = card.get("quality", {}), {}
  inception = (
    encoder["sets"]
    for encoder in quality.get("encoders", ())
    if encoder["identity"]["encoder"] == "inception"
  )
  fids = next(inception, {})
  for part, row in (
    ("all", f"zero-shot, {name}"),
    ("kept", "zero-shot, LE+CF"),
  ):
    figures = quality.get("sets", {}).get(part, {}).get("figures", {})
    fid = fids.get(part, {}).get("figures", {}).get("frechet")
    if name and (part == "all" or name == "LE"):
      shares = {"accuracy": figures.get("top1"), "FID": fid and fid / 100}
      ours |= {
        (row, column): Ours(f"{part} images", {None: share})
        for column, share in shares.items()
        if share is not None
      }
  return ours


# --- the comparison ----------------------------------------------------------

_OTHER = "compare the differences, not the values"


def compare(
  key: str,
  results: Mapping,
  *,
  space: str | None,
  encoder: str | None,
  rows: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """Sets our numbers beside those of a table of the paper.

  Args:
    key: of the table, one of `keys`.
    results: as of `results.gather`.
    space: the label space of the config.
    encoder: RN50 or VIT_B16 where it is one of them, else None.
    rows: our arms -> rows of the table, where their names do not say it.

  Returns:
    Dict of key, title, metric, note, remark ("" where the values themselves
    can be compared), ours (our label space), paper (names of the paper's data
    sets shown), and cells: dicts of row, column, reference (another row, or
    None), paper and paper_difference (name -> share), approximate (names), arm
    (ours, or None), ours and difference (dicts of n, mean, std, stderr, low
    and high, or None). The difference is that to the reference; ours is paired
    by seed.
  """
  table, ours = read(key), find(key, results, rows)
  space = _space(results, space, table.task)
  data = data_sets().get(space)
  grids, remark = _choose(table.grids, data, encoder)
  names = _names(grids)
  cells = []
  for row, column in _places(grids, ours, key):
    reference = table.reference_of(row)
    start = reference, _column(grids, reference, column)
    arm, other = ours.get((row, column)), ours.get(start)
    printed = {n: g.values.get((row, column)) for n, g in names.items()}
    before = {n: g.values.get(start) for n, g in names.items()}
    cells.append(
      {
        "row": row,
        "column": column,
        "reference": reference,
        "paper": printed,
        "paper_difference": {
          name: None
          if None in (printed[name], before[name])
          else printed[name] - before[name]
          for name in names
        },
        "approximate": [
          name for name, g in names.items() if (row, column) in g.approximate
        ],
        "arm": arm.arm if arm else None,
        "ours": accuracy.summarize([*arm.by_seed.values()])._asdict()
        if arm
        else None,
        "difference": _difference(arm, other),
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
  """Returns the name of our data by results, as config.space may be a file."""
  if task == "detect":  # other data than those of config.space
    return str(results.get(task, {}).get("space") or "no data")
  spaces = (results.get(task, {}).get("space") for task in CLASSIFYING)
  return str(next(filter(None, spaces), None) or space or "no data")


def _choose(
  grids: Sequence[Grid], data: str | None, encoder: str | None
) -> tuple[list[Grid], str]:
  """Chooses the paper's grids of our data, else those that are typical."""
  same = [grid for grid in grids if grid.data == data]
  remark = "" if same else f"other data: {_OTHER}"
  chosen = same or [grid for grid in grids if grid.typical]
  if encoder:
    alike = [grid for grid in chosen if grid.encoder == encoder]
    clip = {grid.encoder for grid in chosen} & {RN50, VIT_B16}
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


def _places(grids: Sequence[Grid], ours: Mapping, key: str) -> list[tuple]:
  """Returns the rows and columns of the paper, and our own of Table 3."""
  places = list(dict.fromkeys(at for grid in grids for at in grid.values))
  if key == "table3":
    places = list(dict.fromkeys([*places, *ours]))
    places.sort(key=lambda at: float(at[0].split()[0]))
    return places
  rows = dict.fromkeys(row for row, _ in places)
  columns = dict.fromkeys(column for _, column in places)
  order = [*columns]
  if all(column.isdigit() for column in order):
    order.sort(key=int)
  return list(itertools.product(rows, order))


def _column(grids: Sequence[Grid], reference: str | None, column: str) -> str:
  """Returns the reference row's column if it has one alone, else `column`.

  For example, the row without pre-training has the column of 0 images alone.
  """
  columns = {c for g in grids for row, c in g.values if row == reference}
  return columns.pop() if len(columns) == 1 else column


def _difference(arm: Ours | None, other: Ours | None) -> dict[str, Any] | None:
  """Pairs two arms by seed; zero-shot has none, and is paired with each."""
  if arm is None or other is None:
    return None
  a, b = arm.by_seed, other.by_seed
  if [*b] == [None]:
    b = dict.fromkeys(a, b[None])
  elif [*a] == [None]:
    a = dict.fromkeys(b, a[None])
  seeds = [seed for seed in a if seed in b]
  if not seeds:
    return None
  return accuracy.paired_difference(
    [a[seed] for seed in seeds], [b[seed] for seed in seeds]
  )._asdict()
