"""A training run that can be killed and started again."""

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from flax.serialization import to_state_dict

from synthjax.config.schema import Count, Whole
from synthjax.runtime import mesh as meshes
from synthjax.runtime import processes
from synthjax.training import checkpoint, loop, metrics
from synthjax.training.loop import Objective

TENSORBOARD = "tensorboard"  # --logdir, in the workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """Fields of every training that change nothing of what it computes.

  A block of a training inherits them. They are no part of a specification, so
  that a run goes on with other ones; see `artifacts.NOT_OF_THE_RESULT`.
  """

  log_every: Whole = 50  # steps between rows of metrics; 0: the last step
  checkpoint_every: Count = 1_000  # steps between checkpoints
  num_workers: Whole = 0  # processes that read; 0 reads in this one
  fsdp: Count = 1  # devices that share one copy of the state between them


def train(
  objective: Objective,
  dataset: Any,
  fields: Loop,
  *,
  folder: epath.PathLike,
  label: str,
  num_steps: int,
  batch_size: int,
  seed: int,
  monitor: metrics.Monitor | None = None,
  monitor_every: int = 0,
) -> Any:
  """Trains to the end, from the newest checkpoint if there is one.

  With several processes, all call it together, on a folder that they share. The
  same training goes on with more devices or processes, or fewer, and with
  another `fsdp`: from the same state and with the same global batches.

  Args:
    objective: what is trained.
    dataset: of `data.pipeline`: this process's share of each global batch.
    fields: of the block of the training.
    folder: of the task, gets `<label>_checkpoints/` and
      `<label>_metrics.jsonl`. Beside it, in the workdir, lies `tensorboard/`,
      with a folder for each task and label: its files hold times, and are
      not part of what a task leaves.
    label: of this run within its folder.
    num_steps: of the whole training.
    batch_size: over all processes, for the rate that is shown.
    seed: of the first weights and of the steps.
    monitor: state -> numbers, which get rows of their own among the metrics;
      see `metrics.progress_hook`. Training is the same with it and without.
    monitor_every: steps between its calls; it is called at the end as well.

  Returns:
    The last state, on the devices; `mesh.fetch` brings its arrays here.

  Raises:
    UserError: when a metric or the state is not finite, the batch or `fsdp`
      does not fit the devices, or no checkpoint can be read.
    SystemExit: of code `processes.PREEMPTED`, when SIGTERM has ended the run
      between two steps; it is saved then.
  """
  folder, fsdp = epath.Path(folder), fields.fsdp
  init_rng, rng = jax.random.split(jax.random.key(seed))
  example = dataset.example()
  meshes.check_batch(
    meshes.make_mesh(fsdp),
    len(jax.tree.leaves(example)[0]) * jax.process_count(),
    field="batch_size",
  )
  manager = checkpoint.open_manager(folder / f"{label}_checkpoints")
  outline = loop.outline(objective, example, init_rng, fsdp=fsdp)
  state = checkpoint.restore(manager, outline)
  if state is None:
    state = loop.start(objective, example, init_rng, fsdp=fsdp)
  first_step = int(state.step)
  with contextlib.closing(manager), processes.stop_signal() as stop:
    return loop.fit(
      objective,
      state,
      dataset.start_at(first_step),
      num_steps=num_steps,
      rng=rng,
      # Save last, so that no checkpoint is newer than the metrics.
      hooks=[
        metrics.progress_hook(
          metrics_file(folder, label),
          label=label,
          every=fields.log_every,
          num_steps=num_steps,
          first_step=first_step,
          batch_size=batch_size,
          monitor=monitor,
          monitor_every=monitor_every,
          kept=lambda: checkpoint.newest(manager),
          tensorboard=folder.parent / TENSORBOARD / folder.name / label,
          parameters=_parameters(objective, outline),
        ),
        checkpoint.save_hook(
          manager,
          label=label,
          every=fields.checkpoint_every,
          last=num_steps,
          stop=stop,
        ),
      ],
      fsdp=fsdp,
    )


def _parameters(objective: Objective, outline: Any) -> str:
  """Lists the trained parameters: names, shapes and sizes."""
  trained = to_state_dict(getattr(outline, objective.trained))
  if not isinstance(trained, dict):
    trained = {"weights": trained}
  return parameter_overview.get_parameter_overview(
    trained.get("params", trained), include_stats=False
  )


def count_rows(folder: epath.PathLike, labels: Iterable[str]) -> dict[str, int]:
  """Returns the files of the metrics of runs, with their rows."""
  files = [metrics_file(folder, label) for label in labels]
  return {file.name: len(metrics.read_rows(file)) for file in files}


def metrics_file(folder: epath.PathLike, label: str) -> epath.Path:
  """Returns where a run's metrics lie."""
  return epath.Path(folder) / f"{label}_metrics.jsonl"
