"""Drawing and scoring in several processes, and on several devices."""

import json

import numpy as np
import pytest
import simulated
import tiny_glide
import tiny_world

from synthjax.data.generated import scores, shards

# One run of the command: the shards are dealt out, and so are their scores.
RUN = """
import json, os, pathlib, sys
from ml_collections import ConfigDict
from synthjax import main
from synthjax.runtime import cache
from synthjax.runtime import processes

if "JAX_PROCESS_ID" in os.environ:
  processes.join()
cache.use_compilation_cache()
fields = json.loads(pathlib.Path(sys.argv[1]).read_text())
config = ConfigDict(fields | dict(tasks=tuple(fields["tasks"])))
main.run_tasks(config, sys.argv[2])
"""


@pytest.mark.slow
def test_images_are_the_same_on_any_devices_in_any_processes(tmp_path, capsys):
  """One device, eight, and two processes of four: each image is itself.

  Programs for other shapes round otherwise, so that single 8-bit values may
  differ by 1, and no id, label or place does.
  """
  config = tiny_world.make_config(
    tmp_path,
    generator=tiny_glide.write_glide(tmp_path) | dict(batch_size=8),
    generate=dict(images_per_class=16, seeds=(0,), shard_size=8),
  )
  config.tasks = ("generate", "score")
  path = tmp_path / "config.json"
  path.write_text(config.to_json())
  started = {}
  for name, devices in (("one", 1), ("eight", 8), ("pair", 4)):
    workdir = tmp_path / name
    workdir.mkdir()
    tiny_world.write_prompts(workdir)
    start = simulated.start_joined if name == "pair" else simulated.start
    started[name] = start(RUN, path, workdir, devices=devices)
  found = {}
  for name, process in started.items():
    for each in process if name == "pair" else [process]:
      simulated.finish(each)
    rows = list(shards.open_shards(tmp_path / name / "generate"))
    found[name] = rows
    parts = sorted((tmp_path / name / "score").glob("scores-*.npz"))
    assert len(parts) == 6
    ids = np.concatenate([scores.read_part(part).ids for part in parts])
    assert ids.tolist() == [row["id"] for row in rows]

  want = np.stack([row["image"] for row in found["one"]]).astype(int)
  told = {}
  for name in ("eight", "pair"):
    assert [(r["id"], r["label"], r["prompt"]) for r in found[name]] == [
      (r["id"], r["label"], r["prompt"]) for r in found["one"]
    ]
    images = np.stack([row["image"] for row in found[name]]).astype(int)
    gap = np.abs(images - want)
    told[name] = float((gap > 0).mean())
    assert gap.max() <= 1 and told[name] < 0.01
  # Each process did some of it: it says so when it has.
  with capsys.disabled():
    print(f" values that differ by 1: {json.dumps(told)}", end="")
