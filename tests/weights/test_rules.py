"""Renaming and transposing weights, there and back."""

import numpy as np
import pytest

from synthjax.runtime.errors import UserError
from synthjax.weights import rules

RULES = [
  *rules.dense("layer{i}.fc", "params/layer{i}/fc"),
  *rules.dense("layer{i}.conv", "params/layer{i}/conv", rules.conv),
  *rules.dense("layer{i}.p1", "params/layer{i}/p1", rules.pointwise1d),
  *rules.dense("layer{i}.p2", "params/layer{i}/p2", rules.pointwise2d),
  *rules.batch_norm("layer{i}.bn{j}", "layer{i}/bn{j}"),
]
SHAPES = {
  "layer3.fc.weight": (2, 5),
  "layer3.conv.weight": (2, 5, 3, 4),
  "layer3.p1.weight": (2, 5, 1),
  "layer3.p2.weight": (2, 5, 1, 1),
  "layer12.bn7.weight": (5,),
  "layer12.bn7.running_mean": (5,),
  "layer12.bn7.running_var": (5,),
}


def weights():
  rng = np.random.default_rng(0)
  return {k: rng.normal(size=shape) for k, shape in SHAPES.items()}


def like(**changes):
  layer3 = {"fc": (5, 2), "conv": (3, 4, 5, 2), "p1": (5, 2), "p2": (5, 2)}
  params = {k: {"kernel": np.empty(v)} for k, v in (layer3 | changes).items()}
  stats = {"mean": np.empty(5), "var": np.empty(5)}
  return {
    "params": {"layer3": params, "layer12": {"bn7": {"scale": np.empty(5)}}},
    "batch_stats": {"layer12": {"bn7": stats}},
  }


def test_weights_arrive_transposed_and_return_as_they_were():
  before = weights()
  variables = rules.convert(before, RULES, like())
  layer = variables["params"]["layer3"]
  w = before["layer3.conv.weight"]
  assert layer["conv"]["kernel"][1, 2, 4, 0] == w[0, 4, 1, 2]
  assert layer["p1"]["kernel"][3, 1] == before["layer3.p1.weight"][1, 3, 0]
  after = rules.restore(variables, RULES)
  assert after.keys() == before.keys()
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value)


def test_every_unused_missing_or_misshapen_weight_is_in_one_error():
  found = weights() | {"layer3.fc.wieght": np.zeros(3)}
  del found["layer12.bn7.running_var"]
  with pytest.raises(UserError) as error:
    rules.convert(found, RULES, like(conv=(3, 4, 5, 9)))
  for words in (
    "layer3.fc.wieght: no rule takes it",
    "batch_stats/layer12/bn7/var: weights have None",
    "params/layer3/conv/kernel: weights have (3, 4, 5, 2), the model needs",
  ):
    assert words in str(error.value)


def test_variables_without_a_released_name_are_all_listed():
  with pytest.raises(UserError, match=r"(?s)params/a: no rule.*params/b: no"):
    rules.restore({"params": {"a": np.zeros(1), "b": np.zeros(1)}}, RULES)
