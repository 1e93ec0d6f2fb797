"""Which of our numbers stand beside which of the paper's."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from synthjax.report.measured import by_split, dicts
from synthjax.report.paper import ZERO_SHOT
from synthjax.report.reading import number

CLASSIFIERS = ("tune", "few_shot", "tune_encoder")  # tasks that say their space

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


class Found(NamedTuple):
  """One of our arms on the test images."""

  arm: str
  by_seed: dict[Any, float]  # seed -> accuracy; the seed of zero-shot is None


Index = dict[tuple[str, str, Any], dict[Any, float]]


def find(key: str, results: Mapping) -> dict[tuple[str, str], Found]:
  """Finds our numbers for a table of the paper.

  Args:
    key: of the table.
    results: as of `gather.gather`.

  Returns:
    (row, column) -> what we found; for Table 3 with rows of our own, named by
    the share that they tune.
  """
  index = _index(results)
  if key == "table3":
    return _ladder(results, index)
  if key == "table6":
    return _batch_norms(results, index)
  found = {}
  if key == "table4":
    for (task, init, shots), by_seed in index.items():
      if (task, init) == ("transfer", "random") and shots is not None:
        found[f"{shots:g} real per class", ""] = Found(init, by_seed)
    return found
  task, names = NAMES.get(key, ("", {}))
  rows = {arm: row for row, arm in names.items()}
  for (of, arm, shots), by_seed in index.items():
    if of == task and by_seed and arm not in names:
      row, column = rows.get(arm, arm), "" if shots is None else f"{shots:g}"
      if not column and ", " in row:
        found[tuple(row.rsplit(", ", 1))] = Found(arm, by_seed)
      found.setdefault((row, column), Found(arm, by_seed))
  if task == "few_shot" and (task, ZERO_SHOT, None) in index:
    # It has seen no shots, and is the same beside any number of them.
    start = Found(ZERO_SHOT, index[task, ZERO_SHOT, None])
    for shots in {shots or 0 for of, _, shots in index if of == task}:
      found[ZERO_SHOT, f"{shots:g}"] = start
  if key == "figure1":  # its curve starts with generated images alone
    if by_seed := index.get(("tune", "LE+CF SCE", None)):
      found["CT w. Syn", "0"] = Found("LE+CF SCE", by_seed)
  return found


def _index(results: Mapping) -> Index:
  """Returns (task, arm, shots) -> seed -> number on the test images."""
  index: Index = {}
  for task, name, value in (
    ("tune", "arm", "accuracy"),
    ("few_shot", "method", "accuracy"),
    ("tune_encoder", "arm", "accuracy"),
    ("transfer", "init", "accuracy"),
    ("detect", "init", "AP50"),
  ):
    found = results.get(task) or {}
    start = number(by_split(found.get("zero_shot")).get("test"))
    if start is not None:
      index[task, ZERO_SHOT, None] = {None: start}
    for row in dicts(found.get("rows")):
      share = number(by_split(row.get(value)).get("test"))
      shots = number(row.get("shots"))
      if share is not None:
        key = task, str(row.get(name)), shots
        index.setdefault(key, {})[row.get("seed")] = share
  # The tasks of one workdir start from the same classifier.
  starts = [
    index[task, ZERO_SHOT, None]
    for task in CLASSIFIERS
    if (task, ZERO_SHOT, None) in index
  ]
  for task in CLASSIFIERS if starts else ():
    index.setdefault((task, ZERO_SHOT, None), starts[0])
  return index


def _tuned(results: Mapping) -> list[Mapping]:
  """Returns the arms of `tune_encoder` on the test images."""
  for entry in results.get("encoder_accuracy", []):
    if entry["split"] == "test":
      return entry["arms"]
  return []


def _ladder(results: Mapping, index: Index) -> dict:
  """Table 3: our own rungs, as the paper does not say which its are."""
  found = {}
  if start := index.get(("tune_encoder", ZERO_SHOT, None)):
    found["0 %", ""] = Found(ZERO_SHOT, start)
  for arm in _tuned(results):
    share = number(arm["share_tuned"])
    by_seed = index.get(("tune_encoder", arm["arm"], None))
    frozen = arm["batch_norm"] in (None, "frozen") and arm["data"] != "real"
    if share is not None and by_seed and frozen:
      row = _HEAD if arm["up_to"] == "head" else f"{100 * share:.4g} %"
      found.setdefault((row, ""), Found(arm["arm"], by_seed))
  return found


def _batch_norms(results: Mapping, index: Index) -> dict:
  """Table 6: pairs of arms that differ in BatchNorm alone."""
  found, tuned = {}, _tuned(results)
  for data, own_data in _DATA.items():
    rungs: dict = {}
    for arm in tuned:
      if arm["data"] == own_data:
        rungs.setdefault(arm["up_to"], {}).setdefault(arm["batch_norm"], arm)
    # Of several rungs, one that has both; the first of the config counts.
    both = [arms for arms in rungs.values() if len(arms) > 1]
    for arms in (both or [*rungs.values()])[:1]:
      for words, batch_norm in _BATCH_NORM.items():
        arm = arms.get(batch_norm, {}).get("arm")
        if by_seed := index.get(("tune_encoder", arm, None)):
          found[f"{data}, {words}", ""] = Found(arm, by_seed)
  return found
