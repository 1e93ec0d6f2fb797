"""Training from a set that lies on the devices.

A set of small images fits into any memory. Rows are drawn and augmented
within the jitted step, and several steps are one call, so that an accelerator
waits neither for the host's pipeline nor for a dispatch a step.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.config.schema import Count
from synthjax.runtime import mesh as meshes
from synthjax.training import run as runs
from synthjax.training.loop import Objective

# (arrays of the set, rng) -> a batch, under `jit`
Draw = Callable[[dict, jax.Array], dict]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop(runs.Loop):
  """Fields of a training from a set on the device."""

  num_steps: Count
  batch_size: Count  # over all processes
  # Steps of a dispatch; any number gives the same result. See `resident`.
  steps_per_call: Count = 1

  @property
  def steps_here(self) -> int:
    """The steps of a dispatch on this machine's devices.

    A CPU is not kept waiting by dispatches, and XLA compiles what stands in a
    loop to half its speed there.
    """
    return 1 if jax.default_backend() == "cpu" else self.steps_per_call

  def problems(self) -> Iterable[str]:
    for field in ("log_every", "checkpoint_every", "num_steps"):
      if (steps := getattr(self, field)) % self.steps_per_call:
        yield (
          f"{field}={steps} is no multiple of steps_per_call="
          f"{self.steps_per_call}; change one of them"
        )


@dataclasses.dataclass(frozen=True)
class Resident:
  """A whole set, in the place of the batches that `run.train` reads."""

  arrays: dict[str, np.ndarray]  # each with the rows of the set first
  fsdp: int = 1

  def example(self) -> dict[str, np.ndarray]:
    """Returns the arrays."""
    return self.arrays

  def start_at(self, number: int) -> Iterator[dict[str, jax.Array]]:
    """Yields the arrays for ever, from every device's memory.

    Those that lie on devices already stay where they are.
    """
    del number  # the objective draws batch `number` by its own key
    copied = meshes.copied(meshes.make_mesh(self.fsdp))

    def place(x):
      return x if isinstance(x, jax.Array) else jax.device_put(x, copied)

    return itertools.repeat(jax.tree.map(place, self.arrays))


def resident(
  objective: Objective, draw: Draw, *, steps_per_call: int = 1, fsdp: int = 1
) -> Objective:
  """Makes an objective draw its batches from a set, several in a call.

  Step `i` draws by the key of step `i` alone. So the result is the same, up to
  rounding, for any number of steps in a call, and a run resumes exactly.

  Args:
    objective: what is trained on a batch.
    draw: see `Draw`.
    steps_per_call: of the objective, for a step of the one returned.
    fsdp: as of `loop.fit`.

  Returns:
    An objective whose batch is the set. Its metrics are means over the steps of
    a call.
  """
  place = meshes.split(meshes.make_mesh(fsdp))

  def init(rng, arrays):
    return objective.init(rng, draw(arrays, rng))

  def step(state, arrays, rngs):
    def one(state, rng):
      draw_rng, step_rng = jax.random.split(rng)
      batch = jax.lax.with_sharding_constraint(draw(arrays, draw_rng), place)
      return objective.step(state, batch, step_rng)

    if steps_per_call == 1:
      return one(state, rngs)
    state, metrics = jax.lax.scan(one, state, rngs)
    return state, jax.tree.map(jnp.mean, metrics)

  return objective._replace(init=init, step=step, steps=steps_per_call)
