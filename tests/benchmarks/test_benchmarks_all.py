"""Tests of the runner of all benchmarks."""

import importlib
import json
import subprocess

import pytest

from benchmarks import all as runner
from benchmarks import table


def test_every_benchmark_has_the_flags_that_it_is_given():
  for name in runner.NAMES:
    parser = importlib.import_module(f"benchmarks.{name}").parser()
    given = ["--json=x"] + ["--threads=2"] * (name not in runner.ONE_CORE)
    assert parser.parse_args(given).json == "x"


def test_rows_are_joined_into_a_table_for_each_device(
  tmp_path, capsys, monkeypatch
):
  """A benchmark that fails is named, and the others' rows are kept."""
  devices = {"sample": "CPU, 2 threads", "tune": "CPU, 2 threads", "input": "X"}

  def run(command):
    name = command[2].removeprefix("benchmarks.")
    if name == "tune":
      return subprocess.CompletedProcess(command, 1)
    row = table.row(f"{name} row", "s", 1.0, 2.0, device=devices[name])
    path = command[3].removeprefix("--json=")
    table.show([row], path)
    capsys.readouterr()
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(subprocess, "run", run)
  path = tmp_path / "rows.json"
  with pytest.raises(SystemExit, match="tune"):
    runner.main(["sample", "tune", "input", f"--json={path}"])
  rows = json.loads(path.read_text())
  assert [row["name"] for row in rows] == ["sample row", "input row"]
  printed = capsys.readouterr().out
  assert printed.count("reference") == 2  # one head for each device
  assert printed.index("sample row") < printed.index("input row")


def test_an_unknown_benchmark_is_refused(capsys):
  with pytest.raises(SystemExit):
    runner.main(["smaple"])
  assert "choose of sample, encode" in capsys.readouterr().err
