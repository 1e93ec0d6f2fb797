"""Work on a Ray cluster of this machine: lost workers, machines, and errors.

Each machine of the cluster is simulated, with one CPU, and so has one worker.
"""

import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import types

import ml_collections
import numpy as np
import pytest
import tiny_encoders
import tiny_glide
import tiny_world
from PIL import Image

from synthjax import main
from synthjax.data.generated import shards
from synthjax.runtime import ray_cluster, timings
from synthjax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 300  # seconds, as another one may need for what takes ten alone
KILLS = int(os.environ.get("SYNTHJAX_KILLS", 3))


def make_config(**fields):
  few = dict(count=40, pause=0.0, most=1, seed=0)
  return ml_collections.ConfigDict(
    {"tasks": ("runtime.drawing_task",)} | few | fields
  )


def noted(workdir, word):
  """Returns (pid of a worker, what it noted behind a word), in order."""
  log = pathlib.Path(workdir) / "log.txt"
  lines = log.read_text().splitlines() if log.exists() else []
  words = [line.split() for line in lines]
  return [(int(w[0]), w[2:]) for w in words if w[1] == word]


def is_worker(pid):
  """Returns whether a process is still one of Ray's workers."""
  try:
    command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
  except FileNotFoundError:
    return False
  return b"ray::Worker" in command


def hashes(workdir, task="drawing_task"):
  """Hashes the files of a task, but claims and what the killed have left."""
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in (workdir / task).rglob("[!.]*")
    if path.is_file()
  }


def test_without_ray_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "ray", None)
  with pytest.raises(UserError, match=r'pip install "synthjax\[ray\]"'):
    ray_cluster.set_up_driver("ray", shared=False)


def test_an_engine_shares_out_the_work_alone():
  with pytest.raises(UserError, match="--engine=ray and --shared both share"):
    ray_cluster.set_up_driver("ray", shared=True, distributed=False)


@pytest.mark.parametrize(
  ("machines", "slots"),
  [
    ([{}, {"CPU": 64.0, "GPU": 8.0}, {"GPU": 1.0}], {("GPU", 1): 9}),
    ([{"CPU": 4.0}, {"TPU": 4.0}, {"TPU": 4.0}], {("TPU", 4.0): 2}),
    ([{"CPU": 0.0}, {"CPU": 2.0}, {"CPU": 2.0}], {("CPU", 2.0): 2}),
    ([{"memory": 1e9}], {}),
  ],
)
def test_a_worker_takes_a_gpu_a_tpu_host_or_a_machine(
  monkeypatch, machines, slots
):
  nodes = [{"Alive": True, "Resources": each} for each in machines]
  nodes.append({"Alive": False, "Resources": {"GPU": 1.0, "CPU": 1.0}})
  ray = types.SimpleNamespace(nodes=lambda: nodes)
  monkeypatch.setitem(sys.modules, "ray", ray)
  assert ray_cluster.slots() == slots


@pytest.fixture(scope="module")
def cluster():
  """Yields a Ray cluster of four machines, and one that does no work."""
  pytest.importorskip("ray")
  from ray.cluster_utils import Cluster

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    patch.setenv("JAX_PLATFORMS", "cpu")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("OMP_NUM_THREADS", "1")
    small = dict(object_store_memory=80_000_000, include_dashboard=False)
    made = Cluster(True, head_node_args=dict(num_cpus=0, **small))
    for _ in range(4):
      made.add_node(num_cpus=1, **small)
    patch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.faults
def test_lost_workers_cost_no_image_and_change_no_byte(cluster, tmp_path):
  """Four draw 60 shards of 10 images for each kill at random, by SIGKILL."""
  total, chance = 60 * KILLS, random.Random(0)
  config = make_config(count=10 * total, pause=0.05)
  alone, folder = tmp_path / "alone", tmp_path / "disturbed"
  main.run_tasks(make_config(count=10 * total), str(alone))
  over, killed = threading.Event(), []

  def kill():
    while len(killed) < KILLS:
      if over.wait(chance.uniform(1, 3)):
        return
      if alive := [pid for pid, _ in noted(folder, "loads") if is_worker(pid)]:
        killed.append(chance.choice(alive))
        os.kill(killed[-1], signal.SIGKILL)

  killer = threading.Thread(target=kill)
  killer.start()
  try:
    main.run_tasks(config, str(folder), engine="ray")
  finally:
    over.set()
    killer.join()
  assert killed and hashes(folder) == hashes(alone)
  ids = [row["id"] for row in shards.open_shards(folder / "drawing_task")]
  assert len(ids) == len(set(ids)) == 10 * total
  drawn = [part for _, (part,) in noted(folder, "draws")]
  twice = len(drawn) - total
  print(f"{len(killed)} kills, {twice} of {total} shards drawn twice")
  # All but the first load after a kill, and a kill loses one shard at most.
  assert len({*drawn}) == total and twice <= len(killed)
  assert 4 <= len(noted(folder, "loads")) <= 4 + len(killed)
  assert len(noted(folder, "begins")) == len(noted(folder, "finishes")) == 1


CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
  return ConfigDict({fields!r})
"""


@pytest.mark.slow
@pytest.mark.faults
def test_machines_leave_and_join_a_command(cluster, tmp_path):
  """One is lost with three shards in its hand; then another one comes."""
  path, folder = tmp_path / "config.py", tmp_path / "drawn"
  fields = make_config(count=4000, pause=0.05, most=3).to_dict()
  path.write_text(CONFIG.format(fields=fields))
  words = [f"--config={path}", f"--workdir={folder}", "--engine=ray"]
  process = subprocess.Popen(
    [sys.executable, "-m", "synthjax.main", *words],
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )

  def wait_for(word, count):
    until = time.monotonic() + PATIENCE
    while len(noted(folder, word)) < count:
      assert time.monotonic() < until, f"no {count} {word} in {PATIENCE} s"
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.1)

  wait_for("loads", 4)
  wait_for("draws", 20)
  cluster.remove_node(next(iter(cluster.worker_nodes)), False)
  lost = len(noted(folder, "draws"))
  wait_for("draws", lost + 20)  # the others go on
  assert len(noted(folder, "loads")) == 4
  cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
  _, said = process.communicate(timeout=PATIENCE)
  assert process.returncode == 0, said
  assert "drawing_task: 4,000/4,000 images" in said
  # The sixth, if one that came for the other machine had the place.
  assert len(noted(folder, "loads")) in (5, 6)
  ids = [row["id"] for row in shards.open_shards(folder / "drawing_task")]
  assert len(ids) == len(set(ids)) == 4000
  assert len(noted(folder, "draws")) <= 403


@pytest.mark.slow
@pytest.mark.faults
def test_the_error_of_a_shard_is_shown_whole(cluster, tmp_path):
  from ray.exceptions import RayTaskError

  with pytest.raises(RayTaskError) as caught:
    main.run_tasks(make_config(fails=3), str(tmp_path), engine="ray")
  assert "drawing_task.py" in str(caught.value)  # with its traceback
  assert "ZeroDivisionError: of shard 3" in str(caught.value)
  assert "tiny_images-train.array_record-00003" in caught.value.__notes__[0]
  with pytest.raises(UserError, match="^Shard 3 cannot be drawn: buy"):
    main.run_tasks(make_config(refuses=3), str(tmp_path), engine="ray")
  assert not (tmp_path / "drawing_task" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.faults
def test_a_shard_that_kills_each_worker_ends_the_run(
  cluster, tmp_path, monkeypatch
):
  from ray.exceptions import RayError

  monkeypatch.setattr(ray_cluster, "_MAX_RETRIES", 1)
  with pytest.raises(RayError) as caught:
    main.run_tasks(make_config(kills=3), str(tmp_path), engine="ray")
  assert "killed, up to 1 times" in caught.value.__notes__[0]
  assert [p for _, p in noted(tmp_path, "draws")].count(["3"]) == 2


@pytest.mark.slow
def test_a_folder_of_another_disk_is_refused(cluster, tmp_path, monkeypatch):
  monkeypatch.setattr(main.locks, "WORKDIR", ".another")
  with pytest.raises(UserError, match="has no .* of this run: give a"):
    main.run_tasks(make_config(), str(tmp_path), engine="ray")


@pytest.mark.slow
def test_the_files_of_tasks_are_those_of_one_process(cluster, tmp_path):
  """Drawn, scored, encoded and exported by all; selected whole, by one."""
  formats = ("webdataset", "parquet", "png_folder")
  pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
  for i, name in enumerate(
    2 * [c["name"] for c in tiny_world.SPACE["classes"]]
  ):
    (tmp_path / "real" / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[i]).save(tmp_path / "real" / name / f"{i}.png")
  config = tiny_world.make_config(
    tmp_path,
    generator=tiny_glide.write_glide(tmp_path),
    generate=dict(images_per_class=8, seeds=(0, 1), shard_size=4),
    select=dict(max_per_class=8),
    export=dict(formats=formats, selection=False, shard_size=5),
    card=dict(
      real=dict(kind="folder", path=str(tmp_path / "real")),
      encoders=tiny_encoders.write_dinov2(tmp_path / "dinov2.safetensors"),
    ),
  )
  config.tasks = ("generate", "score", "select", "card", "export")
  found = []
  for name in (None, "ray"):
    folder = tmp_path / str(name)
    folder.mkdir()
    tiny_world.write_prompts(folder)
    main.run_tasks(config, str(folder), engine=name)
    places = [*config.tasks[:4], *(f"export/{each}" for each in formats)]
    found.append({place: hashes(folder, place) for place in places})
    records = {record["task"]: record for record in timings.read(folder)}
    assert records["generate"]["seconds_per_image"] > 0
    assert all(each["device"] == "cpu" for each in records.values())
    assert len([*(folder / "card").glob("*.npz")]) == 3  # of the three parts
  assert found[0] == found[1] and len(found[0]["generate"]) > 12
  assert len(found[0]["export/parquet"]) == 10 + 3
