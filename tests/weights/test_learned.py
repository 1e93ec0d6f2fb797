"""Which of the arms of a run is meant."""

import json

import numpy as np
import pytest

from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.weights import files, learned

KINDS = ("heads", "classifier")


def write(folder, *names, learned=None, kind="classifier", **about):
  """Completes the folder of a task that leaves these files."""
  artifacts.begin(folder, {})
  for name in names:
    files.save_params(
      folder / f"{name}.safetensors",
      {"x": np.zeros(1)},
      {"kind": kind} | about,
    )
  summary = {} if learned is None else {"learned": learned}
  rows = {f"{name}.safetensors": 1 for name in names}
  artifacts.finish(folder, {}, rows, **summary)


def chosen(workdir, **given):
  arm = learned.choose(workdir, KINDS, **given)
  return arm.task, arm.name


def test_the_arm_that_the_task_lists_first_is_meant(tmp_path):
  write(tmp_path / "transfer", "a-s0", "b-s0", "b-s1", learned=["b-s0", "a-s0"])
  assert chosen(tmp_path) == ("transfer", "b-s0")
  assert chosen(tmp_path, arm="b-s1") == ("transfer", "b-s1")
  with pytest.raises(UserError, match="did you mean 'b-s1'"):
    chosen(tmp_path, arm="b-s2")


def test_the_heads_of_a_file_are_arms(tmp_path):
  arms = {"zero_shot": ["zero_shot"], "b": ["b"], "a": ["a"]}
  write(tmp_path / "tune", "heads", kind="heads", arms=arms, learned=["b", "a"])
  assert chosen(tmp_path) == ("tune", "b")
  write(tmp_path / "pretrain", "backbone-s0")
  assert chosen(tmp_path) == ("tune", "b")
  assert chosen(tmp_path, task="pretrain") == ("pretrain", "backbone-s0")
  assert chosen(tmp_path, arm="backbone-s0")[0] == "pretrain"
  with pytest.raises(UserError, match="did you mean 'pretrain'"):
    chosen(tmp_path, task="pretran")


def test_an_older_run_is_asked_which_of_several_arms_is_meant(tmp_path):
  write(tmp_path / "transfer", "pretrained-s0", "random-s0")
  assert chosen(tmp_path) == ("transfer", "pretrained-s0")
  write(tmp_path / "more" / "transfer", "a-s0", "a-s1", "random-s0")
  with pytest.raises(UserError, match=r"--arm:\n  a-s0\n  a-s1$"):
    chosen(tmp_path / "more")


def test_what_is_missing_is_said(tmp_path):
  with pytest.raises(UserError, match="task `tune` is done, or `few_shot` or"):
    chosen(tmp_path)
  (tmp_path / "served").mkdir()
  (tmp_path / "served" / "classifier.onnx").touch()
  with pytest.raises(UserError, match="--format=safetensors, too"):
    chosen(tmp_path / "served")
  write(tmp_path / "few_shot")  # as an older version has left it
  with pytest.raises(UserError, match="few_shot holds no weights.*older vers"):
    chosen(tmp_path)
  write(tmp_path / "pretrain", "backbone-s0", kind="backbone")
  with pytest.raises(UserError, match="without labels, run `transfer`"):
    chosen(tmp_path, task="pretrain")


def test_an_exported_folder_is_read_without_a_task(tmp_path):
  files.save_params(
    tmp_path / "classifier.safetensors", {"x": np.zeros(1)}, {"kind": KINDS[1]}
  )
  (tmp_path / "config.json").write_text(json.dumps({}))
  assert chosen(tmp_path) == ("", "classifier")
