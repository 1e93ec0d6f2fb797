"""Statistics of BatchNorm measured anew, after training (Wu and Johnson 2021).

The running ones trail behind the weights; an average over many batches with the
weights held still does not.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError


def reestimate(
  forward: Callable[[Any, Any, jax.Array], Any],
  variables: Mapping[str, Any],
  batches: Iterable[Any],
  *,
  num_iterations: int,
  rng: jax.Array,
  momentum: float = 0.9,
) -> dict[str, Any]:
  """Returns the variables with the mean statistics of batches.

  The variance is the mean of the batches' own, and biased as is all of Flax's:
  PyTorch's is larger by v / (v - 1) for v values of a channel in a batch.

  Args:
    forward: (variables, batch, rng) -> `batch_stats` after a pass in training
      mode; compiled once for all calls with the same function.
    variables: `params` and `batch_stats`; only the shapes of these matter.
    batches: this process's share of each global batch, dicts of arrays.
    num_iterations: batches to take.
    rng: batch i uses fold_in(rng, i).
    momentum: of the model's BatchNorm.

  Raises:
    UserError: when there are fewer batches.
  """
  mesh = meshes.make_mesh()
  variables = jax.device_put(dict(variables), meshes.copied(mesh))
  rng = meshes.place_key(mesh, rng)
  total = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

  count = 0
  for batch in itertools.islice(batches, num_iterations):
    batch = meshes.to_global(mesh, batch)
    batch_rng = _fold_in(rng, np.uint32(count))
    total = _add(
      forward, momentum, total, variables["params"], batch, batch_rng
    )
    count += 1
  if count < max(num_iterations, 1):
    raise UserError(
      f"found {count} batches to measure BatchNorm's statistics on, and "
      f"num_iterations={num_iterations}; give as many, and one or more."
    )
  return variables | {"batch_stats": jax.tree.map(lambda t: t / count, total)}


# Compiled, as the key may lie on devices of other processes, too.
_fold_in = jax.jit(jax.random.fold_in)


@partial(jax.jit, static_argnums=(0, 1))
def _add(
  forward: Callable[[Any, Any, jax.Array], Any],
  momentum: float,
  total: Any,
  params: Any,
  batch: Any,
  rng: jax.Array,
) -> Any:
  """Returns the sum of statistics with those of one more batch."""
  # Beside statistics of zero, what is left of the batch's is 1 - momentum.
  zeros = jax.tree.map(jnp.zeros_like, total)
  stats = forward({"params": params, "batch_stats": zeros}, batch, rng)
  return jax.tree.map(lambda t, s: t + s / (1 - momentum), total, stats)
