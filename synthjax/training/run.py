"""A training run that can be killed and started again."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from clu import parameter_overview
from etils import epath
from flax.serialization import to_state_dict

from synthjax.config.schema import Count, Whole
from synthjax.runtime import atomic, buckets, memory, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.training import loggers, loop, metrics
from synthjax.training.loggers import INSTALLED
from synthjax.training.loop import Hook, Objective
from synthjax.training.metrics import finite

_CHECKPOINTS = "_checkpoints"  # ends the folders of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """Fields of every training that change nothing of what it computes.

  A block of a training inherits them. They are no part of a specification, so
  that a run goes on with other ones; see `specifications.NOT_OF_THE_RESULT`.
  """

  log_every: Whole = 50  # steps between rows of metrics; 0: the last step
  checkpoint_every: Count = 1_000  # steps between checkpoints
  fsdp: Count = 1  # devices that share one copy of the state between them
  # Of `loggers.LOGGERS`, as a tuple or "tensorboard,wandb".
  loggers: Annotated[str | tuple[str, ...], INSTALLED] = "tensorboard"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostLoop(Loop):
  """Fields of a training whose batches the host reads."""

  # Processes that read; 0 reads in this one. By default as many as the devices
  # need and the cores allow, none on a CPU; see `loader.choose_workers`.
  num_workers: Whole | None = None


class Split(NamedTuple):
  """What is split over the devices."""

  field: str  # of the block of the training
  count: int  # over all devices


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
  rngs: jax.Array | None = None,
  split: Split | None = None,
  held: Any = (),
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
      `<label>_metrics.jsonl`. What `fields.loggers` write lies beside it, in
      the workdir: it holds times, and is not part of what a task leaves.
    label: of this run within its folder.
    num_steps: of the whole training.
    batch_size: over all processes.
    seed: of the first weights and of the steps.
    rngs: that an objective starts from in place of a key of the seed.
    split: what the devices share out, if not `batch_size` rows.
    held: arrays that lie on the devices meanwhile, beside the state.
    monitor: state -> numbers, which get rows of their own among the metrics;
      see `metrics.progress_hook`. Training is the same with it and without.
    monitor_every: steps between its calls; it is called at the end as well.

  Returns:
    The last state, on the devices; `mesh.fetch` brings its arrays here.

  Raises:
    UserError: when a metric or the state is not finite, the batch or `fsdp`
      does not fit the devices or their memory, or no checkpoint can be read.
    SystemExit: of the code of `processes.stop_signal`, when SIGTERM or Ctrl-C
      has ended the run between two steps; it is saved then.
  """
  folder, fsdp = epath.Path(folder), fields.fsdp
  init_rng, rng = jax.random.split(jax.random.key(seed))
  init_rng = init_rng if rngs is None else rngs
  example = dataset.example()
  split, mesh = split or Split("batch_size", batch_size), meshes.make_mesh(fsdp)
  meshes.check_batch(mesh, split.count, field=split.field)
  manager = open_manager(folder / f"{label}{_CHECKPOINTS}")
  outline = loop.outline(objective, example, init_rng, fsdp=fsdp)
  state = restore(manager, outline, resizes=objective.resizes)
  if state is None:
    state = loop.start(objective, example, init_rng, fsdp=fsdp)
  first_step = int(state.step)
  with (
    contextlib.closing(manager),
    processes.stop_signal() as stop,
    _logger(fields, folder, label, first_step) as logger,
  ):
    if logger:
      table = _parameters(objective, outline)
      logger.text("parameters", f"```\n{table}\n```")
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
          kept=lambda: newest(manager),
          logger=logger,
        ),
        save_hook(
          manager,
          label=label,
          every=fields.checkpoint_every,
          last=num_steps,
          stop=stop,
        ),
      ],
      fsdp=fsdp,
      guard=lambda step, state: memory.checked(
        step,
        (state, held),
        batch_size=split.count // mesh.size,
        field=f"config.{folder.name}.{split.field}",
        devices=mesh.size,
      ),
    )


def _logger(
  fields: Loop, folder: epath.Path, label: str, first_step: int
) -> contextlib.AbstractContextManager[loggers.Logger | None]:
  """Opens the loggers of the first process; None is of the others."""
  if not processes.is_first():
    return contextlib.nullcontext()
  settings = {
    field.name: value
    for field in dataclasses.fields(fields)
    if isinstance(value := getattr(fields, field.name), int | float | str)
  }
  name = f"{folder.name}/{label}"
  run = loggers.Run(folder.parent, name, first_step, settings)
  return loggers.opened(fields.loggers, run)


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


# --- checkpoints (Orbax), which any devices restore ---------------------------
# The input needs none of its own: batch i is that of step i, and
# `data.pipeline.loader.Batches` starts at any of them, with any number of
# processes.


def open_manager(folder: epath.PathLike, *, keep: int = 2) -> Any:
  """Opens the checkpoints of a folder, which is made if needed.

  Args:
    folder: of one training run; with several processes, one that all share.
    keep: how many of the newest stay.
  """
  import orbax.checkpoint as ocp

  folder = epath.Path(folder)
  if not buckets.is_bucket(folder):
    folder = folder.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
  return ocp.CheckpointManager(folder, options=options)


def remove_checkpoints(folder: epath.PathLike, label: str = "*") -> None:
  """Removes the checkpoints of a run whose result is saved; "*" is of all.

  With several processes, all may call it.
  """
  if processes.is_first():
    for path in epath.Path(folder).glob(f"{label}{_CHECKPOINTS}"):
      path.rmtree()


def restore(manager: Any, outline: Any, *, resizes: bool = False) -> Any | None:
  """Returns the newest readable state, None where nothing was saved.

  Damaged checkpoints that are newer are removed: the training comes to their
  steps again, and Orbax saves no step before the newest that it knows of.

  Args:
    manager: of `open_manager`.
    outline: of `loop.outline`: the shapes, and where the arrays shall lie. They
      may have lain elsewhere, on more devices or fewer.
    resizes: whether arrays may have had other sizes; what they lack becomes 0,
      and the last rows that are too many are dropped.

  Raises:
    UserError: when every checkpoint is damaged, or of another model.
  """
  import orbax.checkpoint as ocp

  problems = {}
  for step in sorted(manager.all_steps(), reverse=True):
    restored, problem = None, ""
    try:
      how = ocp.args.StandardRestore(outline, strict=not resizes)
      restored = manager.restore(step, args=ocp.args.Composite(state=how))
    except Exception as error:  # Orbax raises a dozen kinds for damage
      problem = f"{type(error).__name__}: {error}"[:300]
      logging.warning("Checkpoint of step %d cannot be read: %s", step, error)
    if _all_have(restored is not None):
      logging.info("Resumed from step %d.", step)
      for damaged in problems:
        manager.delete(damaged)
      if problems and processes.is_first():
        listed = ", ".join(map(str, problems))
        say(
          f"{manager.directory}: the checkpoint of step {listed} could not be "
          f"read and was removed; going on from step {step}."
        )
      return restored["state"]
    problems[step] = problem or "another process cannot read it"
  if problems:
    raise UserError(
      f"No checkpoint in {manager.directory} can be read:\n  "
      + "\n  ".join(f"step {step}: {why}" for step, why in problems.items())
      + "\nEither the files are damaged or the model has changed since. Put "
      "the old settings back, or choose another workdir."
    )
  return None


def newest(manager: Any) -> str:
  """Says which checkpoint a run that went wrong has left."""
  step = manager.latest_step()
  if step is None:
    return "No checkpoint was saved before it."
  return (
    f"The last checkpoint, of step {step} in {manager.directory}, is from "
    "before it and holds finite numbers."
  )


def save_hook(
  manager: Any,
  *,
  label: str,
  every: int,
  last: int,
  stop: Callable[[int], int] = lambda step: 0,
) -> Hook:
  """Saves every so many steps, at step `last`, and where the run is stopped.

  Args:
    manager: of `open_manager`.
    label: of the run, for people.
    every: steps.
    last: step of the run.
    stop: of `processes.stop_signal`.

  Returns:
    A hook, which raises UserError about a full disk or rather than save what is
    not finite, and SystemExit, of the code of `stop`, once a stopped run is
    saved.
  """

  def hook(step: int, state: Any, metrics: dict) -> None:
    stopped = stop(step)
    if step % every and step != last and not stopped:
      return
    # The loss of this step does not show that its update was not finite.
    numbers = metrics | {"the state": _sum_of_zeros(state)}
    finite(label, step, numbers, kept=lambda: newest(manager))
    _save(manager, step, state)
    if stopped:
      if processes.is_first():
        say(
          f"{label}: stopped by a signal, and saved at step {step}/{last}; "
          "the same command goes on from there."
        )
      raise SystemExit(stopped)

  return hook


def _save(manager: Any, step: int, state: Any) -> None:
  """Saves a state, or leaves nothing of it and raises."""
  import orbax.checkpoint as ocp

  try:
    saved = manager.save(
      step, args=ocp.args.Composite(state=ocp.args.StandardSave(state))
    )
    # The next step donates the state's buffers.
    jax.block_until_ready(state)
    manager.wait_until_finished()
  except Exception as error:
    folder = epath.Path(manager.directory)
    if processes.is_first() and not buckets.is_bucket(folder):
      for half in folder.glob(f"{step}.orbax-checkpoint-tmp*"):
        shutil.rmtree(half, ignore_errors=True)
    if atomic.says_full(error):
      what = f"the checkpoint of step {step} was not saved"
      raise atomic.disk_full(folder, what) from error
    raise
  if not saved:
    raise UserError(
      f"The checkpoint of step {step} was not saved in {manager.directory}, "
      f"which has steps {sorted(manager.all_steps())}: another run seems to "
      "write there. Stop it, or give another --workdir."
    )


@jax.jit
def _sum_of_zeros(state: Any) -> jax.Array:
  """Returns 0 if all numbers of a state are finite, NaN otherwise."""
  floats = [
    x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return sum((jnp.sum(x * 0, dtype=jnp.float32) for x in floats), 0.0)


def _all_have(mine: bool) -> bool:
  """Returns whether every process has it."""
  if jax.process_count() == 1:
    return mine
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.array(mine))))
