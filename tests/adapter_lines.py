"""Adapters of one number, the slopes of lines, and their training."""

import functools

import jax
import numpy as np
import optax

from synthjax.runtime import mesh as meshes
from synthjax.training import lora, resident
from synthjax.training import run as runs


@functools.cache
def slopes():
  """Returns the objective; of `rows`, 2 points are drawn in each step."""

  def loss(frozen, slope, rows, rng):
    draw_rng, rng = jax.random.split(rng)
    rows = lora.draw_rows(rows, draw_rng, 2)
    noise = 0.01 * jax.random.normal(rng, rows["x"].shape)
    error = (frozen + slope) * rows["x"] + noise - rows["y"]
    return (error**2).mean(), {}

  init = lambda rng: 0.1 * jax.random.normal(rng)
  return lora.lora_learning(loss, init, optax.sgd(0.1, momentum=0.5))


def points(k: int = 3, m: int = 4):
  """Returns a batch of m points on each of k lines, of slopes 1, 2, ..."""
  x = np.random.default_rng(0).normal(0, 1, (k, m)).astype(np.float32)
  rows = {"x": x, "y": x * np.arange(1, k + 1, dtype=np.float32)[:, None]}
  return {"frozen": np.float32(0.5), "rows": rows}


def train(folder, k, size, num_steps, label="lines"):
  """Learns k slopes with so many that they are filled up to.

  Returns:
    The last state, and the first slopes of it.
  """
  batch = points(k)
  filled = np.minimum(np.arange(size), k - 1)
  mesh = meshes.make_mesh()
  split = meshes.split(mesh)
  place = lambda x: jax.device_put(x[filled], split)
  batch |= {
    "frozen": jax.device_put(batch["frozen"], meshes.copied(mesh)),
    "rows": jax.tree.map(place, batch["rows"]),
    "counts": jax.device_put(np.arange(size) < k, split),
  }
  state = runs.train(
    slopes(),
    resident.Resident(batch),
    runs.Loop(log_every=1, checkpoint_every=4, loggers=()),
    folder=folder,
    label=label,
    num_steps=num_steps,
    batch_size=2 * k,
    seed=0,
    rngs=lora.keys_of(0, filled),
    split=runs.Split("together", size),
    held=batch,
  )
  return state, meshes.fetch(state.params)[:k]
