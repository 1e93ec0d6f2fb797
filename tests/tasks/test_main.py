"""The command line: what runs, in which order, and what is refused."""

import importlib
import os
import stat
import subprocess
import sys
import textwrap
import types

import ml_collections
import pytest

from synthjax import main
from synthjax.runtime import artifacts, cache
from synthjax.runtime.errors import UserError

CONFIG = """
  import ml_collections
  from synthjax.config import parse_arg

  def get_config(arg=None):
    arg = parse_arg(arg, runlocal=False, shots=1)
    return ml_collections.ConfigDict(
      {"tasks": ("no_such_task",), "seed": 0, "tune": {"shots": arg.shots}}
    )
"""


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "small.py"
  path.write_text(textwrap.dedent(CONFIG))
  return str(path)


@pytest.fixture
def tasks(monkeypatch):
  """Replaces the tasks by two that note what is called, and leave a file."""
  calls = []

  def task(name):
    def run(config, workdir):
      calls.append(f"run {name}")
      folder = os.path.join(workdir, name)
      if not artifacts.begin(folder, {"seed": config.seed}):
        artifacts.finish(folder, {"seed": config.seed}, {})

    def check(config, workdir):
      calls.append(f"check {name}")
      if config.seed == 13:
        raise UserError(f"The seed of {name} is unlucky.")

    return types.SimpleNamespace(run=run, check=check)

  modules = {"first": task("first"), "second": task("second")}
  monkeypatch.setattr(main, "TASKS", {name: name for name in modules})
  monkeypatch.setattr(importlib, "import_module", modules.get)
  return calls


def config_of(**fields):
  return ml_collections.ConfigDict({"seed": 0} | fields)


def test_every_task_is_checked_before_any_runs(tasks, tmp_path):
  main.run_tasks(config_of(tasks=("second", "first")), str(tmp_path))
  assert tasks == ["check second", "check first", "run second", "run first"]


def test_failed_checks_are_all_told_and_nothing_runs(tasks, tmp_path):
  config = config_of(tasks=("first", "second"), seed=13)
  with pytest.raises(UserError, match="(?s)of first is unl.*of second is unl"):
    main.run_tasks(config, str(tmp_path))
  assert tasks == ["check first", "check second"]
  assert not list(tmp_path.iterdir())


def test_other_encoders_take_the_tasks_behind_the_drawing(
  tasks, tmp_path, monkeypatch
):
  """One drawing serves both columns of a table."""
  monkeypatch.setattr(main, "AGAIN", ("second",))
  seen, run = [], main.TASKS and importlib.import_module("second").run
  note = lambda config, workdir: (
    seen.append((config, workdir)),
    run(config, workdir),
  )
  monkeypatch.setattr(importlib.import_module("second"), "run", note)
  config = config_of(
    tasks=("first", "second"),
    encoder={"name": "clip", "dtype": "float32"},
    score={"batch": 1},
    also={"other": {"encoder": {"name": "larger"}}},
  )
  main.run_tasks(config, str(tmp_path))
  assert tasks[:3] == ["check first", "check second", "check second"]
  assert tasks[3:] == ["run first", "run second", "run second"]
  (_, first), (other, second) = seen
  assert (first, second) == (str(tmp_path), str(tmp_path / "other"))
  assert other.encoder.to_dict() == {"name": "larger"}  # not mixed with ours
  assert other.score.to_dict() == {"batch": 1, "images": str(tmp_path)}
  assert (tmp_path / "other" / "second" / "manifest.json").exists()
  assert not (tmp_path / "other" / "first").exists()
  config.tasks = ("first",)  # the drawing alone, such as by --shared
  main.run_tasks(config, str(tmp_path))
  assert len(seen) == 2
  config.also = {"first": {}}
  with pytest.raises(UserError, match="also.first is the folder of a task"):
    main.run_tasks(config, str(tmp_path))


def test_a_misspelt_task_stops_before_anything(tasks, tmp_path):
  with pytest.raises(UserError, match="'frist'; did you mean 'first'"):
    main.run_tasks(config_of(tasks=("second", "frist")), str(tmp_path))
  assert not tasks


@pytest.mark.parametrize("wrong", [{}, {"tasks": "first"}])
def test_tasks_must_be_a_tuple(tasks, tmp_path, wrong):
  with pytest.raises(UserError, match="tuple"):
    main.run_tasks(config_of(**wrong), str(tmp_path))


def test_complete_tasks_are_reported_as_skipped(tasks, tmp_path, capsys):
  main.run_tasks(config_of(tasks=("first",)), str(tmp_path))
  assert "first: done" in capsys.readouterr().out
  main.run_tasks(config_of(tasks=("first", "second")), str(tmp_path))
  out = capsys.readouterr().out
  assert "[1/2] first: skipped" in out and "[2/2] second: done" in out


def test_every_task_of_the_table_can_be_found_by_its_name():
  for name, module in main.TASKS.items():
    assert module == f"synthjax.tasks.{name}"


def test_a_config_takes_its_argument(config_file):
  assert main.load_config(config_file).tune.shots == 1
  assert main.load_config(f"{config_file}:shots=16").tune.shots == 16


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("x.json", "{}"),
    ("x.yaml", "seed: 1"),
    ("x.py", "seed = 1"),
    ("x.py", "def get_config(arg=None): return {}"),
  ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=f"{name} is no config"):
    main.load_config(str(tmp_path / name))


def run_main(*args):
  return subprocess.run(
    [sys.executable, "-m", "synthjax.main", *args],
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )


@pytest.mark.parametrize(
  ("args", "words"),
  [
    (["--config={}"], ["--workdir must be given"]),
    (["--config={}", "--workdir="], ["--workdir must be given"]),
    (["--config={}", "--workdir=$OUT/x"], ["$OUT, which no shell"]),
    (["--config=missing.py"], ["missing.py", "no config file"]),
    (["--config={}:shoots=2"], ["'shoots'", "'shots'"]),
    (
      ["--config={}", "--config.sede=1", "--config.tune.shot=2"],
      ["'seed'", "config.tune field 'shot'", "'shots'"],
    ),
    (["--config={}", "--config.seed=few"], ["config.seed=few"]),
    (["--config={}", "--wrkdir=x"], ["'wrkdir'", "workdir"]),
    (["--config={}", "--workdir=x", "more"], ["more"]),
  ],
)
def test_what_is_misspelt_ends_in_one_clean_message(config_file, args, words):
  result = run_main(*(arg.format(config_file) for arg in args))
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  assert result.stderr.startswith("synthjax: ")
  for word in words:
    assert word in result.stderr


def test_an_unknown_task_ends_in_one_clean_message(config_file, tmp_path):
  result = run_main(f"--config={config_file}", f"--workdir={tmp_path}/run")
  assert result.returncode == 2
  assert result.stderr.startswith("synthjax: There is no task 'no_such_task'")
  assert not (tmp_path / "run").exists()


@pytest.fixture
def jax_settings():
  """Puts JAX's cache settings back, as other tests share them."""
  import jax

  before = jax.config.jax_compilation_cache_dir
  yield jax.config
  jax.config.update("jax_compilation_cache_dir", before)


def test_the_compilation_cache_is_private(jax_settings, tmp_path, monkeypatch):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  folder = cache.use_compilation_cache()
  assert folder == tmp_path / "cache" / "jax"
  assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
  assert jax_settings.jax_compilation_cache_dir == str(folder)
  assert cache.use_compilation_cache() == folder  # as a second run finds it


def test_a_cache_that_others_can_write_is_refused(tmp_path, monkeypatch):
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache").chmod(0o777)
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  with pytest.raises(UserError, match="chmod 700"):
    cache.use_compilation_cache()


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "file" / "cache"))
  with pytest.raises(UserError, match="SYNTHJAX_CACHE"):
    cache.use_compilation_cache()


def test_a_seed_must_be_a_whole_number(tasks, tmp_path):
  with pytest.raises(UserError, match="config.seed=-1: needed a whole number"):
    main.run_tasks(config_of(tasks=("first",), seed=-1), str(tmp_path))
  assert tasks == []
