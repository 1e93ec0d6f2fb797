"""Learns low-rank updates (LoRA) of frozen networks, many adapters in a step.

An adapter is the updates of all layers of a network. Each learns by itself, the
same whichever others learn beside it, and on however many devices.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.runtime import mesh as meshes
from synthjax.training.loop import Objective


@flax.struct.dataclass
class LoRAState:
  """What changes while k adapters are learned."""

  step: jax.Array  # []
  params: Any  # updates, each with an axis of adapters in front
  opt_state: optax.OptState  # likewise of every adapter
  key_data: jax.Array  # uint32 [k, ...], of the random key of each


def lora_learning(
  loss: Callable[..., tuple[jax.Array, dict]],
  init: Callable[[jax.Array], Any],
  tx: optax.GradientTransformation,
  *,
  axis: int = 0,
) -> Objective:
  """Returns the objective of learning k adapters in one step.

  It starts from k keys in place of one. A batch holds `frozen`, the weights,
  which are thus in no checkpoint; `rows`, arrays that each adapter has its part
  of; and it may hold `counts`, bool [k]: adapters that do not count fill k up,
  and are not reported. Neither weights nor k are part of the objective, so that
  trainings of other adapters are compiled once.

  Args:
    loss: (frozen, updates, rows, rng) -> a loss [], and what is reported.
    init: rng -> updates.
    tx: the optimizer, of each adapter by itself.
    axis: of the adapters in `rows`. With 0 they are split over the devices, and
      k is a multiple of those; with another one rows are, and each device has
      all adapters.
  """

  def start(rngs, batch):
    del batch
    updates = jax.vmap(init)(rngs)
    opt_state = jax.vmap(tx.init)(updates)
    key_data = jax.random.key_data(rngs)
    return LoRAState(jnp.array(0), updates, opt_state, key_data)

  def step(state, batch, rng):
    del rng  # each adapter has its own

    def of_adapter(updates, opt_state, key_data, rows):
      rng = jax.random.wrap_key_data(key_data)
      rng = jax.random.fold_in(rng, state.step + 1)
      loss_fn = lambda updates: loss(batch["frozen"], updates, rows, rng)
      (value, more), grads = jax.value_and_grad(loss_fn, has_aux=True)(updates)
      change, opt_state = tx.update(grads, opt_state, updates)
      updates = optax.apply_updates(updates, change)
      return updates, opt_state, {"loss": value, **more}

    params, opt_state, metrics = jax.vmap(of_adapter, (0, 0, 0, axis))(
      state.params, state.opt_state, state.key_data, batch["rows"]
    )
    state = state.replace(
      step=state.step + 1, params=params, opt_state=opt_state
    )
    counts = batch.get("counts")
    mean = lambda x: jnp.mean(x, where=counts)
    return state, jax.tree.map(mean, metrics)

  split = {"shard": _split_adapters, "resizes": True} if axis == 0 else {}
  return Objective(start, step, average=None, **split)


def _split_adapters(mesh: jax.sharding.Mesh, state: Any) -> Any:
  """Places a state as `mesh.shard` does, with the adapters over the devices."""
  split, copied = meshes.split(mesh), meshes.copied(mesh)
  return jax.tree.map(lambda x: split if x.ndim else copied, state)


def keys_of(seed: int, numbers: np.ndarray) -> jax.Array:
  """Returns the keys [k] of adapters with numbers [k], which differ."""
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  return fold_in(jax.random.key(seed), np.asarray(numbers, np.uint32))


def draw_rows(rows: Any, rng: jax.Array, batch_size: int) -> Any:
  """Draws rows without replacement from arrays [m, ...] of one adapter."""
  order = jax.random.permutation(rng, len(jax.tree.leaves(rows)[0]))
  return jax.tree.map(lambda x: x[order[:batch_size]], rows)


@dataclasses.dataclass(frozen=True)
class WithFrozen:
  """Batches of `lora_learning`: the rows of a data set, and the weights."""

  dataset: Any  # of `data.pipeline`
  frozen: Any  # on the devices

  def example(self) -> dict[str, Any]:
    """Returns the first batch."""
    return {"rows": self.dataset.example(), "frozen": self.frozen}

  def start_at(self, number: int) -> Iterator[dict[str, Any]]:
    """Yields the batches from `number` on."""
    for rows in self.dataset.start_at(number):
      yield {"rows": rows, "frozen": self.frozen}
