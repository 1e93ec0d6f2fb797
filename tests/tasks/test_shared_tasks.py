"""Tasks that several commands do together, by --shared."""

import emulated_bucket
import pytest
import simulated
import tiny_glide
import tiny_world
from runtime import test_leases

from synthjax import main
from synthjax.runtime import artifacts, file_groups
from synthjax.tasks import card, export, generate, score

FORMATS = ("webdataset", "parquet", "png_folder")
PLACES = ("generate", "score", "card", *(f"export/{name}" for name in FORMATS))
COMMAND = """
import json, pathlib, sys
import emulated_bucket
from ml_collections import ConfigDict
from synthjax import main
from synthjax.runtime import leases
emulated_bucket.serve(sys.argv[1])
leases.LOOK, leases.BEAT = 0.5, 1.0
fields = json.loads(pathlib.Path(sys.argv[2]).read_text())
config = ConfigDict(fields | dict(tasks=tuple(fields["tasks"])))
main.run_tasks(config, sys.argv[3], shared=True)
"""

serve = test_leases.serve


def test_tasks_whose_work_is_in_parts_are_shared():
  assert {m.PROCESSES for m in (generate, score, card, export)} == {"shared"}


@pytest.mark.slow
def test_commands_share_all_that_is_in_parts(tmp_path):
  """Three on one bucket leave the files of one that is alone on a disk."""
  config = tiny_world.make_config(
    tmp_path,
    generator=tiny_glide.write_glide(tmp_path),
    generate=dict(images_per_class=8, seeds=(0, 1), shard_size=4),
    export=dict(formats=FORMATS, selection=False, shard_size=5),
  )
  config.tasks = ("generate", "score", "card", "export")
  (tmp_path / "config.json").write_text(config.to_json())
  alone, run = tmp_path / "alone", tmp_path / "objects/bucket/run"
  for folder in (alone, run):
    folder.mkdir(parents=True)
    tiny_world.write_prompts(folder)
  main.run_tasks(config, str(alone))
  commands = [
    simulated.start(
      COMMAND,
      tmp_path,
      tmp_path / "config.json",
      "s3://bucket/run",
      SYNTHJAX_CACHE=str(tmp_path / f"cache-{i}"),
    )
    for i in range(3)
  ]
  simulated.finish(*commands)
  for place in PLACES:
    found, whole = (artifacts.load(top / place) for top in (run, alone))
    assert found["files"] == whole["files"], place
    artifacts.verify(run / place)
    listed = {"manifest.json", "spec.json", *whole["files"]}
    for name in whole.get("groups", ()):
      assert found["groups"] == whole["groups"], place
      listed.update(*file_groups.names(alone / place, name))
    left = emulated_bucket.objects(tmp_path, f"bucket/run/{place}")
    assert left.keys() <= listed
