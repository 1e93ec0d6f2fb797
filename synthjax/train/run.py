"""A training run that can be killed and started again."""

from typing import Any

import grain
import jax
import numpy as np
from etils import epath

from synthjax.train import checkpoint, loop, metrics
from synthjax.train.objective import Objective


def train(
  objective: Objective,
  dataset: grain.IterDataset,
  *,
  folder: epath.PathLike,
  label: str,
  num_steps: int,
  batch_size: int,
  seed: int,
  log_every: int,
  checkpoint_every: int,
  monitor: metrics.Monitor | None = None,
  monitor_every: int = 0,
) -> Any:
  """Trains to the end, from the newest checkpoint if there is one.

  Args:
    objective: what is trained.
    dataset: endless batches of this process.
    folder: gets `<label>_checkpoints/` and `<label>_metrics.jsonl`.
    label: of this run within its folder.
    num_steps: of the whole training.
    batch_size: over all processes, for the rate that is shown.
    seed: of the first weights and of the steps.
    log_every: steps between rows of metrics.
    checkpoint_every: steps between checkpoints.
    monitor: state -> numbers, which get rows of their own among the metrics;
      see `metrics.progress_hook`. Training is the same with it and without.
    monitor_every: steps between its calls; it is called at the end as well.

  Returns:
    The last state, on the devices.
  """
  folder = epath.Path(folder)
  init_rng, rng = jax.random.split(jax.random.key(seed))
  # Another iterator, so that the peek takes nothing from training.
  example = jax.tree.map(np.asarray, next(iter(dataset)))
  state = loop.start(objective, example, init_rng)
  manager = checkpoint.open_manager(folder / f"{label}_checkpoints")
  batches = iter(dataset)
  state = checkpoint.restore(manager, state, batches)
  state = loop.fit(
    objective,
    state,
    batches,
    num_steps=num_steps,
    rng=rng,
    # A checkpoint comes last: what is behind it has been told.
    hooks=[
      metrics.progress_hook(
        metrics_file(folder, label),
        label=label,
        every=log_every,
        num_steps=num_steps,
        first_step=int(state.step),
        batch_size=batch_size,
        monitor=monitor,
        monitor_every=monitor_every,
      ),
      checkpoint.save_hook(
        manager, batches, every=checkpoint_every, last=num_steps
      ),
    ],
  )
  manager.close()
  return state


def metrics_file(folder: epath.PathLike, label: str) -> epath.Path:
  """Returns where a run's metrics lie."""
  return epath.Path(folder) / f"{label}_metrics.jsonl"
