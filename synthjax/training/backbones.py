"""What the task `pretrain` has left to start from."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.training import pretraining_fields

_WEIGHTS = ".safetensors"
RANDOM = "random"  # a start without weights
ALONE = "pretrained"  # what a start is called where there are no arms


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
  found = {ALONE: names}
  if arms := manifest["spec"].get("arms"):
    # A manifest keeps no order: "x 75" comes before "x 150".
    arms = sorted(arms, key=_by_numbers)
    found = {arm: [n for n in names if _is_of(n, arm)] for arm in arms}
  return {arm: [folder / n for n in own] for arm, own in found.items()}


def _is_of(name: str, arm: str) -> bool:
  stem, _, seed = name.removesuffix(_WEIGHTS).rpartition("-s")
  return stem == pretraining_fields.file_stem(arm) and seed.isdigit()


def _by_numbers(name: str) -> list[str | int]:
  parts = re.split(r"(\d+)", name)  # every other one is a number
  return [int(x) if i % 2 else x for i, x in enumerate(parts)]


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
  found: dict[str, Start] = {}
  # A config keeps no order of its own.
  for init, own in sorted(inits.items(), key=lambda x: (x[0] != RANDOM, x[0])):
    if init == RANDOM:
      named = {init: []}
    elif own.get("weights"):
      field = f"detect.inits.{init}.weights"
      named = {init: [locate(own["weights"], field=field)]}
    else:
      named = backbones(folder)
    stems = {pretraining_fields.file_stem(name) for name in found}
    if same := [n for n in named if pretraining_fields.file_stem(n) in stems]:
      raise UserError(
        f"The starts {same} would share files with others of inits, "
        f"{list(found)}: give those other names."
      )
    found |= {name: Start(init, paths) for name, paths in named.items()}
  return found


def models_of(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the model of each arm of the block `pretrain`; of ALONE without."""
  if not fields.get("arms"):
    return {ALONE: dict(fields["model"])} if fields.get("model") else {}
  models = {
    n: a.get("model") for n, a in pretraining_fields.arms_of(fields).items()
  }
  return {name: dict(model) for name, model in models.items() if model}


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
