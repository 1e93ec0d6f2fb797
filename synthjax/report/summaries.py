"""Puts what was measured in order: accuracies, confusions, transfer, APs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.evals import accuracy as classify
from synthjax.report.checked_files import number

PRECISIONS = ("AP50", "AP", "AP75")  # of detections
_GAINS = {"gain", "gain_stderr"}


def accuracy(results: Mapping) -> list[dict]:
  """Puts what `tune` measured in order: one entry for each split.

  Returns:
    Dicts of split, zero_shot (share or None) and arms: dicts of arm, mean, std,
    stderr, n, low and high (of the 95 % interval of the mean), gain,
    gain_stderr and the values of its seeds.
  """
  values: dict = {}
  for row in dicts(results.get("rows")):
    for split, x in by_split(row.get("accuracy")).items():
      values.setdefault((split, str(row.get("arm"))), []).append(x)
  summaries = {
    (str(row.get("split")), str(row.get("arm"))): row
    for row in dicts(results.get("summary"))
  }
  zero_shot = by_split(results.get("zero_shot"))
  splits = dict.fromkeys([*zero_shot, *(s for s, _ in [*summaries, *values])])
  entries = []
  for split in splits:
    start = number(zero_shot.get(split))
    arms = dict.fromkeys(a for s, a in [*summaries, *values] if s == split)
    entries.append(
      {
        "split": split,
        "zero_shot": start,
        "arms": [
          _arm(
            arm,
            summaries.get((split, arm), {}),
            values.get((split, arm), []),
            start,
          )
          for arm in arms
        ],
      }
    )
  return entries


def _arm(arm: str, said: Mapping, values: list, start: float | None) -> dict:
  """Returns the numbers of an arm: what was said, else what the seeds tell."""
  finite = [x for x in map(number, values) if x is not None]
  entry = dict.fromkeys(("mean", "std", "stderr", "n", "gain", "gain_stderr"))
  if finite:
    summary = classify.summarize(finite)
    entry |= {key: getattr(summary, key) for key in entry.keys() - _GAINS}
    if start is not None:
      # Zero-shot has no seed: the difference is as sure as the mean.
      entry |= {"gain": summary.mean - start, "gain_stderr": summary.stderr}
  entry |= {
    key: number(said[key]) for key in entry if number(said.get(key)) is not None
  }
  low = high = None
  if None not in (entry["mean"], entry["stderr"]) and (entry["n"] or 0) > 1:
    low, high = classify.interval(entry["mean"], entry["stderr"], entry["n"])
  return {"arm": arm, **entry, "low": low, "high": high, "values": finite}


def shots(results: Mapping) -> list[dict]:
  """Puts what `few_shot` measured in order: one entry for each split.

  Returns:
    Dicts of split, zero_shot, shots (sorted counts) and methods: dicts of
    method and points, which are the arms of `accuracy` with their shots.
  """
  named = _facts(results, ("method", "shots"))
  entries = []
  for entry in accuracy(results):
    points = [
      named[arm["arm"]] | arm
      for arm in entry["arms"]
      if number(named.get(arm["arm"], {}).get("shots")) is not None
    ]
    points.sort(key=lambda point: point["shots"])
    methods = dict.fromkeys(
      str(of["method"]) for of in named.values() if of["method"] is not None
    )
    entries.append(
      {
        "split": entry["split"],
        "zero_shot": entry["zero_shot"],
        "shots": sorted({point["shots"] for point in points}),
        "methods": [
          {
            "method": method,
            "points": [p for p in points if str(p["method"]) == method],
          }
          for method in methods
        ],
      }
    )
  return entries


def encoders(results: Mapping) -> list[dict]:
  """Puts what `tune_encoder` measured in order: as `accuracy` does.

  Its arms also have share_tuned (of the parameters, in 0..1), batch_norm, data
  and up_to, each None where it is not known.
  """
  facts = _facts(results, ("share_tuned", "batch_norm", "data", "up_to"))
  nothing = dict.fromkeys(("share_tuned", "batch_norm", "data", "up_to"))
  return [
    entry
    | {"arms": [arm | facts.get(arm["arm"], nothing) for arm in entry["arms"]]}
    for entry in accuracy(results)
  ]


def _facts(results: Mapping, fields: Sequence[str]) -> dict[str, dict]:
  """Returns arm -> what the first of its rows says of the fields."""
  facts: dict = {}
  for row in dicts(results.get("rows")):
    own = {field: row.get(field) for field in fields}
    facts.setdefault(str(row.get("arm")), own)
  return facts


def confusion(results: Mapping, labels: Sequence[int]) -> list[dict]:
  """Returns dicts of split, arm, counts [k, k] and per_class accuracies [k].

  The matrices may be nested either way round: arm then split, or split then
  arm. `labels` are the ids of the classes, in the order of the rows.
  """
  splits = list(by_split(results.get("zero_shot"))) or ["test"]
  entries = []
  for path, counts in _matrices(results.get("confusion"), ()):
    split = next((part for part in path if part in splits), splits[0])
    arm = " ".join(part for part in path if part != split) or "zero_shot"
    per_class = classify.per_class_accuracy(counts)
    entries.append(
      {
        "split": split,
        "arm": arm,
        "labels": list(
          labels if len(labels) == len(counts) else range(len(counts))
        ),
        "counts": counts,
        "per_class": per_class,
      }
    )
  return entries


def _matrices(
  value: Any, path: tuple[str, ...]
) -> Iterable[tuple[tuple[str, ...], np.ndarray]]:
  if isinstance(value, Mapping):
    for key, entry in value.items():
      yield from _matrices(entry, (*path, str(key)))
  elif isinstance(value, list) and value:
    rows = [row if isinstance(row, list) else [] for row in value]
    if all(len(row) == len(rows) for row in rows):
      finite = [[number(x) or 0 for x in row] for row in rows]
      yield path, np.asarray(finite)


def transfer(results: Mapping) -> dict:
  """Summarises accuracies over seeds, and pairs them.

  Returns:
    Dict of `summary` (dicts of init, shots, split, mean, std, stderr, n, low,
    high and the values) and `paired`: the difference to random weights and the
    pairs of `differences`, over the seeds that both have (dicts of init,
    reference, shots, split, mean, std, stderr, n, low and high).
  """
  groups: dict = {}
  for row in dicts(results.get("rows")):
    for split, x in by_split(row.get("accuracy")).items():
      key = (str(row.get("init")), row.get("shots"), split)
      if (x := number(x)) is not None:
        groups.setdefault(key, {})[row.get("seed")] = x
  summary = [
    dict(zip(("init", "shots", "split"), key, strict=True))
    | classify.summarize(list(of.values()))._asdict()
    | {"values": list(of.values())}
    for key, of in groups.items()
  ]
  inits = list(dict.fromkeys(init for init, _, _ in groups))
  reference = next(
    (i for i in inits if i.lower() in ("random", "scratch", "none")), None
  )
  pairs = [(init, reference) for init in inits if init != reference]
  for row in dicts(results.get("differences")):
    pairs.append((str(row.get("init")), str(row.get("reference"))))
  paired = []
  for first, other in dict.fromkeys(pairs):
    for (init, shots, split), of in groups.items():
      others = groups.get((other, shots, split), {})
      seeds = [seed for seed in of if seed in others]
      if init == first and seeds:
        difference = classify.paired_difference(
          [of[seed] for seed in seeds], [others[seed] for seed in seeds]
        )
        paired.append(
          {"init": init, "reference": other, "shots": shots, "split": split}
          | difference._asdict()
        )
  return {"summary": summary, "paired": paired}


def detection(results: Mapping) -> dict:
  """Summarises average precisions over seeds, in all and by class.

  Returns:
    Dict of `summary` (dicts of init, metric of PRECISIONS, mean, std, stderr,
    n, low, high and the values), `differences` as the task paired them, and
    `per_class`: dicts of class and of ap50, init -> mean over seeds or None.
  """
  rows, values, per_class = dicts(results.get("rows")), {}, {}
  names = [str(name) for name in results.get("classes") or ()]
  of_row = lambda row: row.get("per_class") or {}
  names = list(dict.fromkeys([*names, *(n for r in rows for n in of_row(r))]))
  for row in rows:
    init = str(row.get("init"))
    for metric in PRECISIONS:
      if (x := number(row.get(metric))) is not None:
        values.setdefault((init, metric), []).append(x)
    for name in names:
      of_class = per_class.setdefault(name, {}).setdefault(init, [])
      of_class += [x for x in [number(of_row(row).get(name))] if x is not None]
  return {
    "summary": [
      {"init": init, "metric": metric}
      | classify.summarize(of)._asdict()
      | {"values": of}
      for (init, metric), of in values.items()
    ],
    "differences": [
      dict(row)
      for row in dicts(results.get("differences"))
      if number(row.get("mean")) is not None
    ],
    "per_class": [
      {
        "class": name,
        "ap50": {i: sum(of) / len(of) if of else None for i, of in by.items()},
      }
      for name, by in per_class.items()
    ],
  }


def by_split(value: Any) -> dict[str, Any]:
  """Returns split -> accuracy, also for the number of a single split."""
  if isinstance(value, Mapping):
    return {str(key): x for key, x in value.items()}
  return {} if value is None else {"test": value}


def dicts(value: Any) -> list[Mapping]:
  rows = value if isinstance(value, list) else []
  return [row for row in rows if isinstance(row, Mapping)]
