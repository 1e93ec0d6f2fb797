import functools
import itertools
import operator
import pathlib

import pytest

from synthjax.config.config_files import load_config
from tools.embedded_world import tables

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", tables.EXPERIMENTS)
def test_every_experiment_has_a_config_with_the_seeds_that_are_set(name):
  experiment = tables.EXPERIMENTS[name]
  config = load_config(str(ROOT / "configs" / experiment.config))
  for block in experiment.seeds:
    assert config[block].seeds
  for field in experiment.fields:
    block, _, key = field.rpartition(".")
    assert key in functools.reduce(operator.getitem, block.split("."), config)
  for task in ("tune", "tune_encoder"):
    if task in config:
      arms = {arm["name"] for arm in config[task].arms}
      assert arms.issuperset(itertools.chain(*experiment.compared))


def test_arms_have_means_with_intervals_and_differences_by_seed():
  rows = [
    {"arm": arm, "seed": seed, "accuracy": {"test": share}}
    for arm, shares in (("a", (0.2, 0.3)), ("b", (0.4, 0.5)))
    for seed, share in enumerate(shares)
  ]
  results = {"tune": {"zero_shot": {"test": 0.1}, "rows": rows}}
  # t(1) = 12.706 for 95 %; the standard error of each mean is 0.05.
  assert tables.tables(results, [("b", "a")]).splitlines() == [
    "| arm | test |",
    "| --- | --- |",
    "| zero-shot | 10.00 |",
    "| a | 25.0 ± 63.5 |",
    "| b | 45.0 ± 63.5 |",
    "| b - a | +20.0 ± 0.0 |",
  ]


def test_methods_over_shots_are_compared_with_the_first():
  values = {
    "x": {1: (0.2, 0.2), 4: (0.4, 0.4)},
    "y": {1: (0.1,) * 2, 4: (0.4,) * 2},
  }
  rows = [
    {"arm": f"{method} ({n} shots)", "seed": seed, "accuracy": {"test": share}}
    for method, by_shots in values.items()
    for n, shares in by_shots.items()
    for seed, share in enumerate(shares)
  ]
  results = {
    "methods": ["x", "y"],
    "shots": [1, 4],
    "zero_shot": {"test": 0.05},
    "rows": rows,
  }
  *_, x, y = tables.tables({"few_shot": results}).splitlines()
  assert x == "| x | 20.0 ± 0.0 | 40.0 ± 0.0 |  |"
  assert y == "| y | 10.0 ± 0.0 | 40.0 ± 0.0 | -5.0 ± 0.0 |"
