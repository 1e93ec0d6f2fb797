"""What the driver of a Ray cluster does as machines come and go; without Ray.

`test_engine.py` does the same on a cluster of real processes.
"""

import sys
import types

import fake_ray
import jax
import pytest
from fake_ray import Machine

from synthjax.runtime import (
  engine,
  locks,
  progress,
  ray_cluster,
  ray_worker,
  timings,
)
from synthjax.runtime.errors import UserError

PARTS = [f"part-{i}" for i in range(20)]


@pytest.fixture
def cluster(monkeypatch, tmp_path):
  """Returns a function: machines -> a cluster of them.

  Its `done` has (part, machine) of a task's parts, in order; `after` has what
  happens once so many are done.
  """
  monkeypatch.setattr(progress, "_muted", False)

  def start(*machines):
    ray = fake_ray.FakeRay(monkeypatch, ray_cluster, *machines)
    ray.done, ray.after = [], {}

    def prepare(config, workdir):
      del config

      def do(parts):
        for part in parts:
          ray.done.append((part, ray.machine))
          ray.machine.noted = {"seconds_per_image": ray.machine.pace}
          (folder / PARTS[part]).touch()
          ray.after.pop(len(ray.done), lambda: None)()

      folder = tmp_path / "task"
      folder.mkdir(exist_ok=True)
      finish = (folder / "whole").touch
      yield engine.Work(folder, dict.fromkeys(PARTS, 2), do, finish)

    task = types.ModuleType("parts_task")
    task.prepare = prepare
    monkeypatch.setitem(sys.modules, "parts_task", task)
    monkeypatch.setattr(timings, "noted", lambda: ray.machine.noted)
    device = lambda: [types.SimpleNamespace(device_kind=ray.machine.device)]
    monkeypatch.setattr(jax, "local_devices", device)
    monkeypatch.setattr(
      ray_worker, "count_devices", lambda: int(ray.machine.get("TPU", 1))
    )
    return ray

  return start


def run(workdir, engine_name="ray"):
  with (
    ray_cluster.connected(engine_name) as made,
    locks.workdir(workdir),
    timings.timed(workdir, "task", elsewhere=True),
  ):
    made.run_task("parts_task", {}, str(workdir))


def record(workdir):
  (found,) = timings.read(workdir)
  return found


def gpu(pace=1.0, device="A100"):
  made = Machine({"CPU": 8.0, "GPU": 1.0})
  made.pace, made.device = pace, device
  return made


def test_a_run_on_gpus_waits_for_one_and_takes_no_cpus(
  cluster, tmp_path, capsys
):
  """The only GPU is taken back; the machines with CPUs stay."""
  first, second = gpu(), gpu()
  ray = cluster(first, Machine({"CPU": 64.0}), Machine({"CPU": 64.0}))
  ray.events = {1000.0: lambda: ray.machines.append(second)}
  ray.after[5] = lambda: ray.lose(first)
  run(tmp_path)
  assert (tmp_path / "task" / "whole").exists()
  assert sorted(part for part, _ in ray.done) == [*range(20)]
  assert {id(machine) for _, machine in ray.done} == {id(first), id(second)}
  said = capsys.readouterr().err
  assert "no GPU or TPU is left in the cluster" in said
  assert "waits up to 30 min" in said and "has a GPU or TPU again" in said


def test_without_a_gpu_for_long_the_run_stops(cluster, tmp_path):
  first = gpu()
  ray = cluster(first, Machine({"CPU": 64.0}))
  ray.after[5] = lambda: ray.lose(first)
  with pytest.raises(UserError, match="no GPU or TPU for 30 min.*is kept"):
    run(tmp_path)
  assert len(ray.done) == 5 and 1800 < ray.now < 1900


def test_a_task_that_is_whole_waits_for_a_gpu_too(cluster, tmp_path):
  """As a training does, whose machine is lost before it has begun."""
  ray = cluster(gpu(), Machine({"CPU": 64.0}))
  with ray_cluster.connected("ray") as made:
    ray.machines.pop(0)
    with pytest.raises(UserError, match="no GPU or TPU for"):
      made.run_task("parts_task", {}, str(tmp_path))
  assert not ray.done


def test_parts_of_a_machine_that_no_other_can_replace_go_to_others(
  cluster, tmp_path
):
  """Ray would wait for another machine of 16 CPUs, with them, for ever."""
  large = Machine({"CPU": 16.0})
  ray = cluster(large, *(Machine({"CPU": 4.0}) for _ in range(2)))
  ray.after[7] = lambda: ray.lose(large)
  run(tmp_path)
  assert {part for part, _ in ray.done} == {*range(20)}
  assert {machine["CPU"] for _, machine in ray.done} == {16.0, 4.0}


def test_the_record_names_the_devices_that_drew(cluster, tmp_path):
  """Two of them; an image every second of one, every three of the other."""
  ray = cluster(gpu(1.0), gpu(3.0, "H100"), Machine({"CPU": 4.0}))
  run(tmp_path)
  assert len({id(machine) for _, machine in ray.done}) == 2
  found = record(tmp_path)
  assert (found["devices"], found["processes"]) == (2, 2)
  assert found["device"] == "A100 and H100"
  assert found["seconds_per_image"] == pytest.approx(1 / (1 + 1 / 3))


def test_the_chips_of_a_tpu_host_are_one_workers(cluster, tmp_path):
  hosts = [Machine({"CPU": 8.0, "TPU": 4.0}) for _ in range(2)]
  ray = cluster(*hosts)
  with ray_cluster.connected("ray") as made:
    ray.machine = hosts[0]
    assert made.count_devices() == 4
  run(tmp_path)
  found = record(tmp_path)
  assert (found["devices"], found["processes"]) == (8, 2)


def test_a_failed_run_has_its_devices_on_record_and_wants_no_more_machines(
  cluster, tmp_path, monkeypatch
):
  """Else a cluster that has grown for it would stay so, at its price."""
  ray = cluster(gpu(), gpu())

  def fail(count, note):
    raise UserError("The disk is full.")

  monkeypatch.setattr(ray_cluster.progress, "counter", lambda *a, **k: fail)
  with pytest.raises(UserError, match="full"):
    run(tmp_path)
  found = record(tmp_path)
  assert (found["ended"], found["device"]) == ("stopped", "A100")
  assert {"GPU": 1} in ray.asked[0] and ray.asked[-1] == []


def test_a_record_of_a_killed_driver_names_no_device(tmp_path):
  with timings.timed(tmp_path, "task", elsewhere=True):
    found = record(tmp_path)
  assert found["device"] is found["devices"] is None
