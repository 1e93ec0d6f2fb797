"""No damaged file of a finished workdir is used by a later task in silence."""

import damaged_workdir
import pytest
import tiny_world

from synthjax import main


@pytest.mark.slow
@pytest.mark.faults
def test_every_damaged_file_is_named_repaired_or_harmless(tmp_path):
  workdir = tmp_path / "run"
  strategies = ("basic", "enhanced")
  tiny_world.write_prompts(workdir, strategies=strategies)
  tiny_world.write_images(workdir, strategies=strategies, seeds=(0, 1))
  arms = [
    dict(name=name, strategy="basic", filter=is_filtered, soft_weight=0.5)
    for name, is_filtered in (("B", False), ("B+CF", True))
  ]
  config = tiny_world.make_config(
    tmp_path,
    score={},
    select=dict(max_per_class=8),
    tune=dict(
      arms=tuple(arms),
      seeds=(0,),
      num_epochs=2,
      batch_size=8,
      lr=0.1,
      test=dict(split="test"),
    ),
    report={},
  )
  config.tasks = ("score", "select", "tune", "report")
  main.run_tasks(config, str(workdir))
  tasks = ("prompts", "generate", *config.tasks)
  found = damaged_workdir.table(config, workdir, tasks)
  assert len(found) > 20
  faults = {
    f"{name} {way}": what
    for name, ways in found.items()
    for way, what in ways.items()
    if what not in ("named", "repaired", "same")
  }
  assert not faults
  for name in ("tune/heads.safetensors", "select/selection.parquet"):
    assert set(found[name].values()) == {"named"}
