"""The backbones of the task `pretrain`, as starts of other trainings."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.runtime import artifacts
from synthjax.runtime.artifacts import file_stem
from synthjax.runtime.errors import UserError, gathered
from synthjax.training import pretraining

_WEIGHTS = ".safetensors"
RANDOM = "random"  # the start without weights
ALONE = "pretrained"  # the name of a start where there are no arms


class Start(NamedTuple):
  """First weights."""

  init: str  # the key of `inits` that stands for them
  files: list[epath.Path]  # to be taken in turn, one a seed; none if random


def backbones(folder: epath.PathLike) -> dict[str, list[epath.Path]]:
  """Returns the files of each arm, one a seed; of ALONE without arms.

  Args:
    folder: of the task.

  Raises:
    UserError: if the task has not been completed.
  """
  folder = epath.Path(folder)
  manifest = artifacts.load(folder)
  names = [n for n in manifest["files"] if n.endswith(_WEIGHTS)]
  arms = manifest["spec"].get("arms")
  if not arms:
    return {ALONE: [folder / name for name in names]}

  def by_numbers(arm):  # a manifest keeps no order: "x 75" before "x 150"
    parts = re.split(r"(\d+)", arm)  # every other one is a number
    return [int(x) if i % 2 else x for i, x in enumerate(parts)]

  def is_of(name, arm):
    stem, _, seed = name.removesuffix(_WEIGHTS).rpartition("-s")
    return stem == file_stem(arm) and seed.isdigit()

  return {
    arm: [folder / name for name in names if is_of(name, arm)]
    for arm in sorted(arms, key=by_numbers)
  }


def starts(
  inits: Mapping[str, Mapping[str, Any]],
  folder: epath.PathLike,
  locate: Callable[..., epath.Path],
) -> dict[str, Start]:
  """Returns the starts that `inits` stand for, by name: RANDOM, then others.

  Args:
    inits: a name -> its fields. RANDOM has no weights, ALONE without any
      stands for every arm, and all others have `weights`.
    folder: of the task `pretrain`.
    locate: (weights, field=) -> path.

  Raises:
    UserError: for two starts that would share files, and what is not there.
  """
  starts: dict[str, Start] = {}
  # A config keeps no order of its own.
  with gathered() as attempt:
    for init in sorted(inits, key=lambda name: (name != RANDOM, name)):
      if init == RANDOM:
        named = {init: []}
      elif weights := inits[init].get("weights"):
        field = f"detect.inits.{init}.weights"
        named = {init: [attempt(locate, weights, field=field)]}
      else:
        named = attempt(backbones, folder) or {}
      stems = {file_stem(name) for name in starts}
      if same := [n for n in named if file_stem(n) in stems]:
        raise UserError(
          f"The starts {same} would share files with others of inits, "
          f"{list(starts)}: give those other names."
        )
      starts |= {name: Start(init, paths) for name, paths in named.items()}
  return starts


def models_of(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the model of each arm of the block `pretrain`; of ALONE without."""
  if not fields.get("arms"):
    return {ALONE: dict(fields["model"])} if fields.get("model") else {}
  blocks = pretraining.blocks_of(fields)
  return {n: dict(b["model"]) for n, b in blocks.items() if b.get("model")}


def model_of(fields: Mapping[str, Any], *, task: str) -> dict[str, Any]:
  """Returns the one model of all arms.

  Args:
    fields: of the block `pretrain`, possibly none.
    task: whose block has no `model`, for the message.

  Raises:
    UserError: if there is none, or more than one.
  """
  models = list(models_of(fields).values())
  if not models or any(model != models[0] for model in models):
    raise UserError(
      f"config.{task} trains one model: give its field `model`, or a block "
      f"config.pretrain whose arms have the same; found {models}."
    )
  return models[0]


def zeros_of(
  fields: Mapping[str, Any], make_model: Callable[..., Any]
) -> dict[str, Any]:
  """Returns zeros in the shapes of the backbones that `pretrain` will leave.

  Args:
    fields: of the task `pretrain`.
    make_model: (num_classes=, **fields of the model) -> module.
  """
  rng, images = jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)

  def zeros(model):
    backbone = make_model(num_classes=None, **model)
    shapes = jax.eval_shape(backbone.init, rng, images)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)

  return {name: zeros(model) for name, model in models_of(fields).items()}
