"""A worker of Ray: a process that has loaded the networks of a task."""

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from synthjax.runtime import cache, locks, progress, timings
from synthjax.runtime.engine import Work


class Reply(NamedTuple):
  """What a worker did, where, and what it has measured of itself so far."""

  value: Any
  devices: int
  device: str  # their kind
  measured: dict[str, Any]  # of `timings.note`


class Worker:
  """An actor, whose methods return a `Reply`.

  Args:
    task: the dotted name of its module.
    fields: of the config.
    workdir: of the run.
    holding: the note in the workdir; see `locks.holder`.
  """

  def __init__(
    self,
    task: str,
    fields: Mapping[str, Any],
    workdir: str,
    holding: Mapping[str, Any],
  ):
    self._task, self._fields = task, fields
    self._workdir, self._holding = workdir, holding
    self._works: dict[str, Work] | None = None

  def begin(self) -> Reply:
    """Begins each folder; runs a task that has no parts.

    Returns:
      Folder, rows and parts_per_call of each `Work`; None if the task has no
      parts.
    """
    module, works = self._module(), None
    if hasattr(module, "prepare"):
      self._load()
      for work in self._works.values():
        work.begin()
      works = [
        (folder, dict(work.rows), work.parts_per_call)
        for folder, work in self._works.items()
      ]
    else:
      module.run(ConfigDict(self._fields), self._workdir)
    return _reply(works)

  def load(self) -> Reply:
    """Loads the networks, once: here, as Ray hides an error of __init__."""
    self._load()
    return _reply()

  def do(self, folder: str, parts: Sequence[int]) -> Reply:
    """Does the parts that have no file yet; some may, of a lost worker."""
    self._load()
    progress.mute()  # the driver counts the parts of all workers
    work = self._works[folder]
    names = list(work.rows)
    work.do(i for i in parts if not (work.folder / names[i]).exists())
    return _reply()

  def finish(self, folder: str) -> Reply:
    """Completes a folder, unless a lost worker has done so."""
    self._load()
    progress.mute(False)
    if work := self._works.get(folder):
      work.finish()
    return _reply()

  def _load(self) -> None:
    if self._works is None:
      works = self._module().prepare(ConfigDict(self._fields), self._workdir)
      self._works = {os.fspath(work.folder): work for work in works}

  def _module(self) -> Any:
    locks.check_seen(self._workdir, self._holding)
    cache.use_compilation_cache()
    logging.set_verbosity(logging.WARNING)  # Orbax logs every step
    return importlib.import_module(self._task)


def count_devices() -> int:
  """Returns the number of this process's devices."""
  import jax

  return jax.local_device_count()


def _reply(value: Any = None) -> Reply:
  import jax

  kind = jax.local_devices()[0].device_kind
  return Reply(value, count_devices(), kind, timings.noted())
