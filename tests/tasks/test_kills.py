"""A run that is killed anywhere ends as one that was left alone."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tiny_glide
import tiny_world

TASKS = ("generate", "score", "pretrain")
# Of the test; two hundred of them take some minutes.
KILLS = int(os.environ.get("SYNTHJAX_KILLS", 12))


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_that_is_killed_anywhere_ends_alike(tmp_path, capsys):
  """SIGKILL in the middle of drawing, scoring and training.

  Every file of every task has the bytes of an undisturbed run, so that no image
  is lost or there twice, and the metrics of training have each step once.
  """
  start = tmp_path / "start"
  start.mkdir()
  tiny_world.write_prompts(start)
  config = tiny_world.make_config(
    tmp_path,
    generator=tiny_glide.write_glide(tmp_path),
    generate=dict(images_per_class=16, seeds=(0, 1), shard_size=4),
    pretrain=dict(
      model=dict(name="resnet_tiny", width=4, stage_sizes=(1,)),
      seeds=(0, 1),
      image_size=8,
      augment="shift",
      epochs=4,
      batch_size=8,
      optimizer=dict(name="sgd", lr=0.1),
      log_every=2,
      checkpoint_every=8,
    ),
  )
  config.tasks = TASKS
  (tmp_path / "config.json").write_text(config.to_json())
  script = pathlib.Path(__file__).parents[1] / "kill_points.py"
  done = subprocess.run(
    [sys.executable, str(script), str(tmp_path), str(KILLS), "0"],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": str(script.parent.parent)},
  )
  assert done.returncode == 0
  found = json.loads(done.stdout.splitlines()[-1])
  with capsys.disabled():
    print(f" {found}", end="")
  assert found["ended"] >= 1 and found["kills"] >= KILLS
