"""Training that starts from given weights, all but the head."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.runtime.errors import (
  BLOCK,
  COUNT,
  NOT_NEGATIVE,
  NUMBERS,
  PAIRS,
  POSITIVE,
  SEEDS,
  SHARE,
  SHOTS,
  TEXT,
  WHOLE,
  Kind,
  UserError,
  check_values,
  one_of,
)
from synthjax.training import recipes
from synthjax.training.loop import Objective
from synthjax.training.moco import MocoState
from synthjax.training.supervised import SupervisedState

# What the block `optimizer` may hold: several rates, of which one is chosen.
OPTIMIZER = recipes.OPTIMIZER | {
  "lr": Kind(
    lambda x: NOT_NEGATIVE.fits(x) or NUMBERS.fits(x) and min(x) >= 0,
    f"{NOT_NEGATIVE.words}, or several",
  )
}
METHODS = ("finetune", "linear")  # everything, or the head on frozen features
# What a recipe holds; `inits` may give each initialisation its own values.
RECIPE = {
  "recipe": TEXT,  # of train.recipe.RECIPES: what is left out below
  "epochs": POSITIVE,
  "batch_size": COUNT,
  "optimizer": BLOCK,  # see train.recipe.make_optimizer; lr may list several
  "method": one_of(METHODS),  # what is trained, everything by default
  "augment": TEXT,  # of data.views.VIEWS; "none" where the device augments
  "device_augment": TEXT,  # these four as in `pretrain`
  "source_size": COUNT,
  "label_smoothing": SHARE,
  "mix": BLOCK,
  "num_workers": WHOLE,
  "log_every": WHOLE,
  "checkpoint_every": COUNT,
}
REQUIRED = ("epochs", "batch_size", "optimizer", "augment")
# What the task `transfer` needs besides a recipe.

TASK = {
  "train": BLOCK,  # real images: the pool of the shots; see data.real
  "test": BLOCK,  # opened once, at the end
  "inits": BLOCK,  # name of INITS -> what its recipe has of its own
  "shots": SHOTS,  # of each class, several; None takes the whole pool
  "seeds": SEEDS,  # of the shots, the head and the order of the batches
  "image_size": COUNT,  # px
}
KNOWN = (
  RECIPE
  | TASK
  | {
    "validation": BLOCK,  # chooses between several learning rates
    "space": TEXT,  # of the real images, if not config.space
    "model": BLOCK,  # if not config.pretrain.model
    "weights": TEXT,  # of the backbone, if not those of `pretrain`
    "compare": PAIRS,  # of starts, told apart besides all from "random"
    "fsdp": COUNT,  # devices that share one copy of the state; train.loop.fit
  }
)

HEADS = ("fc",)  # of a ResNet


def recipe_of(block: dict, init: str) -> dict:
  """Returns the recipe of an initialisation: the common one and its own."""
  own = block["inits"][init]
  fields = {name: block[name] for name in RECIPE if name in block} | own
  fields["optimizer"] = block.get("optimizer", {}) | own.get("optimizer", {})
  fields = recipes.fill(fields)
  fields["image_size"] = block["image_size"]
  if fields.get("device_augment") is not None:
    fields.setdefault("augment", "none")
  return fields


def rates_of(fields: dict) -> tuple[float, ...]:
  """Returns the learning rates to choose from.

  Raises:
    UserError: where there is none.
  """
  lr = fields["optimizer"].get("lr")
  if lr is None:
    raise UserError("config.transfer.optimizer lacks lr, a learning rate.")
  check_values("config.transfer.optimizer", {"lr": lr}, OPTIMIZER)
  return tuple(lr) if isinstance(lr, tuple | list) else (lr,)


def start_from(
  objective: Objective,
  variables: Mapping,
  *,
  heads: Collection[str] = HEADS,
) -> Objective:
  """Returns the objective with another start: a backbone and a fresh head.

  Args:
    objective: of `supervised` or `moco`, whose momentum encoder starts as a
      copy of the other one.
    variables: `params` and `batch_stats` of the same model, possibly for other
      classes: the head that they hold is not used. The positions of a ViT are
      those of the images' size: see `models.vit.resize_positions`.
    heads: names of the submodules that are drawn anew, of whichever model.

  Raises:
    UserError: when compiled, listing what does not fit the model.
  """

  def init(rng, batch):
    state = objective.init(rng, batch)
    own, copy = _COPIES[type(state)]
    merged = replace_backbone(getattr(state, own), variables, heads=heads)
    copied = None
    if getattr(state, copy) is not None:
      copied = jax.tree.map(jnp.copy, merged)
    # The optimizers of this package start from zeros, whatever the weights.
    return dataclasses.replace(state, **{own: merged, copy: copied})

  return Objective(init, objective.step)


# What is trained, and what starts as a copy of it.
_COPIES = {
  SupervisedState: ("variables", "ema"),
  MocoState: ("query", "key"),
}


def replace_backbone(
  fresh: Mapping, variables: Mapping, *, heads: Collection[str] = HEADS
) -> dict[str, Any]:
  """Returns `variables` with the head of `fresh`.

  Args:
    fresh: variables of the model to train.
    variables: of the same model, with whatever head or none.
    heads: names of the head's submodules.

  Raises:
    UserError: listing every array that is missing, unused or misshapen.
  """
  want = traverse_util.flatten_dict(dict(fresh))
  have = traverse_util.flatten_dict(dict(variables))
  is_head = lambda path: path[1] in heads
  problems = []
  for path in sorted(want.keys() | have.keys()):
    if is_head(path):
      continue
    found, needed = (
      np.shape(tree[path]) if path in tree else None for tree in (have, want)
    )
    if found != needed:
      problems.append(
        f"{'/'.join(path)}: the weights have {found}, the model needs {needed}"
      )
  if problems:
    listed = "\n  ".join(problems[:20])
    raise UserError(
      f"The backbone does not fit the model in {len(problems)} places:\n  "
      f"{listed}\nGive the model that was pre-trained, or its own weights."
    )
  merged = {
    path: value if is_head(path) else jnp.asarray(have[path])
    for path, value in want.items()
  }
  return traverse_util.unflatten_dict(merged)
