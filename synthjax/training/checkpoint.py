"""Saves and restores the state of a training (Orbax), on any devices.

The input needs none of its own: batch i is that of step i, and
`data.pipeline.loader.Batches` starts at any of them, with any number of
processes.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from synthjax.runtime import atomic, processes
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.training.loop import Hook
from synthjax.training.metrics import finite


def open_manager(folder: epath.PathLike, *, keep: int = 2) -> Any:
  """Opens the checkpoints of a folder, which is made if needed.

  Args:
    folder: of one training run; with several processes, one that all share.
    keep: how many of the newest stay.
  """
  import orbax.checkpoint as ocp

  folder = epath.Path(folder)
  if "://" not in os.fspath(folder):
    folder = folder.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
  return ocp.CheckpointManager(folder, options=options)


def restore(manager: Any, outline: Any) -> Any | None:
  """Returns the newest readable state, None where nothing was saved.

  Damaged checkpoints that are newer are removed: the training comes to their
  steps again, and Orbax saves no step before the newest that it knows of.

  Args:
    manager: of `open_manager`.
    outline: of `loop.outline`: the shapes, and where the arrays shall lie. They
      may have lain elsewhere, on more devices or fewer.

  Raises:
    UserError: when every checkpoint is damaged, or of another model.
  """
  import orbax.checkpoint as ocp

  problems = {}
  for step in sorted(manager.all_steps(), reverse=True):
    restored, problem = None, ""
    try:
      restored = manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(outline))
      )
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
  stop: Callable[[int], bool] = lambda step: False,
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
    not finite, and SystemExit, of code `processes.PREEMPTED`, once a stopped
    run is saved.
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
      raise SystemExit(processes.PREEMPTED)

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
    if processes.is_first() and "://" not in os.fspath(folder):
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
