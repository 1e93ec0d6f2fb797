"""Joins, synchronises and stops several processes that train as one."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax

from synthjax.runtime import commands
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError

# The exit code of a process that SIGTERM ended, 128 + 15, in shells: the run is
# saved, and the same command goes on.
PREEMPTED = 143
_PATIENCE = 7 * 24 * 3600  # seconds that processes wait for one another
_BARRIERS = itertools.count()
_BY_HAND = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
  """Joins this process with the others; before any use of a device.

  On a TPU pod, under Slurm or Open MPI and on Kubernetes, JAX finds the others
  by itself. Elsewhere each process has in its environment
  JAX_COORDINATOR_ADDRESS, the host and port of the first one, JAX_NUM_PROCESSES
  and JAX_PROCESS_ID, from 0.

  Raises:
    UserError: when the environment describes no processes, or makes no sense.
  """
  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  given = {name: os.environ.get(name) for name in _BY_HAND}
  try:
    count, index = (x if x is None else int(x) for x in given.values())
    jax.distributed.initialize(address, count, index)
  except ValueError as error:
    given = {"JAX_COORDINATOR_ADDRESS": address, **given}
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    raise UserError(
      f"Cannot join the other processes ({error}). The environment has "
      f"{listed}. On a TPU pod, under Slurm, Open MPI or Kubernetes leave all "
      "three out; elsewhere set all three in each process: HOST:PORT of the "
      "first one, how many there are, and which one this is, from 0."
    ) from error


def is_first() -> bool:
  """Returns whether this process writes and prints for all."""
  return jax.process_index() == 0


def wait_for_all(place: str) -> None:
  """Waits until every process has come to the place of this name.

  A process at another place is an error.
  """
  if jax.process_count() > 1 and not meshes.works_alone():
    from orbax.checkpoint import multihost

    # By JAX's coordinator: a collective of the devices gives up, or hangs, when
    # one process comes minutes after another. Each barrier needs a new name.
    multihost.sync_global_processes(
      f"{place} {next(_BARRIERS)}",
      timeout=_PATIENCE,
      processes=set(range(jax.process_count())),
    )


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], int]]:
  """Yields step -> exit code, to be called after each step; 0 is to go on.

  SIGTERM, which announces a preemption, and Ctrl-C ask to save and stop. A
  second one ends the process at once. Where several processes have joined, JAX
  passes the SIGTERM of one on to all, which get it at the same step, a little
  later. If that step comes after the last one of a run, the signal is lost.
  """
  if _joined():
    from jax.experimental import multihost_utils

    at = multihost_utils.reached_preemption_sync_point
    yield lambda step: PREEMPTED if at(step) else 0
    return
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: 0  # only the main thread may take signals
    return
  received = [0]
  with commands.on_stop(received.append):
    yield lambda step: received[-1] and 128 + received[-1]
  if received[-1]:  # after the last step: the run is to stop all the same
    signal.raise_signal(received[-1])


def _joined() -> bool:
  return jax.distributed.is_initialized() and not meshes.works_alone()
