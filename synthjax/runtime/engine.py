"""Work in parts: done here, by several commands, or by the workers of Ray.

A task that can be shared has `prepare(config, workdir)`, which loads what it
needs and yields `Work` for each folder that is not complete. The file of a part
is the same whoever does it, and however often. `here` does them in this
process and in others of the run, or of commands with --shared, which locks keep
apart. `on_ray` has them done by the actors of a Ray cluster. Each loads the
networks once; Ray starts them again, elsewhere if need be, and repeats the
parts that a lost one had in hand.
"""

import collections
import contextlib
import importlib
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from synthjax.runtime import cache, locks, progress
from synthjax.runtime.errors import UserError

# How often a call is repeated: a shard that kills each worker, by its memory,
# must not do so forever. To lose a machine takes some ten of them, until Ray
# has noticed it.
_ATTEMPTS = 100
_LOOK = 5.0  # seconds between two looks at what the cluster has
_MOST = 1000  # workers that a growing cluster is asked for
_CALLS = 4  # of each worker, at least, to which the parts that are left spread


class Work(NamedTuple):
  """Parts of a folder, which may be done in any order and by anyone."""

  folder: epath.Path
  rows: Mapping[str, int]  # images of each part, by its file, in order
  # Does some parts, and returns when their files are there.
  do: Callable[[Iterable[int]], None]
  # Completes the folder, once all files are there; one process does it.
  finish: Callable[[], None]
  # Is called before the first part, by one process.
  begin: Callable[[], None] = lambda: None
  most: int = 1  # parts that a worker is given at once, where it reads ahead


def whole(folder: epath.Path, finish: Callable[[], None]) -> Work:
  """Returns work that has no parts: one process does all of it."""
  return Work(folder, {}, lambda parts: None, finish)


def here(works: Iterable[Work], *, alone: bool = False) -> None:
  """Does all parts that no other process does, and completes the folders.

  Args:
    works: of `prepare`.
    alone: needs no locks, as no other process does these works.
  """
  import jax

  process = jax.process_index(), jax.process_count()
  for work in works:
    if process[0] == 0:
      work.begin()
    if alone:
      work.do(locks.missing(work.folder, list(work.rows)))
    else:
      work.do(locks.share(work.folder, list(work.rows), process=process))
    work.finish()


# --- on Ray -----------------------------------------------------------------


def choose(engine: str | None, **others: bool) -> None:
  """Prepares this process to hand work to an engine, before it uses a device.

  Args:
    engine: "ray"; None does nothing.
    **others: flags that exclude an engine, and whether they are given.

  Raises:
    UserError: if the engine is not installed, or another flag is given.
  """
  if engine is None:
    return
  if given := [f"--{name}" for name, value in others.items() if value]:
    raise UserError(
      f"--engine={engine} and {' and '.join(given)} both share out the work: "
      "give one of them."
    )
  try:
    import ray  # noqa: F401
  except ImportError as error:
    raise UserError(
      '--engine=ray needs Ray, on each machine: pip install "synthjax[ray]"'
    ) from error
  import jax

  # A network here would take memory from the worker on the same device.
  jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def connected(engine: str | None) -> Iterator[None]:
  """Connects with the Ray cluster that is there, or starts one here.

  Args:
    engine: "ray"; None does nothing.

  Raises:
    UserError: if RAY_ADDRESS names a cluster that cannot be reached.
  """
  if engine is None:
    yield
    return
  import ray
  from ray.autoscaler.sdk import request_resources

  before = signal.getsignal(signal.SIGTERM)  # Ray sets one of its own
  try:
    try:
      ray.init(address="auto", logging_level="WARNING")
    except ConnectionError as error:
      if address := os.environ.get("RAY_ADDRESS"):
        raise UserError(
          f"RAY_ADDRESS={address} cannot be reached ({error}): give the "
          "address of a cluster that runs, or unset it to start one here."
        ) from error
      progress.say("ray: there is no cluster here, so one starts here")
      os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
      ray.init(
        address="local", logging_level="WARNING", include_dashboard=False
      )
    signal.signal(signal.SIGTERM, before)
    yield
    # Else a cluster that has grown for this run stays as it is. An error, after
    # which the run is resumed as a rule, leaves it so.
    request_resources(bundles=[])
  finally:
    ray.shutdown()  # ends the workers too


def on_ray(task: str, fields: Mapping[str, Any], workdir: str) -> dict:
  """Runs a task on the cluster: its parts on all of it, or all on one worker.

  Args:
    task: the dotted name of its module.
    fields: of the config.
    workdir: which all machines of the cluster have.

  Returns:
    `devices`, `device` and `processes`, for the record of the run.

  Raises:
    UserError: of the task; or about a cluster without a place for a worker.
    ray.exceptions.RayError: another error of a worker, with its traceback.
  """
  import ray
  from ray.autoscaler.sdk import request_resources

  actor, workers = ray.remote(Worker), {}
  label = task.rpartition(".")[2]

  def hire(most: int) -> None:
    """Adds workers for rooms that none has, and asks for more rooms."""
    there = rooms()
    if there:  # a cluster that can grow does so, as far as it may
      kind, amount = max(there, key=there.get)
      request_resources(bundles=[{kind: amount}] * min(most, _MOST))
    new = there - collections.Counter(workers.values())
    for room in itertools.islice(new.elements(), most):
      hired = actor.options(
        **_options(*room), max_restarts=-1, max_task_retries=_ATTEMPTS
      ).remote(task, fields, workdir)
      workers[hired] = room

  hire(1)
  if not workers:
    raise UserError(
      "The Ray cluster has no GPU, no TPU and no CPU for a worker: start a "
      "machine that has (of KubeRay, minReplicas: 1 or more), and run the "
      "command again."
    )
  (lead,) = workers
  devices, device, works = _get(lead.begin.remote(), f"{label}: at its start")
  most = 1
  for folder, rows, at_once in works or ():
    most = max(most, _do_all(label, folder, rows, at_once, workers, hire))
    _get(next(iter(workers)).finish.remote(folder), f"{label}: at its end")
  for worker in workers:
    ray.kill(worker)
  return {"devices": most * devices, "device": device, "processes": most}


def _do_all(
  label: str,
  folder: str,
  rows: Mapping[str, int],
  at_once: int,
  workers: dict[Any, tuple[str, float]],
  hire: Callable[[int], None],
) -> int:
  """Has the workers do all parts of a folder, and keeps one of them.

  Args:
    label: of the progress.
    folder: of `Work`, as are rows and at_once.
    rows: images of each part.
    at_once: parts of a call, at most.
    workers: each, and its room; others come and go while it lasts.
    hire: adds so many at most, if there are rooms.

  Returns:
    How many workers there were at most.
  """
  import ray

  names, images = list(rows), list(rows.values())
  left = collections.deque(locks.missing(folder, names))
  done = sum(images) - sum(images[part] for part in left)
  count_on = progress.counter(label, sum(images), done=done, watched=False)
  idle, busy, looked, most = [*workers], {}, -math.inf, 1
  while left or busy:
    if left and time.monotonic() - looked > _LOOK:
      known, looked = set(workers), time.monotonic()
      hire(len(left))
      # Parts are for those that have found a place, and loaded.
      busy |= {new.load.remote(): (new, []) for new in workers.keys() - known}
    while idle and left:
      size = math.ceil(len(left) / len(workers) / _CALLS)
      parts = [left.popleft() for _ in range(min(size, at_once))]
      worker = idle.pop()
      busy[worker.do.remote(folder, parts)] = worker, parts
    for ref in ray.wait(list(busy), timeout=_LOOK)[0]:
      worker, parts = busy.pop(ref)
      what = ", ".join(names[part] for part in parts) or "as it loaded"
      _get(ref, f"{label}: {what}")
      idle.append(worker)
      count = len(idle) + len(_at_work(busy))
      if parts:
        here = f"{count} worker{'s' * (count > 1)}"
        count_on(sum(images[part] for part in parts), here)
      most = max(most, count)
    if not left:  # makes room for one that lost its machine with its parts
      for ref in busy.keys() - _at_work(busy):
        del workers[busy.pop(ref)[0]]  # Ray ends one that nobody holds
      while len(idle) > (not busy):
        worker = idle.pop()
        del workers[worker]
        ray.kill(worker)
  return most


def _at_work(busy: Mapping[Any, tuple[Any, list[int]]]) -> set:
  """Returns the calls that do parts; the others load networks."""
  return {call for call, (_, parts) in busy.items() if parts}


def rooms() -> collections.Counter[tuple[str, float]]:
  """Returns what a worker takes, ("GPU", 1), -> how many have a place.

  One has a GPU, or all chips of a TPU host. Where there are neither, it has a
  machine, as JAX uses all its cores.
  """
  import ray

  machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
  found = collections.Counter()
  for has in machines:
    found["GPU", 1] += int(has.get("GPU", 0))
    found["TPU", has.get("TPU", 0)] += 1
  del found["TPU", 0]
  if not +found:
    found = collections.Counter(("CPU", has.get("CPU", 0)) for has in machines)
    del found["CPU", 0]
  return +found


def _options(kind: str, amount: float) -> dict[str, Any]:
  if kind == "CPU":
    return {"num_cpus": amount}
  # Else Ray would ask for a CPU besides, which a machine need not offer.
  if kind == "GPU":
    return {"num_cpus": 0, "num_gpus": amount}
  return {"num_cpus": 0, "resources": {kind: amount}}


def _get(ref: Any, what: str) -> Any:
  """Returns what a worker does; raises its error as if it were of here."""
  import ray

  try:
    return ray.get(ref)
  except ray.exceptions.RayError as error:
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError | OSError):
      raise cause from error
    error.add_note(
      f"This was {what}. Ray starts a worker again that was killed, up to "
      f"{_ATTEMPTS} times for the same images; what is complete is kept."
    )
    raise


class Worker:
  """An actor of Ray: a process that has loaded the networks of a task.

  Args:
    task: see `on_ray`, as for the others.
    fields: of the config.
    workdir: of the run.
  """

  def __init__(self, task: str, fields: Mapping[str, Any], workdir: str):
    self._task, self._fields, self._workdir = task, fields, workdir
    self._works: dict[str, Work] | None = None

  def begin(self) -> tuple[int, str, list | None]:
    """Begins each folder; runs a task that has no parts.

    Returns:
      The number of devices and their kind; folder, rows and `most` of each
      `Work`; None if the task has no parts.
    """
    import jax

    module, works = self._module(), None
    if hasattr(module, "prepare"):
      self.load()
      for work in self._works.values():
        work.begin()
      works = [
        (folder, dict(work.rows), work.most)
        for folder, work in self._works.items()
      ]
    else:
      module.run(ConfigDict(self._fields), self._workdir)
    return jax.local_device_count(), jax.devices()[0].device_kind, works

  def do(self, folder: str, parts: Sequence[int]) -> None:
    """Does the parts that have no file yet; some may, of a lost worker."""
    self.load()
    progress.mute()  # the command counts the parts of all workers
    work = self._works[folder]
    names = list(work.rows)
    work.do(i for i in parts if not (work.folder / names[i]).exists())

  def finish(self, folder: str) -> None:
    """Completes a folder, unless a lost worker has done so."""
    self.load()
    progress.mute(False)
    if work := self._works.get(folder):
      work.finish()

  def load(self) -> None:
    """Loads the networks, once: here, as Ray hides an error of __init__."""
    if self._works is None:
      works = self._module().prepare(ConfigDict(self._fields), self._workdir)
      self._works = {os.fspath(work.folder): work for work in works}

  def _module(self) -> Any:
    locks.check_seen(self._workdir)
    cache.use_compilation_cache()
    logging.set_verbosity(logging.WARNING)  # Orbax logs every step
    return importlib.import_module(self._task)
