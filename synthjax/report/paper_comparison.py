"""Sets our numbers beside the paper's, as plain data."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.evals import accuracy
from synthjax.report import paper
from synthjax.report.paper import ZERO_SHOT, Grid
from synthjax.report.results import CLASSIFYING

# --- which of our numbers stand beside which of the paper's ------------------

# table -> its task, and the rows whose arm, method or first weights are called
# otherwise than the row. Columns of few-shot tables are shots; in others an arm
# that is meant for one of several columns is called "row, column".
NAMES: dict[str, tuple[str, dict[str, str]]] = {
  "table1": ("tune", {}),
  "table2": ("tune", {}),
  "table5": ("few_shot", {"B": "B (LE+CF)", "RG": "CT w. Syn (RG)"}),
  "table7": (
    "few_shot",
    {
      "syn>real": "RG, syn>real",
      "real>syn": "RG, real>syn",
      "mix": "CT w. Syn (RG)",
    },
  ),
  "table8": ("transfer", {"random, 0": "random"}),
  "table9": ("transfer", {"random, 0": "random"}),
  "table10": ("detect", {"random, 0": "random"}),
  # Its first weights are named by what taught them, so that a run may hold both
  # tables: "IN-1K Syn, 1.2M" is of Table 10, "MoCo IN-1K Syn, 1.2M" of this.
  "table11": (
    "detect",
    {
      row: "random" if row == "random, 0" else f"MoCo {row}"
      for row in (
        *("random, 0", "IN-1K Syn, 1.2M", "IN-1K Syn, 2.4M"),
        *("IN-2K Syn, 2.4M", "IN-2K Syn, 4.0M"),
        *("IN-1K real, 0", "IN-1K real + IN-1K Syn, 2.4M"),
      )
    },
  ),
  "A12": ("tune_encoder", {}),
  "A13": ("tune", {"0 per class": ZERO_SHOT}),
  "A14": ("few_shot", {"0 per class": "CT w. init"}),
  "figure1": ("few_shot", {"CT w. Syn": "CT w. Syn (RG)"}),
  "tip_adapter": ("few_shot", {}),
}
# table -> the row that others are compared with; or, of each row, its own.
REFERENCES: dict[str, str | dict[str, str]] = {
  "table1": ZERO_SHOT,
  "table2": ZERO_SHOT,
  "table3": "0.02 %",
  "table5": "B",
  "table6": {
    "real, BN frozen": "real, BN not frozen",
    "syn, BN frozen": "syn, BN not frozen",
  },
  "table7": "mix",
  "table8": "random",
  "table9": "random",
  "table10": "random",
  "table11": "random",
  "A13": "0 per class",
  "A14": "0 per class",
  "figure1": "CT w. init",
  "tip_adapter": ZERO_SHOT,
}
_HEAD = "0.02 %"  # the row of Table 3 that tunes the classifier alone
_DATA = {"real": "real", "syn": "synthetic"}  # of the rows of Table 6
_BATCH_NORM = {"BN frozen": "frozen", "BN not frozen": "batch"}


class Ours(NamedTuple):
  """One of our arms on the test images."""

  arm: str
  by_seed: dict[Any, float]  # seed -> accuracy; the seed of zero-shot is None


Index = dict[tuple[str, str, Any], dict[Any, float]]


def find(key: str, results: Mapping) -> dict[tuple[str, str], Ours]:
  """Finds our numbers for a table of the paper.

  Args:
    key: of the table.
    results: as of `results.gather`.

  Returns:
    (row, column) -> our arm; for Table 3 with further rows, named by the share
    that our arms tune.
  """
  index = _index(results)
  if key == "table3":
    return _ladder(results, index)
  if key == "table6":
    return _batch_norms(results, index)
  if key == "table4":
    return {
      (f"{shots:g} real per class", ""): Ours(init, by_seed)
      for (task, init, shots), by_seed in index.items()
      if (task, init) == ("transfer", "random") and shots is not None
    }
  ours = {}
  task, names = NAMES.get(key, ("", {}))
  rows = {arm: row for row, arm in names.items()}
  for (other, arm, shots), by_seed in index.items():
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
  """Table 3: the shares of our arms, as the paper does not name its layers."""
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
    # Of several rungs, one that has both; the first of the config counts.
    both = [arms for arms in rungs.values() if len(arms) > 1]
    for arms in (both or [*rungs.values()])[:1]:
      for words, batch_norm in _BATCH_NORM.items():
        arm = arms.get(batch_norm, {}).get("arm")
        if by_seed := index.get(("tune_encoder", arm, None)):
          ours[f"{data}, {words}", ""] = Ours(arm, by_seed)
  return ours


# --- ------
_OTHER = "compare the differences, not the values"


def compare(
  key: str, results: Mapping, *, space: str | None, encoder: str | None
) -> dict[str, Any]:
  """Sets our numbers beside those of a table of the paper.

  Args:
    key: of the table, one of `paper.keys`.
    results: as of `results.gather`.
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
  task, _ = NAMES.get(key, ("", {}))
  space = _space(results, space, task)
  data = paper.DETECTION_SETS if task == "detect" else paper.DATA_SETS
  grids, remark = _choose(table.grids, data.get(space), encoder)
  found = find(key, results)
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
  said = (results.get(task, {}).get("space") for task in CLASSIFYING)
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
  of_table = REFERENCES.get(key)
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
  return accuracy.summarize(values)._asdict()


def _difference(own: Ours | None, other: Ours | None) -> dict[str, Any] | None:
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
  return accuracy.paired_difference(
    [a[seed] for seed in seeds], [b[seed] for seed in seeds]
  )._asdict()
