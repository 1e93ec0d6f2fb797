"""The accuracies of finetuning runs, by their starts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from synthjax.evals import accuracy
from synthjax.runtime.artifacts import file_stem


class Run(NamedTuple):
  """One finetuning."""

  init: str
  shots: int | None
  lr: float
  seed: int

  def label(self) -> str:
    """Returns the label of the run, which its files start with."""
    shots = "all" if self.shots is None else self.shots
    return f"{file_stem(self.init)}-{shots}shots-lr{self.lr:g}-s{self.seed}"


def choose(
  runs_of: dict[tuple, list[Run]], validation: dict[Run, float]
) -> list[Run]:
  """Returns, for each initialisation and shots, the runs of the best rate.

  Args:
    runs_of: (initialisation, shots, learning rate) -> runs of all seeds.
    validation: accuracies; needed where there are several rates. The best rate
      has the highest mean over the seeds; the first of equal ones counts.
  """
  best = {}
  for (init, shots, _), same in runs_of.items():
    score = np.mean([validation.get(run, 0.0) for run in same])
    if (init, shots) not in best or score > best[init, shots][0]:
      best[init, shots] = score, same
  return [run for _, same in best.values() for run in same]


def summarize(
  tested: dict[Run, float],
  validation: dict[Run, float],
  *,
  compare: Sequence[Sequence[str]] = (),
) -> dict[str, list[dict]]:
  """Returns the rows, their summary, and the paired differences.

  Args:
    tested: test accuracies of the chosen runs.
    validation: validation accuracies of all runs, or none.
    compare: pairs of initialisations to compare, besides all with "random".
  """

  groups = {}
  for run, top1 in tested.items():
    groups.setdefault((run.init, run.shots), {})[run.seed] = top1
  rates = {(run.init, run.shots): run.lr for run in tested}
  inits = dict.fromkeys(init for init, _ in groups)
  pairs = [(init, "random") for init in inits if init != "random"]
  differences = [
    {"init": init, "reference": reference, "shots": shots}
    | accuracy.paired_difference(
      list(groups[init, shots].values()),
      list(groups[reference, shots].values()),
    )._asdict()
    for init, reference in (*pairs, *map(tuple, compare))
    for shots in dict.fromkeys(shots for _, shots in groups)
    if (init, shots) in groups and (reference, shots) in groups
  ]
  return {
    "rows": [
      run._asdict()
      | {"accuracy": top1}
      | ({"validation": validation[run]} if run in validation else {})
      for run, top1 in tested.items()
    ],
    "summary": [
      {"init": init, "shots": shots, "lr": rates[init, shots]}
      | accuracy.summarize(list(by_seed.values()))._asdict()
      for (init, shots), by_seed in groups.items()
    ],
    "differences": differences,
    "search": [
      run._asdict() | {"validation": top1} for run, top1 in validation.items()
    ],
  }


def table(results: dict) -> str:
  """Returns the summary and the differences as lines for a person."""
  percent = lambda x: "  -  " if x is None else f"{100 * x:5.1f}"
  shots_of = lambda row: "all" if row["shots"] is None else row["shots"]
  width = max([12, *(len(row["init"]) + 1 for row in results["summary"])])
  lines = [
    f"  {row['init']:<{width}}{shots_of(row):>5} shots: "
    f"{percent(row['mean'])} % (std {percent(row['std'])}, "
    f"{row['n']} seeds, lr {row['lr']:g})"
    for row in results["summary"]
  ]
  lines += [
    f"  {row['init']} - {row['reference']}, {shots_of(row)} shots: "
    f"{100 * row['mean']:+5.1f} points "
    f"(std. error of the paired difference {percent(row['stderr'])})"
    for row in results["differences"]
  ]
  return "\n".join(lines)
