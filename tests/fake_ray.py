"""A Ray of one process, whose machines come and go as a test says.

Actors are objects of here. A call is done when it is waited for, if a machine
has the actor's slot; a call that has none waits, and the clock goes on.
"""

import sys
import types


class Handle:
  """An actor, or a function, with a slot that it asks for."""

  def __init__(self, ray, make, options):
    self.ray, self.options, self.made = ray, options, None
    self.make, self.machine, self.killed = make, None, False

  def __getattr__(self, name):
    def remote(*arguments):
      return Call(self, lambda: getattr(self.made, name)(*arguments))

    return types.SimpleNamespace(remote=remote)


class Call:
  def __init__(self, handle, do):
    self.handle, self.do, self.value = handle, do, None


class Machine(dict):
  """The resources of a machine."""

  device = "cpu"  # the kind of its devices
  pace = 1.0  # seconds of an image
  noted = types.MappingProxyType({})  # what its worker has measured


class FakeRay(types.ModuleType):
  """What `ray_cluster` uses of Ray, and a clock."""

  def __init__(self, monkeypatch, module, *machines):
    super().__init__("ray")
    self.machines, self.now, self.asked = list(machines), 0.0, []
    self.machine, self.handles = None, []  # the one that a call is done on
    self.events = {}  # time -> what happens then
    error = type("RayError", (Exception,), {})
    self.exceptions = types.SimpleNamespace(RayError=error)
    self.init = self.shutdown = lambda **options: None
    sdk = types.ModuleType("ray.autoscaler.sdk")
    sdk.request_resources = lambda bundles: self.asked.append(bundles)
    for name, each in {
      "ray": self,
      "ray.autoscaler": types.ModuleType("ray.autoscaler"),
      "ray.autoscaler.sdk": sdk,
    }.items():
      monkeypatch.setitem(sys.modules, name, each)
    clock = types.SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
    monkeypatch.setattr(module, "time", clock)

  def sleep(self, seconds):
    self.now += seconds
    assert self.now < 1e5, "it waits for ever"
    for moment in sorted(self.events):
      if moment <= self.now:
        self.events.pop(moment)()

  def lose(self, machine):
    self.machines = [each for each in self.machines if each is not machine]

  def nodes(self):
    return [{"Alive": True, "Resources": each} for each in self.machines]

  def remote(self, what):
    def options(**options):
      def start(*arguments):
        if not isinstance(what, type):
          return Call(Handle(self, lambda: None, options), what)
        handle = Handle(self, lambda: what(*arguments), options)
        self.handles.append(handle)
        return handle

      return types.SimpleNamespace(remote=start)

    return types.SimpleNamespace(options=options)

  def wait(self, calls, timeout):
    assert calls  # as Ray has it
    for call in calls:
      if self._has_machine(call.handle):
        self.machine = call.handle.machine
        call.handle.made = call.handle.made or call.handle.make()
        call.value = call.do()
        self.now += 0.1
        return [call], [other for other in calls if other is not call]
    self.sleep(timeout)
    return [], calls

  def get(self, call):
    if isinstance(call.value, Exception):
      raise call.value
    return call.value

  def kill(self, handle):
    assert not handle.killed
    handle.killed = True
    handle.machine = None

  def _has_machine(self, handle):
    assert not handle.killed
    if not any(handle.machine is each for each in self.machines):
      handle.machine, handle.made = None, None  # lost; it starts again
      handle.machine = next(filter(self._fits(handle), self.machines), None)
    return handle.machine is not None

  def _fits(self, handle):
    options = handle.options
    needs = {"CPU": options.get("num_cpus", 0)}
    needs["GPU"] = options.get("num_gpus", 0)
    needs |= options.get("resources", {})

    def fits(machine):
      taken = [h.options for h in self.handles if h.machine is machine]
      used = {
        "CPU": sum(each.get("num_cpus", 0) for each in taken),
        "GPU": sum(each.get("num_gpus", 0) for each in taken),
        "TPU": sum(each.get("resources", {}).get("TPU", 0) for each in taken),
      }
      return all(
        machine.get(kind, 0) - used.get(kind, 0) >= amount
        for kind, amount in needs.items()
      )

    return fits
