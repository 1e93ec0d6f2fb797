"""The command that checks a workdir, and the readers that check a file."""

import json

import made_up_run
import numpy as np
import pytest

from synthjax import verify
from synthjax.data.generated import drawn_images, scores
from synthjax.report import checked_files
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.weights import files

pytestmark = pytest.mark.faults


def flip(path, position=None):
  """Changes one bit of a file, in the middle by default."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2 if position is None else position] ^= 1
  path.write_bytes(data)


def code_of(workdir):
  with pytest.raises(SystemExit) as stop:
    verify.main([str(workdir)])
  return stop.value.code


def test_what_is_damaged_missing_or_extra_is_named(tmp_path, capsys):
  made_up_run.make_workdir(tmp_path)
  made_up_run.finish(tmp_path / "export" / "parquet", {"a.parquet": b"rows"})
  (tmp_path / "pretrain" / "backbone-s0_checkpoints" / "3").mkdir(parents=True)
  (tmp_path / "pretrain" / "backbone-s0_checkpoints" / "3" / "x").touch()
  (tmp_path / "generate" / ".claims").touch()
  (tmp_path / "detect").mkdir()
  (tmp_path / "detect" / "spec.json").write_text("{}")
  assert code_of(tmp_path) == 0
  said = capsys.readouterr()
  assert "All files are as written" in said.out
  assert "not checked: detect" in said.out
  assert said.err.startswith("verify: ") and " bytes" in said.err

  flip(tmp_path / "tune" / "curves.npz")
  flip(tmp_path / "export" / "parquet" / "a.parquet")
  flip(tmp_path / "score" / "manifest.json")
  (tmp_path / "select" / "selection.parquet").unlink()
  (tmp_path / "transfer" / "notes.txt").touch()
  assert code_of(tmp_path) == 1
  lines = capsys.readouterr().out.splitlines()
  for name in (
    *("tune/curves.npz: its content", "parquet/a.parquet: its content"),
    *("score/manifest.json is damaged", "selection.parquet: it is missing"),
    "transfer/notes.txt: its task has not written it",
  ):
    assert sum(name in line for line in lines) == 1, name
  assert len(lines) == 7  # and what is not complete, and that all is not well


def test_no_workdir_is_one_message(tmp_path, capsys):
  assert code_of(tmp_path) == 2
  assert "give the --workdir" in capsys.readouterr().err
  assert code_of("") == 2
  assert "an empty text" in capsys.readouterr().err


@pytest.fixture
def weights(tmp_path):
  """Returns a complete file of weights."""
  path = tmp_path / "heads.safetensors"
  artifacts.begin(tmp_path, {})
  files.save_params(path, {"w": np.ones(100, np.float32)}, {"kind": "x"})
  artifacts.finish(tmp_path, {}, {path.name: 1})
  return path


def test_weights_are_checked_by_the_manifest_beside_them(weights):
  assert files.load_params(weights)[0]["w"].sum() == 100
  digest = files.sha256(weights)
  flip(weights, -1)
  for read in (files.load_params, files.sha256):
    with pytest.raises(UserError, match="heads.safetensors: its content has"):
      read(weights)
  # The manifest of another program says nothing.
  (weights.parent / "manifest.json").write_text('{"name": "an app"}')
  assert files.sha256(weights) != digest
  files.load_params(weights)


def test_a_selection_and_scores_are_checked(tmp_path):
  made_up_run.make_workdir(tmp_path, ("score", "select"))
  path = tmp_path / "select" / "selection.parquet"
  names = ("id", "kept")
  flip(path)
  with pytest.raises(UserError, match="selection.parquet: its content has"):
    drawn_images.read_selection(path, names)
  (tmp_path / "select" / "manifest.json").unlink()
  flip(path)  # back
  assert len(drawn_images.read_selection(path, names)["id"]) == 24
  with pytest.raises(UserError, match="cannot be read.*nothing"):
    drawn_images.read_selection(path, ["nothing"])
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(UserError, match="cannot be read"):
    drawn_images.read_selection(path, names)
  path = path.with_suffix(".jsonl")  # of an older version
  for line in ("[1]", '{"id": "a"}', "[" * 100_000, "{"):
    path.write_text(line)
    with pytest.raises(UserError, match="line 1, is damaged"):
      drawn_images.read_selection(path, names)
  part = next((tmp_path / "score").glob("*.npz"))
  flip(part)
  with pytest.raises(UserError, match="its content has changed"):
    scores.read_arrays(part, ["p_own"])


def test_a_number_in_a_manifest_cannot_change(tmp_path):
  artifacts.begin(tmp_path, {})
  artifacts.finish(tmp_path, {}, {}, kept=352)
  path = tmp_path / "manifest.json"
  path.write_text(path.read_text().replace("352", "353"))
  with pytest.raises(UserError, match="its SHA-256 differs"):
    artifacts.load(tmp_path)
  manifest = json.loads(path.read_text())
  del manifest["sha256"]  # as older versions wrote it
  path.write_text(json.dumps(manifest))
  assert artifacts.load(tmp_path)["summary"] == {"kept": 353}


def test_a_file_that_is_gone_is_named(weights):
  weights.unlink()
  for read in (artifacts.check_file, artifacts.sha256):
    with pytest.raises(UserError, match="heads.safetensors: it is missing"):
      read(weights)


def test_a_report_knows_a_task_without_its_specification(tmp_path):
  made_up_run.make_workdir(tmp_path, ("prompts", "score"))
  (tmp_path / "prompts" / "spec.json").unlink()
  assert set(checked_files.open_run(tmp_path, ()).states) == {
    "prompts",
    "score",
  }
