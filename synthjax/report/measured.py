"""Puts what was measured in order: accuracies, confusions, transfer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.evals import classify
from synthjax.report.reading import number

_GAINS = {"gain", "gain_stderr"}


def accuracy(results: Mapping) -> list[dict]:
  """Puts what `tune` measured in order: one entry for each split.

  Returns:
    Dicts of split, zero_shot (share or None) and arms: dicts of arm, mean, std,
    stderr, n, gain, gain_stderr and the values of its seeds.
  """
  values: dict = {}
  for row in _dicts(results.get("rows")):
    for split, x in _by_split(row.get("accuracy")).items():
      values.setdefault((split, str(row.get("arm"))), []).append(x)
  summaries = {
    (str(row.get("split")), str(row.get("arm"))): row
    for row in _dicts(results.get("summary"))
  }
  zero_shot = _by_split(results.get("zero_shot"))
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
  return {"arm": arm, **entry, "values": finite}


def confusion(results: Mapping, labels: Sequence[int]) -> list[dict]:
  """Returns dicts of split, arm, counts [k, k] and per_class accuracies [k].

  The matrices may be nested either way round: arm then split, or split then
  arm. `labels` are the ids of the classes, in the order of the rows.
  """
  splits = list(_by_split(results.get("zero_shot"))) or ["test"]
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
  """Summarises accuracies over seeds, and pairs them with random weights.

  Returns:
    Dict of `summary` (dicts of init, shots, split, mean, std, stderr, n, low,
    high and the values) and `paired`: the difference to random weights, over
    the seeds that both have (dicts of init, reference, shots, split, mean, std,
    stderr, n, low and high).
  """
  groups: dict = {}
  for row in _dicts(results.get("rows")):
    for split, x in _by_split(row.get("accuracy")).items():
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
  paired = []
  for (init, shots, split), of in groups.items():
    other = groups.get((reference, shots, split), {})
    seeds = [seed for seed in of if seed in other]
    if init != reference and seeds:
      difference = classify.paired_difference(
        [of[seed] for seed in seeds], [other[seed] for seed in seeds]
      )
      paired.append(
        {"init": init, "reference": reference, "shots": shots, "split": split}
        | difference._asdict()
      )
  return {"summary": summary, "paired": paired}


def _by_split(value: Any) -> dict[str, Any]:
  """Returns split -> accuracy, also for the number of a single split."""
  if isinstance(value, Mapping):
    return {str(key): x for key, x in value.items()}
  return {} if value is None else {"test": value}


def _dicts(value: Any) -> list[Mapping]:
  rows = value if isinstance(value, list) else []
  return [row for row in rows if isinstance(row, Mapping)]
