"""Runs tasks on the workers of a Ray cluster.

The process of the command is the driver, and uses no device. Each worker is an
actor that has loaded the networks of a task. Ray starts a lost one again,
elsewhere if need be, and repeats the call that it was at. `engine.Work` says
what parts there are; a task without parts runs whole on one worker.
"""

import collections
import contextlib
import itertools
import math
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from synthjax.runtime import locks, progress, ray_worker, timings
from synthjax.runtime.errors import UserError
from synthjax.runtime.ray_worker import Reply, Worker

# How often a call is repeated: a shard that kills each worker, by its memory,
# must not do so forever. To lose a machine takes some ten of them, until Ray
# has noticed it.
_MAX_RETRIES = 100
_LOOK_EVERY = 5.0  # seconds between two looks at what the cluster has
_MAX_WORKERS = 1000  # that a growing cluster is asked for
_CALLS_EACH = 4  # of each worker, at least, to which the parts left spread
# Seconds without any place for a worker, after which a run stops: a machine
# that a provider took back may be replaced by then.
_PATIENCE = 1800.0

Slot = tuple[str, float]  # what a worker takes: ("GPU", 1), ("TPU", 4.0)
_ACCELERATORS = ("GPU", "TPU")


def set_up_driver(engine: str | None, **others: bool) -> None:
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
def connected(engine: str | None) -> "Iterator[Cluster | None]":
  """Yields the Ray cluster that is there, or one that it starts here.

  Args:
    engine: "ray"; None yields None.

  Raises:
    UserError: if RAY_ADDRESS names a cluster that cannot be reached, or no
      machine of the cluster has a place for a worker.
  """
  if engine is None:
    yield None
    return
  import ray

  before = signal.getsignal(signal.SIGTERM)  # Ray sets one of its own
  cluster = None
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
    cluster = Cluster()
    yield cluster
  finally:
    if cluster:
      cluster.ask_for_no_more()
    ray.shutdown()  # ends the workers too


def slots(accelerated: bool | None = None) -> collections.Counter[Slot]:
  """Returns what workers may take, and how many there are of each.

  One takes a GPU, or all chips of a TPU host. Where there are neither, it takes
  a machine, as JAX uses all its cores.

  Args:
    accelerated: whether they are GPUs and TPU hosts, or machines; None is what
      the cluster has.
  """
  import ray

  machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
  found = collections.Counter()
  for has in machines:
    found["GPU", 1] += int(has.get("GPU", 0))
    found["TPU", has.get("TPU", 0)] += 1
  del found["TPU", 0]
  if accelerated or (accelerated is None and +found):
    return +found
  found = collections.Counter(("CPU", has.get("CPU", 0)) for has in machines)
  del found["CPU", 0]
  return +found


class Cluster:
  """A Ray cluster, and the kind of slots that workers take in it.

  A run that began on accelerators does not go on with CPUs when the last one
  leaves: it would take weeks, and the images would differ by single 8-bit
  values. It waits for another one.

  Raises:
    UserError: if there is no slot at all.
  """

  def __init__(self):
    self._empty_since: float | None = None
    self._asked = False  # for machines
    if not (found := slots()):
      raise UserError(
        "The Ray cluster has no GPU, no TPU and no CPU for a worker: start a "
        "machine that has (of KubeRay, minReplicas: 1 or more), and run the "
        "command again."
      )
    self._accelerated = any(kind in _ACCELERATORS for kind, _ in found)

  def slots(self) -> collections.Counter[Slot]:
    """Returns the slots of the kind that the run began with.

    Says when the last one has gone, and when one is back.

    Raises:
      UserError: if there has been none for a long time.
    """
    found, now = slots(self._accelerated), time.monotonic()
    what = "GPU or TPU" if self._accelerated else "machine with CPUs"
    if found and self._empty_since is not None:
      progress.say(f"ray: the cluster has a {what} again; the run goes on")
      self._empty_since = None
    elif not found and self._empty_since is None:
      self._empty_since = now
      progress.say(
        f"ray: no {what} is left in the cluster, with which this run began; it "
        f"waits up to {progress.duration(_PATIENCE)} for another one"
      )
    elif not found and now - self._empty_since > _PATIENCE:
      raise UserError(
        f"The Ray cluster has had no {what} for "
        f"{progress.duration(now - self._empty_since)}, with which this run "
        "began. What is complete is kept: start such a machine, and run the "
        "same command again."
      )
    return found

  def ask_for(self, slot: Slot, count: int) -> None:
    """Asks a cluster that can grow for so many slots."""
    from ray.autoscaler.sdk import request_resources

    self._asked = True
    kind, amount = slot
    request_resources(bundles=[{kind: amount}] * min(count, _MAX_WORKERS))

  def ask_for_no_more(self) -> None:
    """Lets a cluster that has grown for this run shrink again."""
    from ray.autoscaler.sdk import request_resources

    if self._asked:
      self._asked = False
      try:
        request_resources(bundles=[])
      except Exception as error:  # another one must not be hidden by it
        progress.say(f"ray: the request for machines still stands ({error})")

  def count_devices(self) -> int:
    """Returns how many devices a worker has."""
    import ray

    while not (there := self.slots()):
      time.sleep(_LOOK_EVERY)
    slot = max(there, key=there.get)
    if slot[0] == "GPU":
      return 1
    count = ray.remote(ray_worker.count_devices)
    ref = count.options(**_options(*slot)).remote()
    while not ray.wait([ref], timeout=_LOOK_EVERY)[0]:
      self.slots()
    return ray.get(ref)

  def run_task(
    self, task: str, fields: Mapping[str, Any], workdir: str
  ) -> None:
    """Runs a task: its parts on all of the cluster, or all on one worker.

    `timings.note` gets the devices of the workers, and what they measured.

    Args:
      task: the dotted name of its module.
      fields: of the config.
      workdir: which all machines of the cluster have.

    Raises:
      UserError: of the task; or if the last slot has left for long.
      ray.exceptions.RayError: another error of a worker, with its traceback.
    """
    label, team = task.rpartition(".")[2], Team(self, task, fields, workdir)
    works = team.call_one("begin", what=f"{label}: at its start")
    for folder, rows, parts_per_call in works or ():
      team.do_all(label, folder, rows, parts_per_call)
      team.call_one("finish", folder, what=f"{label}: at its end")
    team.end()


class Team:
  """The workers of a task, which come and go.

  Args:
    cluster: where they are.
    task: see `Cluster.run_task`, as for the others.
    fields: of the config.
    workdir: of the run.
  """

  def __init__(
    self, cluster: Cluster, task: str, fields: Mapping[str, Any], workdir: str
  ):
    import ray

    self._cluster, self._actor = cluster, ray.remote(Worker)
    self._arguments = task, fields, workdir, locks.holder(workdir)
    self._slots: dict[Any, Slot] = {}  # of each worker
    self._replies: dict[Any, Reply] = {}  # the last one of each that has loaded
    self._largest: list[Reply] = []  # of the most workers there were at once
    self._rates: dict[Any, float] = {}  # images a second, of each ever

  def end(self) -> None:
    """Ends all workers."""
    for worker in [*self._slots]:
      self._dismiss(worker)

  def call_one(self, method: str, *arguments: Any, what: str) -> Any:
    """Returns what a method of any worker does.

    Another one does it if the first has lost its slot for good.

    Args:
      method: of `Worker`.
      *arguments: of the method.
      what: names the work in the note of an error.
    """
    import ray

    while True:
      while not self._slots and not self._start_workers(1):
        time.sleep(_LOOK_EVERY)
      worker = next(iter(self._slots))
      ref = getattr(worker, method).remote(*arguments)
      while not ray.wait([ref], timeout=_LOOK_EVERY)[0]:
        if self._is_stranded(worker, self._cluster.slots()):
          self._dismiss(worker)
          break
      else:
        value = self._hear(worker, ref, what)
        self._record([worker])
        return value

  def do_all(
    self,
    label: str,
    folder: str,
    rows: Mapping[str, int],
    parts_per_call: int,
  ) -> None:
    """Has the workers do all parts of a folder, and keeps one of them.

    Args:
      label: of the progress.
      folder: of `Work`, as are rows and parts_per_call.
      rows: images of each part.
      parts_per_call: at most.
    """
    import ray

    names, images = list(rows), list(rows.values())
    left = collections.deque(locks.missing(folder, names))
    done = sum(images) - sum(images[part] for part in left)
    count_on = progress.counter(label, sum(images), done=done, watched=False)
    # What each call does: parts, or none while the worker loads networks.
    idle, busy, looked = [*self._slots], {}, -math.inf
    while left or busy:
      if time.monotonic() - looked > _LOOK_EVERY:
        looked = time.monotonic()
        for ref, (worker, parts) in self._stranded(busy):
          del busy[ref]
          left.extendleft(reversed(parts))
          self._dismiss(worker)
        # Parts are for those that have found a slot, and loaded.
        new = self._start_workers(len(left)) if left else []
        busy |= {worker.load.remote(): (worker, []) for worker in new}
      while idle and left:
        size = math.ceil(len(left) / len(self._slots) / _CALLS_EACH)
        parts = [left.popleft() for _ in range(min(size, parts_per_call))]
        worker = idle.pop()
        busy[worker.do.remote(folder, parts)] = worker, parts
      if not busy:  # no slot is there
        time.sleep(_LOOK_EVERY)
        continue
      for ref in ray.wait(list(busy), timeout=_LOOK_EVERY)[0]:
        worker, parts = busy.pop(ref)
        what = ", ".join(names[part] for part in parts) or "as it loaded"
        self._hear(worker, ref, f"{label}: {what}")
        idle.append(worker)
        at_work = [*idle, *(each for each, parts in busy.values() if parts)]
        self._record(at_work)
        if parts:
          count = len(at_work)
          note = f"{count} worker{'s' * (count > 1)}"
          count_on(sum(images[part] for part in parts), note)
      if not left:  # makes room for one that lost its machine with its parts
        for ref in [ref for ref, (_, parts) in busy.items() if not parts]:
          self._dismiss(busy.pop(ref)[0])
        while len(idle) > (not busy):
          self._dismiss(idle.pop())

  def _start_workers(self, most: int) -> list[Any]:
    """Starts workers for slots that none has, and asks for more slots."""
    there = self._cluster.slots()
    if there:  # a cluster that can grow does so, as far as it may
      self._cluster.ask_for(max(there, key=there.get), most)
    free, new = there - collections.Counter(self._slots.values()), []
    for slot in itertools.islice(free.elements(), most):
      options = _options(*slot) | {"max_restarts": -1}
      new.append(
        self._actor.options(**options, max_task_retries=_MAX_RETRIES).remote(
          *self._arguments
        )
      )
      self._slots[new[-1]] = slot
    return new

  def _dismiss(self, worker: Any) -> None:
    import ray

    del self._slots[worker]
    self._replies.pop(worker, None)
    ray.kill(worker)

  def _stranded(self, busy: Mapping[Any, tuple[Any, list[int]]]) -> list:
    """Returns the calls of workers that have lost their slots for good."""
    there = self._cluster.slots()
    return [
      (ref, call)
      for ref, call in busy.items()
      if self._is_stranded(call[0], there)
    ]

  def _is_stranded(self, worker: Any, there: Collection[Slot]) -> bool:
    """Returns whether there are slots, but none as large as a worker's.

    Ray would keep it waiting for ever, with the parts that it has in hand.
    """
    kind, amount = self._slots[worker]
    fits = any(other == kind and size >= amount for other, size in there)
    return bool(there) and not fits

  def _hear(self, worker: Any, ref: Any, what: str) -> Any:
    """Returns what a worker does; raises its error as if it were of here."""
    import ray

    try:
      reply = ray.get(ref)
    except ray.exceptions.RayError as error:
      cause = getattr(error, "cause", None)
      if isinstance(cause, UserError | OSError):
        raise cause from error
      error.add_note(
        f"This was {what}. Ray starts a worker again that was killed, up to "
        f"{_MAX_RETRIES} times for the same images; what is complete is kept."
      )
      raise
    self._replies[worker] = reply
    return reply.value

  def _record(self, at_work: Sequence[Any]) -> None:
    """Notes the devices of those at work, and the seconds of an image.

    Like those of several processes, these are of all together.
    """
    replies = [self._replies[w] for w in at_work if w in self._replies]
    if len(replies) >= len(self._largest):
      self._largest = replies
    for worker, reply in self._replies.items():
      if seconds := reply.measured.get("seconds_per_image"):
        self._rates[worker] = 1 / seconds
    kinds = dict.fromkeys(reply.device for reply in self._largest)
    found = {
      "devices": sum(reply.devices for reply in self._largest),
      "device": " and ".join(sorted(kinds)),
      "processes": len(self._largest),
    }
    for reply in replies:
      found = reply.measured | found
    if self._rates:
      mean = sum(self._rates.values()) / len(self._rates)
      found["seconds_per_image"] = 1 / (mean * len(self._largest))
    timings.note(**found)


def _options(kind: str, amount: float) -> dict[str, Any]:
  if kind == "CPU":
    return {"num_cpus": amount}
  # Else Ray would ask for a CPU besides, which a machine need not offer.
  if kind == "GPU":
    return {"num_cpus": 0, "num_gpus": amount}
  return {"num_cpus": 0, "resources": {kind: amount}}
