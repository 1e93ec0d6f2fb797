"""A value that a field cannot have stops a run before its first task."""

import copy
import dataclasses
import functools
import importlib
import pathlib

import pytest
from ml_collections import ConfigDict

from synthjax import main
from synthjax.adapt import few_shot_methods
from synthjax.detection import recipe as detector_fields
from synthjax.detection.regions import Options
from synthjax.models.classifiers import CLASSIFIERS, SIZES
from synthjax.models.clip import model as clip
from synthjax.models.glide import model as glide
from synthjax.runtime.errors import UserError
from synthjax.tasks import train_clip, train_generator
from synthjax.training import mixup, optimizer, pretraining_fields, recipes

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# A config with a block of each task.
TASKS = {
  "train_generator": "train_generator.py",
  "train_clip": "train_clip.py",
  "prompts": "quickstart.py",
  "generate": "fewshot.py",
  "score": "quickstart.py",
  "select": "quickstart.py",
  "card": "quickstart.py",
  "tune": "quickstart.py",
  "few_shot": "fewshot.py",
  "tune_encoder": "tune_encoder.py",
  "pretrain": "sanity_pretrain.py",
  "transfer": "sanity_pretrain.py",
  "detect": "detect_voc.py",
  "export": "quickstart.py",
  "report": "quickstart.py",
}
VALUES = (-1, 0, 1.5, "x", float("nan"), 1e999, True, (), (1, 1), {"a": 1})
# Kinds of other modules tell these, in words of their own.
ELSEWHERE = {("report", "paper"), ("card", "encoders")}
# Tasks that outline a network before they look at the optimizer, of which all
# have the same fields.
OUTLINED = ("detect", "pretrain", "tune_encoder")


def test_each_task_is_looked_at():
  assert TASKS.keys() == main.TASKS.keys()


@functools.cache
def load(name):
  return main.load_config(f"{CONFIGS / name}:runlocal").to_dict()


def cases():
  """Yields a task, a block within its own or none, a field and its kind."""
  for task in TASKS:
    module = importlib.import_module(main.TASKS[task])
    blocks = {"": module.KNOWN} | getattr(module, "BLOCKS", {})
    for block, fields in blocks.items():
      if (task, block) == ("prompts", "writer"):
        continue  # that needs weights; see test_prompts.py
      outlined = block == "optimizer" and task in OUTLINED
      for field, kind in fields.items():
        if (task, field) not in ELSEWHERE and not outlined:
          name = ".".join(filter(None, (task, block, field)))
          yield pytest.param(task, block, field, kind, id=name)


@pytest.mark.parametrize(("task", "block", "field", "kind"), [*cases()])
def test_what_a_field_cannot_be_is_refused(task, block, field, kind, tmp_path):
  config = copy.deepcopy(load(TASKS[task]))
  inner = config[task]
  for name in filter(None, block.split(".")):
    inner = inner.setdefault(name, {})
  module = importlib.import_module(main.TASKS[task])
  for value in VALUES:
    if kind.fits(value):
      continue
    before = dict(inner)
    inner[field] = value
    with pytest.raises(UserError, match=field):
      module.check(ConfigDict(config), str(tmp_path))
    inner.clear()
    inner.update(before)


def test_the_tables_name_all_that_the_functions_take():
  named = optimizer.options_of
  schedules = set().union(*map(named, optimizer.RATES.values()))
  kinds = set().union(*map(named, optimizer.OPTIMIZERS.values()))
  common = {"name", "lr", "rate", "warmup", *named(optimizer.with_rate)}
  assert optimizer.FIELDS.keys() == common | schedules | kinds
  by_epochs = named(recipes.make_epoch_rate) - {"num_steps", "epochs"}
  assert recipes.OPTIMIZER.keys() == optimizer.FIELDS.keys() | by_epochs

  kinds = few_shot_methods.METHODS
  options = set().union(*map(few_shot_methods.options_of, kinds))
  assert few_shot_methods.OPTIONS.keys() == options
  assert set(few_shot_methods.FIELDS) == set(few_shot_methods.Method._fields)
  assert detector_fields.OPTIONS.keys() == set(Options._fields)
  assert pretraining_fields.MIX.keys() == named(mixup.mix)
  assert pretraining_fields.KNN.keys() == pretraining_fields.KNN_VALUES.keys()

  sizes = set().union(*(fields_of(make.func) for make in CLASSIFIERS.values()))
  assert SIZES.keys() == sizes - {"num_classes"}
  own = {"vocab_size", "dtype"}
  assert train_clip.MODEL.keys() == fields_of(clip.CLIP) - own
  own |= {"out_channels"}
  assert train_generator.MODEL.keys() == fields_of(glide.Glide) - own


def fields_of(module):
  names = {field.name for field in dataclasses.fields(module)}
  return names - {"parent", "name"}


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
  with pytest.raises(UserError, match="draws by, 'enhansed'; did you mean"):
    module.check(ConfigDict(config), str(tmp_path))
