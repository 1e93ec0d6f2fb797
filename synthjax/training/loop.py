"""The loop that runs every objective.

Metrics, checkpoints and resuming are hooks, which `run.train` adds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.runtime import mesh as meshes


class Objective(NamedTuple):
  """A pair of pure functions, in the manner of an optax transformation.

  The other entries describe its state, so that no caller needs its class.
  """

  init: Callable  # (rng, batch) -> state, a pytree with an integer `step`
  step: Callable[..., tuple[Any, dict]]  # (state, batch, rng) -> state, metrics
  trained: str = "params"  # the entry of the state that gradients train
  # The entry that follows `trained`, where there is one; it may be None.
  average: str | None = "ema"
  # state -> variables to save.
  weights: Callable[[Any], Any] = lambda state: state.params
  has_classifier: bool = True  # False: the head of `weights` is of no more use
  # Steps of a call of `step`: with more than one it takes a key for each.
  steps: int = 1
  # (mesh, state) -> where each of its arrays lies.
  shard: Callable[[jax.sharding.Mesh, Any], Any] = meshes.shard
  # Whether the last rows of a state only fill the devices: a checkpoint then
  # has more of them or fewer, where devices were others.
  resizes: bool = False


def follow(
  average: Any | None, values: Any, step: jax.Array, *, decay: float | None
) -> Any | None:
  """Moves a running average one step towards the values; None stays None.

  The decay is min(decay, (1 + step) / (10 + step)), so that the average of a
  short training does not remember the random start.
  """
  if average is None:
    return None
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  return optax.incremental_update(values, average, 1 - decay)


# (steps done, state, metrics): metrics are on the device until they are read.
Hook = Callable[[int, Any, dict], None]


def outline(
  objective: Objective, batch: Any, rng: jax.Array, *, fsdp: int = 1
) -> Any:
  """Returns the shapes, types and places of a state, without computing it.

  Args:
    objective: what is trained.
    batch: one example batch; only its shapes and types matter.
    rng: of the initial weights.
    fsdp: see `fit`.
  """
  shapes = jax.eval_shape(objective.init, rng, batch)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    objective.shard(meshes.make_mesh(fsdp), shapes),
  )


def trace(
  objective: Objective, batch: Any, rng: jax.Array | None = None
) -> None:
  """Traces a start and a step, and computes neither.

  What does not fit, or what the device cannot do, raises here, in seconds and
  not after the hours in which images are drawn.

  Args:
    objective: what is to be trained.
    batch: of the whole batch's shapes and types, over all processes.
    rng: that it starts from, if not a single key.
  """
  rng = jax.random.key(0) if rng is None else rng
  state = jax.eval_shape(objective.init, rng, batch)
  jax.eval_shape(objective.step, state, batch, rng)


def start(
  objective: Objective, batch: Any, rng: jax.Array, *, fsdp: int = 1
) -> Any:
  """Returns the objective's first state, compiled whole.

  It is made where it belongs: no device ever holds all of a sharded state.

  Args:
    objective: what is trained.
    batch: one example batch; only its shapes and types matter.
    rng: of the initial weights.
    fsdp: see `fit`.
  """
  places = jax.tree.map(
    lambda x: x.sharding, outline(objective, batch, rng, fsdp=fsdp)
  )
  # Zeros, as several processes must not give one computation different rows.
  batch = jax.tree.map(lambda x: np.zeros(np.shape(x), x.dtype), batch)
  return jax.jit(objective.init, out_shardings=places)(rng, batch)


def fit(
  objective: Objective,
  state: Any,
  batches: Iterator[Any],
  *,
  num_steps: int,
  rng: jax.Array,
  hooks: Sequence[Hook] = (),
  fsdp: int = 1,
  guard: Callable[[Any, Any], Callable] = lambda step, state: step,
) -> Any:
  """Trains from state.step up to num_steps and returns the last state.

  Args:
    objective: what is trained.
    state: of `start`, or restored.
    batches: this process's share of each global batch, dicts of arrays.
    num_steps: of the whole training, those already done included.
    rng: step `i` uses fold_in(rng, i), so that resuming repeats nothing.
    hooks: called after each call of the objective's step, in order.
    fsdp: devices that share one copy of the state between them; the batch is
      split over all devices all the same. 1 gives each device a copy.
    guard: (compiled step, state) -> what is called; see `memory.checked`.
  """
  mesh = meshes.make_mesh(fsdp)
  copied, places = meshes.copied(mesh), objective.shard(mesh, state)
  step_fn = jax.jit(
    objective.step, donate_argnums=0, out_shardings=(places, copied)
  )
  state = jax.device_put(state, places)
  step_fn = guard(step_fn, state)
  rng = meshes.place_key(mesh, rng)
  steps = objective.steps
  for step in range(int(state.step), num_steps, steps):
    batch = meshes.to_global(mesh, next(batches))
    number = np.uint32(step)
    if steps > 1:
      number = step + np.arange(steps, dtype=np.uint32)
    state, metrics = step_fn(state, batch, _fold_in(rng, number))
    for hook in hooks:
      hook(step + steps, state, metrics)
  return state


@jax.jit  # as the key may lie on devices of other processes, too
def _fold_in(rng: jax.Array, number: jax.Array) -> jax.Array:
  fold_in = jax.random.fold_in
  if number.ndim:
    fold_in = jax.vmap(fold_in, (None, 0))
  return fold_in(rng, number)
