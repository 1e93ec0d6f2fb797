"""Orbax checkpoints that hold the state and the input's place together."""

from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath

from synthjax.errors import UserError
from synthjax.train.loop import Hook


def open_manager(folder: epath.PathLike, *, keep: int = 2) -> Any:
  """Opens the checkpoints of a folder, which is made if needed.

  Args:
    folder: of one training run.
    keep: how many of the newest stay.
  """
  import orbax.checkpoint as ocp

  folder = epath.Path(folder).resolve()
  folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
  return ocp.CheckpointManager(folder, options=options)


def restore(manager: Any, state: Any, batches: Iterator) -> Any:
  """Returns the newest readable state, and winds `batches` to its place.

  Args:
    manager: of `open_manager`.
    state: what a fresh start would use; returned where nothing was saved.
    batches: a Grain iterator.

  Raises:
    UserError: when every checkpoint is damaged, or of another model.
  """
  import orbax.checkpoint as ocp
  from grain import checkpoint as grain_checkpoint

  problems = []
  for step in sorted(manager.all_steps(), reverse=True):
    try:
      restored = manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(state),
          data=grain_checkpoint.CheckpointRestore(batches),
        ),
      )
    except Exception as error:  # Orbax raises a dozen kinds for damage
      problems.append(f"step {step}: {type(error).__name__}: {error}"[:300])
      logging.warning("Checkpoint of step %d cannot be read: %s", step, error)
      continue
    logging.info("Resumed from step %d.", step)
    return restored["state"]
  if problems:
    raise UserError(
      f"No checkpoint in {manager.directory} can be read:\n  "
      + "\n  ".join(problems)
      + "\nEither the files are damaged or the model has changed since. Put "
      "the old settings back, or choose another workdir."
    )
  return state


def save_hook(
  manager: Any, batches: Iterator, *, every: int, last: int
) -> Hook:
  """Saves every so many steps, and at step `last`."""
  import orbax.checkpoint as ocp
  from grain import checkpoint as grain_checkpoint

  def hook(step: int, state: Any, metrics: dict) -> None:
    del metrics
    if step % every and step != last:
      return
    manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=grain_checkpoint.CheckpointSave(batches),
      ),
    )
    # The next step donates the state's buffers.
    jax.block_until_ready(state)
    manager.wait_until_finished()

  return hook
