"""Several processes train as one, and go on from what others have left."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import simulated

from synthjax.runtime import processes

# Trains 6 steps, and 3 that another layout goes on from; or goes on from them.
RESHARDED = """
import json, os, pathlib, sys
import jax, numpy as np, optax
from synthjax.data.pipeline import loader as pipeline
from synthjax.models.classifiers import make_classifier
from synthjax.runtime import mesh as meshes
from synthjax.runtime import processes
from synthjax.training import device_augment
from synthjax.training import metrics
from synthjax.training import run
from synthjax.training.supervised import supervised

if "JAX_PROCESS_ID" in os.environ:
  processes.join()
folder, fsdp = pathlib.Path(sys.argv[1]), int(sys.argv[2])
resumed = sys.argv[3:]
draws = np.random.default_rng(0)
source = [{"image": draws.integers(0, 256, (8, 8, 3), np.uint8),
           "label": np.int32(i % 4)} for i in range(24)]

def shake(example, rng):
  return example | {"image": np.roll(example["image"], rng.integers(8), 0)}

objective = supervised(
  make_classifier("vit_tiny", num_classes=4, width=64, depth=1, patch_size=4,
                  dropout=0.1),
  optax.sgd(0.05, momentum=0.9), ema_decay=0.9,
  augment=device_augment.make_augment("crop_flip"))

def train(name, num_steps):
  state = run.train(
    objective, pipeline.train_batches(source, [shake], batch_size=8, seed=3),
    folder=folder / name, label="vit", num_steps=num_steps, batch_size=8,
    seed=0, log_every=1, checkpoint_every=3, fsdp=fsdp)
  processes.wait_for_all(name)
  rows = metrics.read_rows(run.metrics_file(folder / name, "vit"))
  weights = meshes.fetch(state)
  numbers = [row["loss"] for row in rows]
  numbers.append(float(sum(np.abs(x).sum() for x in jax.tree.leaves(weights))))
  device = jax.local_devices()[0]
  held = sum(s.data.nbytes for x in jax.tree.leaves(state)
             for s in x.addressable_shards if s.device == device)
  return {"numbers": numbers, "bytes": held, "steps": [r["step"] for r in rows]}

if resumed:
  found = {name: train(name, 6) for name in resumed}
else:
  found = {"whole": train("whole", 6)}
  train("part", 3)
if processes.is_first():
  print(json.dumps(found | {"devices": jax.device_count()}))
"""


@pytest.mark.slow
def test_training_is_the_same_on_any_devices_and_goes_on_on_any(
  tmp_path, capsys
):
  """To 1e-4, in float32, of the losses and of the sum of the state's numbers.

  One device, eight of one process with the state sharded over four of them, and
  two processes of four devices, sharded over two. Each goes on from a
  checkpoint of another, with other devices and another sharding.
  """
  one, eight, pair = (tmp_path / name for name in ("one", "eight", "pair"))
  begun = [
    [simulated.start(RESHARDED, one, 1)],
    [simulated.start(RESHARDED, eight, 4, devices=8)],
    simulated.start_joined(RESHARDED, pair, 2, devices=4),
  ]
  found = [json.loads(simulated.finish(*started)) for started in begun]
  assert [each["devices"] for each in found] == [1, 8, 8]
  want = found[0]["whole"]["numbers"]
  assert np.isfinite(want).all() and len(set(want[:6])) == 6
  off = [_off(each["whole"]["numbers"], want) for each in found]
  assert max(off) < 1e-4, off

  # Parameters, momentum and the average, but for small arrays.
  copied, *sharded = (each["whole"]["bytes"] for each in found)
  assert sharded[0] < 0.35 * copied and sharded[1] < 0.6 * copied

  shutil.move(eight / "part", one / "of eight")
  shutil.copytree(pair / "part", one / "of pair")
  shutil.move(pair / "part", eight / "of pair")
  shutil.move(one / "part", pair / "of one")
  resumed = [
    [simulated.start(RESHARDED, one, 1, "of eight", "of pair")],
    [simulated.start(RESHARDED, eight, 2, "of pair", devices=2)],
    simulated.start_joined(RESHARDED, pair, 8, "of one", devices=4),
  ]
  for started in resumed:
    found = json.loads(simulated.finish(*started))
    found.pop("devices")
    for run in found.values():
      assert run["steps"] == [1, 2, 3, 4, 5, 6]
      off.append(_off(run["numbers"], want))
  assert len(off) == 7 and max(off) < 1e-4, off
  with capsys.disabled():
    print(f" largest difference {max(off):.1e}, bytes {copied} {sharded}")


def _off(found, want):
  return float(np.max(np.abs(np.divide(found, want) - 1)))


STOPPED = """
import os, pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np
from synthjax.data.pipeline import loader as pipeline
from synthjax.runtime import processes
from synthjax.training import run
from synthjax.training.denoising import DenoisingState
from synthjax.training.loop import Objective

if "JAX_PROCESS_ID" in os.environ:
  processes.join()
ready, num_steps = pathlib.Path(sys.argv[1]) / "ready", int(sys.argv[2])

def init(rng, batch):
  zero = jnp.zeros((), jnp.int32)
  return DenoisingState(zero, jnp.zeros(2), jnp.zeros(2), zero + 0)

def step(state, batch, rng):
  params = state.params + batch["x"].mean()
  return (DenoisingState(state.step + 1, params, state.ema, state.opt_state),
          {"x": params[0]})

def pause(state):
  ready.touch()
  time.sleep(0.02)
  return {}

state = run.train(
  Objective(init, step),
  pipeline.train_batches([{"x": np.float32(1)}], [], batch_size=2, seed=0),
  folder=sys.argv[1], label="count", num_steps=num_steps, batch_size=2, seed=0,
  log_every=10**6, checkpoint_every=10**6, monitor=pause, monitor_every=1)
print(int(state.step), float(np.asarray(state.params)[0]))
"""


def stop(started, tmp_path):
  """Sends SIGTERM to the last process, once all train; returns the step."""
  until = time.monotonic() + 300
  while not (tmp_path / "ready").exists():
    assert time.monotonic() < until
    assert all(process.poll() is None for process in started)
    time.sleep(0.05)
  started[-1].send_signal(signal.SIGTERM)
  simulated.finish(*started, code=processes.PREEMPTED)
  (saved,) = (tmp_path / "count_checkpoints").glob("[0-9]*")
  return int(saved.name)


@pytest.mark.slow
def test_sigterm_of_one_process_saves_and_stops_them_all(tmp_path):
  started = simulated.start_joined(STOPPED, tmp_path, 10**6)
  step = stop(started, tmp_path)
  assert step > 0
  # One process goes on, and ends a little later.
  alone = simulated.start(STOPPED, tmp_path, step + 3)
  assert simulated.finish(alone).split() == [str(step + 3), f"{step + 3:.1f}"]


def test_sigterm_saves_and_stops_a_single_process(tmp_path):
  step = stop([simulated.start(STOPPED, tmp_path, 10**6)], tmp_path)
  assert step > 0


CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=None):
  config = ConfigDict()
  config.tasks, config.seed, config.space = ("pretrain",), 0, arg
  config.pretrain = dict(
    model=dict(name="resnet_tiny", width=4, stage_sizes=(1,)), seeds=(0,),
    image_size=8, augment="shift", epochs=3, batch_size=8, fsdp=1,
    optimizer=dict(name="sgd", lr=0.1, rate="constant"),
    log_every=1, checkpoint_every=2)
  return config
"""


@pytest.mark.slow
def test_pretraining_is_the_same_in_two_processes(tmp_path, capsys):
  """The command line's, on 1 device, on 8, and in two processes of 4 each."""
  from tasks.test_pretrain import draw

  (tmp_path / "shades.json").write_text('{"classes": ["dark", "light"]}')
  (tmp_path / "config.py").write_text(CONFIG)

  def run(name, command, devices, *more):
    draw(tmp_path / name)
    return subprocess.Popen(
      [
        *command,
        f"--config={tmp_path}/config.py:{tmp_path}/shades.json",
        f"--workdir={tmp_path}/{name}",
        *more,
      ],
      env=simulated.environment(devices, SYNTHJAX_INSTALL="0", DEVICES="4"),
      cwd=simulated.TESTS.parent,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  main = [sys.executable, "-m", "synthjax.main"]
  script = ["bash", "launch/two_processes.sh"]
  started = [
    run("one", main, 1),
    run("eight", main, 8),
    run("two", script, 1, "--config.pretrain.fsdp=2"),
  ]
  simulated.finish(*started)
  curves = [
    [json.loads(line)["loss"] for line in path.read_text().splitlines()]
    for path in (
      tmp_path / name / "pretrain/backbone-s0_metrics.jsonl"
      for name in ("one", "eight", "two")
    )
  ]
  off = [_off(curve, curves[0]) for curve in curves]
  with capsys.disabled():
    print(f" largest difference {max(off):.1e}")
  assert len(curves[0]) == 6 and max(off) < 1e-4
  for name in ("one", "eight", "two"):
    assert (tmp_path / name / "pretrain/manifest.json").exists()


@pytest.mark.parametrize(
  ("found", "words"),
  [
    ({"JAX_COORDINATOR_ADDRESS": "here:1"}, "JAX_NUM_PROCESSES=None"),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "here:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "two",
      },
      "JAX_PROCESS_ID=two",
    ),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "here:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "2",
      },
      "which one this is, from 0",
    ),
  ],
)
def test_an_environment_without_processes_is_explained(found, words):
  """In a process of its own, as JAX joins others before all else."""
  script = f"""
import os
for name in [n for n in os.environ if n.startswith(("JAX_", "SLURM_"))]:
  del os.environ[name]
os.environ |= {found}
from synthjax.runtime.errors import UserError
from synthjax.runtime import processes
try:
  processes.join()
except UserError as error:
  print(error)
"""
  assert words in simulated.finish(simulated.start(script))
