"""A value that a field cannot have stops a run before its first task."""

import contextlib
import copy
import functools
import importlib
import inspect
import pathlib
import re

import pytest
import tiny_flux2
import tiny_sd
from ml_collections import ConfigDict

from synthjax import generators, main
from synthjax.config import schema
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, gathered
from synthjax.training import pretraining

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# A config with a block of each task.
TASKS = {
  "train_generator": "train_generator.py",
  "train_clip": "train_clip.py",
  "prompts": "quickstart.py",
  "tune_generator": "fewshot.py:only=lora,",
  "generate": "fewshot.py",
  "score": "quickstart.py",
  "select": "quickstart.py",
  "card": "quickstart.py",
  "tune": "quickstart.py",
  "few_shot": "fewshot.py",
  "tune_encoder": "tune_encoder.py",
  "top_up": "topup.py",
  "practice": "practice.py",
  "bakeoff": "bakeoff.py",
  "pretrain": "sanity_pretrain.py",
  "transfer": "sanity_pretrain.py",
  "detect": "detect_voc.py",
  "export": "quickstart.py",
  "report": "quickstart.py",
}
VALUES = (-1, 0, 1.5, "x", float("nan"), 1e999, True, (), (1, 1), {"a": 1})
# Blocks that the schema hands on: the sources of images, which open them, check
# what is inside; and the run that a bake-off writes, whose tasks check it.
HANDED_ON = {
  "big_run",
  "validation",
  "test",
  "test_parts",
  "pool",
  "train",
  "real",
  "data",
  "filter_encoder",
  "model",
}
# Fields that some objectives alone have, in a config of one that has them.
OF_OBJECTIVES = {
  re.compile(r"pretrain\.(moco|knn)\b"): "pretrain_moco.py:",
  re.compile(r"pretrain\.multi_positive\b"): (
    "pretrain_moco.py:objective=multi_positive,"
  ),
}


def test_each_task_is_looked_at():
  assert TASKS.keys() == main.TASKS.keys()


@functools.cache
def load(name):
  file, _, arg = name.partition(":")
  return main.load_config(f"{CONFIGS / file}:{arg}runlocal").to_dict()


def paths_of(fields, block, path=""):
  """Yields the dotted path of every field of a block and of blocks inside."""
  for name in schema.fields_of(fields, ConfigDict(block), path):
    inner = f"{path}.{name}".strip(".")
    yield inner
    if name not in HANDED_ON:
      yield from paths_of(fields, block, inner)


def cases():
  """Yields a task and the dotted path of a field in its block."""
  for task, config in TASKS.items():
    fields = importlib.import_module(main.TASKS[task]).FIELDS
    for path in paths_of(fields, load(config).get(task) or {}):
      yield pytest.param(task, path, id=f"{task}.{path}")


@pytest.mark.parametrize(("task", "path"), [*cases()])
def test_a_run_refuses_what_a_field_cannot_be(task, path, tmp_path):
  """All values that the schema refuses are refused by the task's check."""
  module = importlib.import_module(main.TASKS[task])
  names = [n for p, n in OF_OBJECTIVES.items() if p.match(f"{task}.{path}")]
  name = names[0] if names else TASKS[task]
  *outer, field = path.split(".")
  refused = 0
  for value in VALUES:
    config = copy.deepcopy(load(name))
    block = config.setdefault(task, {})
    for key in outer:
      if isinstance(block.get(key), tuple):  # of blocks, such as arms
        block = block[key][0]
        continue
      if not isinstance(block.get(key), dict):
        block[key] = {}
      block = block[key]
    block[field] = value
    fields = pretraining.BLOCK if names else module.FIELDS
    lines = schema.problems(fields, config[task], f"config.{task}")
    if any(re.search(rf"\b{field}\b", line.split(": ")[0]) for line in lines):
      refused += 1
      with pytest.raises(UserError, match=rf"\b{field}\b"):
        module.check(ConfigDict(config), str(tmp_path))
  assert refused, "the field takes any value: give it a type and a rule"


@pytest.mark.parametrize(
  ("name", "task"),
  [("tune_encoder.py", "tune_encoder"), ("sanity_pretrain.py", "pretrain")],
)
def test_images_of_a_strategy_that_is_not_drawn_are_refused(
  name, task, tmp_path
):
  config = copy.deepcopy(load(name))
  config[task]["strategy"] = "enhansed"
  module = importlib.import_module(main.TASKS[task])
  with pytest.raises(UserError, match="of this run 'enhansed'; did you mean"):
    module.check(ConfigDict(config), str(tmp_path))


def test_what_a_worker_of_ray_prepares_is_the_parts_of_a_run():
  """A worker calls `prepare` of every task that has one."""
  modules = [importlib.import_module(name) for name in main.TASKS.values()]
  found = [m.prepare for m in modules if hasattr(m, "prepare")]
  names = [[*inspect.signature(each).parameters] for each in found]
  assert len(found) > 2 and all(x == ["config", "workdir"] for x in names)


# task -> the fields of what has to split over the devices.
SPLIT = {
  "train_generator": ("base.batch_size", "fsdp"),
  "train_clip": ("batch_size", "fsdp"),
  "tune_generator": (),  # adapters, with others that fill up
  "tune_encoder": ("batch_size", "fsdp"),
  "pretrain": ("batch_size", "fsdp"),
  "transfer": ("batch_size", "fsdp"),
  "detect": ("batch_size", "eval_batch_size", "fsdp"),
}


def test_what_splits_over_devices_is_checked_in_each_training():
  has_batches = {
    task
    for task in TASKS
    if getattr(importlib.import_module(main.TASKS[task]), "PROCESSES", "")
    == "all"
  }
  assert has_batches == SPLIT.keys()


@pytest.mark.parametrize(
  ("task", "field"),
  [
    pytest.param(task, field, marks=[pytest.mark.slow] * (task == "detect"))
    for task, fields in SPLIT.items()
    for field in fields
  ],
)
def test_a_run_refuses_what_does_not_split_over_its_devices(
  task, field, tmp_path, monkeypatch
):
  """Seven devices, as it hears before the hours of the tasks before it."""

  def stop(*args, **options):  # before what takes seconds, as a trace
    raise UserError("what follows is checked elsewhere")

  config = copy.deepcopy(load(TASKS[task]))
  block, *inner = field.split(".")
  owner = config[task][block] if inner else config[task]
  module = importlib.import_module(main.TASKS[task])
  monkeypatch.setattr(module, "make_training", stop, raising=False)
  for size, refused in ((6, True), (7, False)):
    owner[inner[0] if inner else block] = size
    with (
      meshes.checked_later(True) as checks,
      contextlib.suppress(UserError),
      gathered(),
    ):
      module.check(ConfigDict(config), str(tmp_path))
      stop()
    said = []
    for check in checks:
      try:
        check(7)
      except UserError as error:
        said += error.problems
    assert checks and refused == any(f"{field}=6 " in line for line in said)


@pytest.mark.parametrize("name", ["embedded", "stable_diffusion", "flux2"])
def test_a_generator_whose_weights_devices_cannot_share_is_refused(
  name, tmp_path
):
  block = {"name": name, "fsdp": 3}
  if name == "stable_diffusion":
    block |= tiny_sd.write_file(tmp_path)
  elif name == "flux2":
    tiny_flux2.write_folder(tmp_path, tiny_flux2.released())
    block |= dict(weights=str(tmp_path), sampler="euler", respacing=4)
  with meshes.checked_later(True) as checks:
    generators.check_generator(**block)
  (check,) = checks
  check(6)
  for count in (1, 4):
    with pytest.raises(UserError, match="config.generator.fsdp=3 does not"):
      check(count)
  with pytest.raises(UserError, match="config.generator.fsdp=3 does not"):
    generators.check_generator(**block)  # of the devices of here


def test_a_block_with_seven_mistakes_lists_all_seven(tmp_path):
  config = main.load_config(str(CONFIGS / "quickstart.py"))
  config.tasks = ("tune",)
  arm = dict(name="LE", strategy="enhanced", filter="yes", soft_weight=2.0)
  mistakes = dict(
    learning_rate=0.1,  # no such field
    num_epochs=0,
    batch_size=1.5,
    seeds=(0, 0),
    temperature=-1.0,
    arms=(arm,),  # two of its fields
  )
  config.tune = ConfigDict(config.tune.to_dict() | mistakes)
  with pytest.raises(UserError) as caught:
    main.run_tasks(config, str(tmp_path))
  lines = str(caught.value).splitlines()
  assert len(lines) == 7
  for name in (
    "learning_rate",
    "num_epochs",
    "batch_size",
    "seeds",
    "temperature",
    r"arms[0].filter",
    r"arms[0].soft_weight",
  ):
    assert sum(name in line.split(":")[0] for line in lines) == 1, name
