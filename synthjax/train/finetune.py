"""Training that starts from given weights, all but the head."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.errors import UserError
from synthjax.train.objective import Objective

HEAD = "fc"


def start_from(objective: Objective, variables: Mapping) -> Objective:
  """Returns the objective with another start: a backbone and a fresh head.

  Args:
    objective: of `supervised`.
    variables: `params` and `batch_stats` of the same model, possibly for other
      classes: the head that they hold is not used.

  Raises:
    UserError: when compiled, listing what does not fit the model.
  """

  def init(rng, batch):
    state = objective.init(rng, batch)
    merged = replace_backbone(state.variables, variables)
    ema = None if state.ema is None else jax.tree.map(jnp.copy, merged)
    # The optimizers of this package start from zeros, whatever the weights.
    return dataclasses.replace(state, variables=merged, ema=ema)

  return Objective(init, objective.step)


def replace_backbone(fresh: Mapping, variables: Mapping) -> dict[str, Any]:
  """Returns `variables` with the head of `fresh`.

  Raises:
    UserError: listing every array that is missing, unused or misshapen.
  """
  want = traverse_util.flatten_dict(dict(fresh))
  have = traverse_util.flatten_dict(dict(variables))
  is_head = lambda path: path[1] == HEAD
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
