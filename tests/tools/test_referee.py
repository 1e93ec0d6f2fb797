"""The config of the embedded generator's referee."""

import pathlib

import pytest

from synthjax import main
from synthjax.embedded import world
from synthjax.labels import spaces

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"{ROOT}/tools/embedded_world/referee.py"


def test_it_learns_all_real_training_drawings_and_leaves_test_styles_closed():
  transfer = main.load_config(CONFIG).transfer
  space = spaces.load_space("emoji16")
  train = world.open_split(transfer.train.split, space=space)
  styles = {style for style, use in world.STYLES.items() if use == "train"}
  assert len(train) == 2044 and len(styles) == 7
  assert transfer.shots == (None,) and transfer.test.split == "validation"


@pytest.mark.slow
def test_it_trains(tmp_path):
  config = main.load_config(f"{CONFIG}:epochs=1")
  config.transfer.seeds = (0,)
  main.run_tasks(config, str(tmp_path))
  assert (tmp_path / "transfer" / "results.json").exists()
