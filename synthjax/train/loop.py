"""The loop that runs every objective."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from synthjax.train import mesh as meshes
from synthjax.train.objective import Objective

# (steps done, state, metrics): metrics are on the device until they are read.
Hook = Callable[[int, Any, dict], None]


def start(objective: Objective, batch: Any, rng: jax.Array) -> Any:
  """Returns the objective's first state, compiled whole.

  Args:
    objective: what is trained.
    batch: one example batch; only its shapes and types matter.
    rng: of the initial weights.
  """
  return jax.jit(objective.init)(rng, batch)


def fit(
  objective: Objective,
  state: Any,
  batches: Iterator[Any],
  *,
  num_steps: int,
  rng: jax.Array,
  hooks: Sequence[Hook] = (),
) -> Any:
  """Trains from state.step up to num_steps and returns the last state.

  Args:
    objective: what is trained.
    state: of `start`, or restored.
    batches: this process's share of each global batch, dicts of arrays.
    num_steps: of the whole training, those already done included.
    rng: step `i` uses fold_in(rng, i), so that resuming repeats nothing.
    hooks: called after each step, in order.
  """
  mesh = meshes.make_mesh()
  copied = meshes.copied(mesh)
  step_fn = jax.jit(objective.step, donate_argnums=0, out_shardings=copied)
  state, rng = jax.device_put((state, rng), copied)
  for step in range(int(state.step), num_steps):
    batch = meshes.to_global(mesh, next(batches))
    state, metrics = step_fn(state, batch, jax.random.fold_in(rng, step))
    for hook in hooks:
      hook(step + 1, state, metrics)
  return state
