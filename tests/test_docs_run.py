"""What a CPU can run of the documentation is run, smaller.

That are the commands of `:runlocal` and those of configs that are made for a
CPU. The fields of SMALL make them take seconds. A page whose Python reads what
its commands have left is run from the first line to the last.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
from doc_blocks import ROOT, all_commands, commands, notebook, pages, read
from doc_commands import parse

from synthjax import classify, generators, main, verify
from synthjax.diffusion import samplers

pytest_plugins = ("doc_workspace",)  # fixtures

# Pages that are run from the first line to the last.
SCRIPTS = (
  "README.md",
  "docs/quick_start.md",
  "docs/own_classes.md",
  "docs/photographs.md",
  "docs/python.md",
  "docs/extending.md",
  "docs/tpu.md",
)
# Configs that are for a CPU without `:runlocal`, too.
FOR_CPU = ("quickstart", "sanity_pretrain", "pretrain_tables")
# Commands that another test runs, by --config; it must name the config.
ELSEWHERE = {
  "configs/train_generator.py:runlocal": "test_train_tasks.py",
  "configs/train_clip.py:runlocal": "test_train_tasks.py",
}
# Commands whose like is run here: their fields are checked, as those of all.
LIKE_ANOTHER = {
  "configs/pretrain_tables.py:table=9": "configs/pretrain_tables.py:table=8",
  "configs/pretrain_tables.py:table=moco": "configs/pretrain_moco.py:runlocal",
  "configs/image_count.py:choice=entropy,runlocal": (
    "configs/image_count.py:runlocal"
  ),
}
# Workdirs of commands that need what a training of an hour leaves.
AFTER_HOURS = ("runs/mine",)
# Workdirs of commands that need released weights, to classify by.
AFTER_FETCHING = ("runs/birds",)

# Each value once, also where two indices mean the same.
only = lambda *indices: (
  lambda values: tuple(
    values[i] for i in sorted({i % len(values) for i in indices})
  )
)
DRAWN = {
  "generator.batch_size": 16,
  "generator.base.respacing": "2<960",
  "generator.upsampler.respacing": "2<250",
  "generate.images_per_class": 1,
  "generate.seeds": (0,),
  "prompts.per_class": 1,
}
TUNED = DRAWN | {"tune.seeds": (0,), "tune.num_epochs": 2}
at_once = lambda optimizer: {
  key: value for key, value in optimizer.items() if key != "warmup"
}
smallest = lambda arms: [dict(arms[0], images_per_class=1)]
TRAINED = DRAWN | {
  "pretrain.epochs": 1,
  "pretrain.optimizer": at_once,
  "pretrain.seeds": (0,),
}
TRANSFERRED = {
  "transfer.epochs": 1,
  "transfer.optimizer": at_once,
  "transfer.seeds": (0,),
  "transfer.shots": (1,),
}
FINETUNED = TRAINED | TRANSFERRED
# Those of own_labels.py and of the first command of the README do make cards.
without_card = lambda tasks: tuple(task for task in tasks if task != "card")
# Field -> value, or a function of the value that is there.
SMALL = {
  "quickstart": TUNED | {"tasks": without_card},
  "own_labels": TUNED,
  "zeroshot": TUNED,
  "ablation_zeroshot": TUNED,
  "image_count": TUNED
  | {
    "generate.images_per_class": 5,
    "prompts.per_class": 5,
    "tune.arms": only(0),
  },
  "tune_encoder": DRAWN
  | {
    "tune_encoder.seeds": (0,),
    "tune_encoder.epochs": 1,
    "tune_encoder.shots": 1,
    "tune_encoder.arms": only(-1),
  },
  "from_scratch_c100": FINETUNED,
  "fewshot": DRAWN
  | {
    "generate.real_guidance.shots": (1,),
    "generate.real_guidance.start_steps": (2,),
    "few_shot.shots": (1,),
    "few_shot.seeds": (0,),
    "few_shot.methods": only(0, 1, 3, -1),
    "few_shot.num_views": 1,
    "tune_generator.methods": only(0, 1),
    "tune_generator.shots": (1,),
    "tune_generator.seeds": (0,),
    "tune_generator.epochs": 1,
    "tune_generator.optimizer": at_once,
  },
  "practice": DRAWN
  | {
    "practice.images_per_class": 1,
    "practice.max_rounds": 1,
    "practice.num_epochs": 1,
    "practice.seeds": (0,),
  },
  "bakeoff": {
    **DRAWN,
    # By the generator of the config, which has been made small.
    "bakeoff.candidates": lambda values: tuple(
      {key: x[key] for key in ("name", "prompts")} for x in values[:2]
    ),
    "bakeoff.seeds": (0,),
    "bakeoff.num_epochs": 1,
  },
  "topup": {
    **{k: v for k, v in DRAWN.items() if k != "generate.images_per_class"},
    "top_up.seeds": (0,),
    "top_up.num_epochs": 1,
    "top_up.weights": (1.0,),
  },
  "pretrain_c100": FINETUNED,
  "pretrain_in1k": FINETUNED,
  "pretrain_in2k": FINETUNED,
  "pretrain_moco": FINETUNED,
  "pretrain_tables": FINETUNED
  | {
    "pretrain.arms": smallest,
    "transfer.compare": (),
    "transfer.optimizer.lr": only(0),
  },
  "sanity_pretrain": FINETUNED | {"transfer.optimizer.lr": only(0)},
  "transfer_cifar100": TRANSFERRED,
  "detect_voc": TRAINED
  | {
    "pretrain.arms": smallest,
    "detect.compare": (),
    "detect.seeds": (0,),
    "detect.num_steps": 2,
    "detect.optimizer.warmup": 1,
    "detect.precise_bn_iterations": 1,
    "detect.train.count": 8,
    "detect.validation.count": 4,
    "detect.test.count": 4,
    "detect.short_sides": (96,),
    "detect.eval_short_side": 96,
    "detect.num_buckets": 1,
    "detect.eval_num_buckets": 1,
  },
}


def config_of(command):
  """Returns what follows --config= of a command of synthjax.main, or None."""
  if command.words[:3] != ["python", "-m", "synthjax.main"]:
    return None
  (found,) = [w for w in command.words if w.startswith("--config=")]
  return found.removeprefix("--config=")


def is_run(command):
  """Tells whether a command is one that a CPU runs."""
  config = config_of(command)
  if config is None or config in (*ELSEWHERE, *LIKE_ANOTHER):
    return False
  if any(f"--workdir={each}" in command.words for each in AFTER_HOURS):
    return False
  file, _, arg = config.partition(":")
  return "runlocal" in arg.split(",") or pathlib.Path(file).stem in FOR_CPU


def run(command):
  """Runs a command of synthjax.main, smaller."""
  config, workdir, shared = parse(command.words[3:])
  shrink(config, SMALL[pathlib.Path(config_of(command).partition(":")[0]).stem])
  main.run_tasks(config, workdir, shared=shared)


def shrink(config, fields):
  with config.unlocked():
    for field, value in fields.items():
      *path, last = field.split(".")
      block = config
      for key in path:
        block = block.get(key) if block is not None else None
      if block is None:  # this config, or this task, has none
        continue
      if block.get("kind") == "folder":  # photographs, which no field counts
        continue
      assert last in block, field
      block[last] = value(block[last]) if callable(value) else value


def made_small(command):
  """Returns what a command would run, as text: some run the same."""
  name, config = (
    config_of(command),
    main.load_config(config_of(command)),
  )
  small = SMALL[pathlib.Path(name.partition(":")[0]).stem]
  shrink(config, small)
  config.report = {}
  own = [word for word in command.words if word.startswith("--config.")]
  own = [w for w in own if w[len("--config.") :].partition("=")[0] not in small]
  return json.dumps([config.to_dict(), own], default=str, sort_keys=True)


ONCE = {
  made_small(command): command
  for page in pages()
  if page not in SCRIPTS
  for command in all_commands(page)
  if is_run(command)
}


def test_what_is_run_elsewhere_is_run_there():
  for config, file in ELSEWHERE.items():
    assert config in (ROOT / "tests/tasks" / file).read_text()
  ran = [config_of(command) for command in ONCE.values()]
  assert set(LIKE_ANOTHER.values()) <= set(ran)


@pytest.mark.slow
@pytest.mark.parametrize("command", ONCE.values(), ids=config_of)
def test_a_command_runs_in_miniature(command, workspace):
  workspace()
  run(command)


@pytest.mark.slow
@pytest.mark.parametrize("page", SCRIPTS)
def test_a_page_runs_from_its_first_line(page, workspace, launcher):
  workspace(page)
  space = {}
  with kept(samplers.SAMPLERS), kept(generators.GENERATORS):
    for block in read(page)[0]:
      for command in commands(block):
        follow(command, launcher)
      if block.language == "python" and not block.file:
        exec(compile(block.text, block.where, "exec"), space)


def follow(command, launcher):
  """Runs a command of a page, if a CPU does."""
  program, script = command.words[:2]
  if program in ("cp", "rm"):
    subprocess.run(command.words, check=True)
  if program == "bash" and script in ("launch/quickstart.sh",):
    words = launcher(pathlib.Path(script).name, command.words[2:])
    words = ["python", "-m", "synthjax.main", *words]
    command = command._replace(words=words)
  if command.words[:3] == ["python", "-m", "synthjax.classify"]:
    if command.words[3] not in AFTER_FETCHING:
      classify.main(command.words[3:])
  if command.words[:3] == ["python", "-m", "synthjax.verify"]:
    assert not verify.check(command.words[3])
  if is_run(command):
    run(command)


@contextlib.contextmanager
def kept(choices):
  """Undoes what is added to a dict."""
  before = dict(choices)
  yield
  choices.clear()
  choices.update(before)


@pytest.mark.slow
def test_the_first_command_of_the_readme_runs(tmp_path):
  """By its script and in a process of its own; all else here is in this one."""
  assert (
    commands(read("README.md")[0][0])[0].text == "bash launch/quickstart.sh"
  )
  small = [f"--config.{field}={value}" for field, value in TUNED.items()]
  folder = pathlib.Path(sys.executable).parent
  environment = os.environ | {
    "SYNTHJAX_INSTALL": "0",
    "PATH": f"{folder}:{os.environ['PATH']}",
  }
  subprocess.run(
    ["bash", "launch/quickstart.sh", tmp_path, *small],
    cwd=ROOT,
    env=environment,
    check=True,
  )
  assert (tmp_path / "report" / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tmp_path, monkeypatch, capsys):
  """Without Jupyter, in order, with fewer steps."""
  monkeypatch.chdir(tmp_path)
  block = generators.WHOLE["embedded"]()
  block["base"] |= {"respacing": "2<960"}
  block["upsampler"] |= {"respacing": "2<250"}
  monkeypatch.setitem(generators.WHOLE, "embedded", lambda: block)
  space = {}
  for cell in notebook():
    exec(compile(cell.text, cell.where, "exec"), space)
  assert space["images"].shape == (240, 32, 32, 3)
  assert 0 < space["kept"].sum() <= 180
  assert "tuned: " in capsys.readouterr().out
