r"""Measures the tables of docs/results.md again, and prints them.

  python -m tools.embedded_world.tables runs/tables             all, for hours
  python -m tools.embedded_world.tables runs/tables table2 table8

Each experiment is a config in the embedded world, over five seeds or those of
the config, in a folder of its own. What is finished is skipped, so that the
command can be stopped and given again. `--print` runs nothing, and prints what
is there. `--module tools.onednn.run` uses an Intel CPU's AMX, in bfloat16 and
in a fraction of the time.

Figures are means in %, with the 95 % interval of the mean over the seeds
(Student's t); differences are paired by seed.
"""

import argparse
import pathlib
import subprocess
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.evals import accuracy
from synthjax.report.results import read_run

SEEDS = "(0,1,2,3,4)"


class Experiment(NamedTuple):
  """A config with its argument, the blocks that get five seeds, and pairs.

  `compared` are pairs of arms, whose difference is shown; `fields` are further
  values of the config, as text.
  """

  config: str
  seeds: tuple[str, ...] = ()
  compared: tuple[tuple[str, str], ...] = ()
  fields: Mapping[str, str] = types.MappingProxyType({})


RUNGS = ("attnpool", "layer4", "layer3", "layer2", "layer1", "stem")
EXPERIMENTS = {
  "quickstart": Experiment("quickstart.py"),
  "table2": Experiment(
    "ablation_zeroshot.py:runlocal",  # has five seeds
    compared=(
      ("LE SCE", "B SCE"),
      ("LE+CF SCE", "LE SCE"),
      ("LE+CF SCE", "LE+CF CE"),
      ("LE SCE", "LE CE"),
    ),
  ),
  "fewshot": Experiment("fewshot.py:runlocal", ("few_shot", "generate")),
  "prolip": Experiment(
    "fewshot.py:only=prolip,runlocal",
    ("few_shot", "generate"),
    fields={
      "few_shot.shots": "(4,16)",
      "generate.real_guidance.shots": "(4,16)",
      "generate.real_guidance.start_steps": "(5,3)",
      "generate.images_per_class": "20",
    },
  ),
  "datadream": Experiment(
    "fewshot.py:only=lora,runlocal",
    ("few_shot", "generate", "tune_generator"),
  ),
  "bob": Experiment(
    "fewshot.py:only=bob,runlocal",
    ("few_shot", "generate", "tune_generator"),
  ),
  "table3": Experiment(
    "tune_encoder.py:table=3,runlocal",
    ("tune_encoder", "generate"),
    tuple((f"up to {rung}", "up to head") for rung in RUNGS),
  ),
  "table6": Experiment(
    "tune_encoder.py:table=6,runlocal",
    ("tune_encoder", "generate"),
    (
      ("real, BN frozen", "real, BN not frozen"),
      ("synthetic, BN frozen", "synthetic, BN not frozen"),
    ),
  ),
  "clip_lora": Experiment(
    "tune_encoder.py:table=lora,runlocal",
    ("tune_encoder", "generate"),
    (("CLIP-LoRA, real and generated", "CLIP-LoRA, real"),),
  ),
  "count": Experiment("image_count.py:runlocal", ("tune", "generate")),
  "choice": Experiment(
    "image_count.py:choice=entropy,runlocal",
    ("tune", "generate"),
    tuple(
      (f"{n} per class, entropy", f"{n} per class") for n in (5, 10, 20, 40)
    ),
  ),
  "practice": Experiment("practice.py:runlocal", ("practice",)),
  "bakeoff": Experiment("bakeoff.py:runlocal"),
  "table4": Experiment(
    "from_scratch_c100.py:runlocal", ("pretrain", "transfer")
  ),
  "table8": Experiment("pretrain_tables.py:table=8", ("pretrain", "transfer")),
  "table9": Experiment("pretrain_tables.py:table=9", ("pretrain", "transfer")),
  "moco": Experiment("pretrain_tables.py:table=moco", ("pretrain", "transfer")),
  "stablerep": Experiment(
    "pretrain_tables.py:table=stablerep", ("pretrain", "transfer")
  ),
  "vit": Experiment(
    "pretrain_tables.py:table=9,backbone=vit,images=1200",
    ("pretrain", "transfer"),
  ),
  "detection": Experiment("detect_voc.py:runlocal", ("detect", "pretrain")),
  "sanity": Experiment("sanity_pretrain.py", ("pretrain", "transfer")),
}


def command(
  experiment: Experiment, workdir: pathlib.Path, module: str = "synthjax.main"
) -> list[str]:
  """Returns the command that runs an experiment by a module's main."""
  return [
    *(sys.executable, "-m", module),
    f"--config=configs/{experiment.config}",
    f"--workdir={workdir}",
    *(f"--config.{block}.seeds={SEEDS}" for block in experiment.seeds),
    *(f"--config.{key}={value}" for key, value in experiment.fields.items()),
  ]


def tables(
  results: Mapping[str, Any], compared: Sequence[tuple[str, str]] = ()
) -> str:
  """Lays out the results of a run in Markdown.

  Args:
    results: of `report.results.read_run`.
    compared: pairs of arms.
  """
  parts = []
  for task in ("tune", "tune_encoder", "practice", "bakeoff"):
    if task in results:
      parts.append(_arms(results[task], compared))
  if "few_shot" in results:
    parts.append(_shots(results["few_shot"]))
  for task, key in (("transfer", "shots"), ("detect", "metric")):
    if task in results:
      parts.append(_starts(results[task], key))
  return "\n".join(parts)


def _arms(results: Mapping[str, Any], compared) -> str:
  start = results.get("zero_shot", {})
  splits = list(results["rows"][0]["accuracy"])
  lines = [["arm", *splits]]
  if start:
    lines.append(["zero-shot", *(f"{100 * start[s]:.2f}" for s in splits)])
  by_arm = _by_arm(results["rows"])
  for arm, rows in by_arm.items():
    lines.append(
      [arm, *(_mean([r["accuracy"][s] for r in rows]) for s in splits)]
    )
  for arm, other in compared:
    pair = (by_arm[arm], by_arm[other])
    lines.append(
      [
        f"{arm} - {other}",
        *(
          _difference(*([r["accuracy"][s] for r in x] for x in pair))
          for s in splits
        ),
      ]
    )
  return _markdown(lines)


def _shots(results: Mapping[str, Any]) -> str:
  shots = results["shots"]
  by_arm = _by_arm(results["rows"])
  values = {
    method: [
      [r["accuracy"]["test"] for r in by_arm[f"{method} ({n} shots)"]]
      for n in shots
    ]
    for method in results["methods"]
  }
  first = next(iter(values))
  lines = [["shots", *map(str, shots), f"to {first}, mean over shots"]]
  lines.append(["zero-shot", f"{100 * results['zero_shot']['test']:.2f}"])
  lines[-1] += [""] * len(shots)
  for method, columns in values.items():
    over_shots = [
      [sum(seed) / len(shots) for seed in zip(*x, strict=True)]
      for x in (columns, values[first])
    ]
    gap = "" if method == first else _difference(*over_shots)
    lines.append([method, *map(_mean, columns), gap])
  return _markdown(lines)


def _starts(results: Mapping[str, Any], key: str) -> str:
  gaps = {
    (row["init"], row["reference"], row[key]): row
    for row in results["differences"]
  }
  lines = [["first weights", key, "%", "to random weights"]]
  for row in results["summary"]:
    gap = gaps.pop((row["init"], "random", row[key]), None)
    lines.append(
      [
        row["init"],
        str(row[key]),
        _interval(row),
        _interval(gap, sign="+") if gap else "",
      ]
    )
  for (init, reference, which), gap in gaps.items():
    lines.append([f"{init} - {reference}", str(which), _interval(gap, "+"), ""])
  return _markdown(lines)


def _by_arm(rows: Iterable[Mapping[str, Any]]) -> dict[str, list]:
  """Groups rows by arm, each in the order of the seeds."""
  groups: dict[str, list] = {}
  for row in sorted(rows, key=lambda row: row["seed"]):
    groups.setdefault(row["arm"], []).append(row)
  return groups


def _mean(values: Sequence[float]) -> str:
  return _interval(accuracy.summarize(values)._asdict())


def _difference(values: Sequence[float], others: Sequence[float]) -> str:
  return _interval(accuracy.paired_difference(values, others)._asdict(), "+")


def _interval(row: Mapping[str, Any], sign: str = "") -> str:
  mean = f"{100 * row['mean']:{sign}.1f}"
  if row["low"] is None:
    return mean
  return f"{mean} ± {100 * (row['mean'] - row['low']):.1f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
  head, *rows = (f"| {' | '.join(line)} |" for line in lines)
  return "\n".join([head, "|" + " --- |" * len(lines[0]), *rows, ""])


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("folder", type=pathlib.Path, help="of the runs")
  parser.add_argument(
    "names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)}"
  )
  parser.add_argument(
    "--module", default="synthjax.main", help="that runs them"
  )
  parser.add_argument("--print", action="store_true", help="run nothing")
  args = parser.parse_args()
  if unknown := [name for name in args.names if name not in EXPERIMENTS]:
    parser.error(
      f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}"
    )
  for name in args.names or EXPERIMENTS:
    workdir = args.folder / name
    if args.print:
      if not (workdir / "report").exists():
        continue
    else:
      of_name = command(EXPERIMENTS[name], workdir, args.module)
      subprocess.run(of_name, check=True)
    print(f"### {name}\n")
    print(tables(read_run(workdir), EXPERIMENTS[name].compared), flush=True)


if __name__ == "__main__":
  main()
