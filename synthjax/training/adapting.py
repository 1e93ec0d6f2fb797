"""Learning low-rank updates of a frozen network, for many sets at once."""

from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.training.loop import Objective


@flax.struct.dataclass
class AdaptingState:
  """What a training of updates carries, of every set."""

  step: jax.Array  # []
  params: Any  # updates, each with an axis of sets in front
  opt_state: optax.OptState  # likewise of every set


def adapting(
  loss: Callable[..., tuple[jax.Array, dict]],
  init: Callable[[jax.Array], Any],
  tx: optax.GradientTransformation,
  *,
  numbers: Sequence[int],
  seed: int,
  batch_size: int,
) -> Objective:
  """Returns the objective of learning the updates of k sets in one step.

  Its batch are `sets`, arrays [k, m, ...], whole, and the weights, `frozen`,
  which are thus in no checkpoint. Each set learns by itself, from rows that are
  drawn of it: the same whichever others learn beside it.

  Args:
    loss: (frozen, updates, rows, rng) -> a loss [], and what is reported.
    init: rng -> updates.
    tx: the optimizer, of each set by itself.
    numbers: [k] of the sets, which differ.
    seed: of the first values, and with its number of all that a set draws.
    batch_size: rows of a step of a set, at most m.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(seed), np.asarray(numbers, np.uint32)
  )

  def start(rng, batch):
    del rng, batch  # each set has its own
    updates = jax.vmap(init)(keys)
    return AdaptingState(jnp.array(0), updates, jax.vmap(tx.init)(updates))

  def step(state, batch, rng):
    del rng

    def of_set(updates, opt_state, rows, rng):
      drawn, rng = jax.random.split(jax.random.fold_in(rng, state.step + 1))
      order = jax.random.permutation(drawn, len(jax.tree.leaves(rows)[0]))
      rows = jax.tree.map(lambda x: x[order[:batch_size]], rows)
      loss_fn = lambda updates: loss(batch["frozen"], updates, rows, rng)
      (value, more), grads = jax.value_and_grad(loss_fn, has_aux=True)(updates)
      change, opt_state = tx.update(grads, opt_state, updates)
      updates = optax.apply_updates(updates, change)
      return updates, opt_state, {"loss": value, **more}

    params, opt_state, metrics = jax.vmap(of_set)(
      state.params, state.opt_state, batch["sets"], keys
    )
    state = state.replace(
      step=state.step + 1, params=params, opt_state=opt_state
    )
    return state, jax.tree.map(jnp.mean, metrics)

  return Objective(start, step, average=None)
