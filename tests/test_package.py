"""The package as a user has it: a wheel in an empty folder.

The quick tests use the command in this environment; the slow one builds sdist
and wheel, and installs the wheel into a fresh environment.
"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

from synthjax import __main__ as command
from synthjax.config import config_files
from synthjax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
# Asks every command for help, where heavy libraries cannot be imported.
HELP = """
import sys
from synthjax import __main__ as command

HEAVY = ("jax", "flax", "optax", "tensorflow_datasets", "transformers")

class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in HEAVY:
      raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Blocker())
for words in ([], *([name] for name in command.COMMANDS)):
  try:
    command.main([*words, "--help"])
  except SystemExit as end:
    assert not end.code, (words, end.code)
"""


def test_help_imports_no_jax_and_leaves_the_disk_alone(tmp_path):
  home = tmp_path / "home"
  home.mkdir()
  places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
  environment = {k: v for k, v in os.environ.items() if "SYNTHJAX" not in k}
  done = subprocess.run(
    [sys.executable, "-B", "-c", HELP],
    cwd=home,
    env=environment | places | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr
  assert not list(home.iterdir()) and not done.stderr
  for name in command.COMMANDS:
    assert f"synthjax {name}" in done.stdout, name
  assert "--workdir" in done.stdout and "--data_dir" in done.stdout


def test_a_misspelt_command_gets_the_nearest(capsys):
  with pytest.raises(SystemExit) as end:
    command.main(["clasify"])
  assert end.value.code == 2
  assert "did you mean 'classify'?" in capsys.readouterr().err
  with pytest.raises(SystemExit) as end:
    command.main([])
  assert end.value.code == 2


def test_the_list_has_every_config_with_a_line(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  command.main(["list"])
  lines = capsys.readouterr().out.splitlines()
  for path in (ROOT / "configs").glob("*.py"):
    (line,) = [each for each in lines if each.split(" ")[0] == path.stem]
    assert re.fullmatch(rf"{path.stem} +\S.*[.]", line)
  command.main(["list", "own_labels"])
  assert "labels=my.yaml" in capsys.readouterr().out


def test_configs_are_found_here_first_and_then_in_the_package(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  of_package = config_files.OF_PACKAGE / "quickstart.py"
  for name in ("quickstart", "quickstart.py", "configs/quickstart.py"):
    assert config_files.find(name) == of_package
  ours = tmp_path / "configs" / "quickstart.py"
  ours.parent.mkdir()
  ours.write_text('"""Ours."""')
  (tmp_path / "home").mkdir()
  (tmp_path / "home" / "x.py").write_text("")
  assert config_files.find("quickstart").resolve() == ours
  assert config_files.find("~/x.py") == tmp_path / "home" / "x.py"
  assert config_files.files()["quickstart"].resolve() == ours
  for name in ("quikstart", "configs/quikstart.py"):
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
      config_files.find(name)
  with pytest.raises(UserError, match="no config file 'more/quickstart.py'"):
    config_files.find("more/quickstart.py")


# --- the built package --------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Builds sdist and wheel, and returns their paths."""
  for library in ("build", "hatchling", "hatch_vcs"):
    if importlib.util.find_spec(library) is None:
      assert "CI" not in os.environ, f"{library} is in the extra `dev`"
      pytest.skip(f"{library} is not installed")
  folder = tmp_path_factory.mktemp("dist")
  # The wheel is built from the sdist, which so is known to be whole.
  subprocess.run(
    [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
    check=True,
  )
  (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
  return sdist, wheel


def tracked(*folders):
  listed = subprocess.run(
    ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True
  )
  if listed.returncode:
    pytest.skip("this is no clone")
  return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


@pytest.mark.slow
def test_sdist_and_wheel_hold_every_file(built):
  sdist, wheel = built
  with tarfile.open(sdist) as archive:
    packed = {name.partition("/")[2] for name in archive.getnames()}
  assert tracked() <= packed
  with zipfile.ZipFile(wheel) as archive:
    packed = {n for n in archive.namelist() if ".dist-info/" not in n}
  configs = {f"synthjax/{name}" for name in tracked("configs")}
  assert tracked("synthjax") | configs <= packed
  others = {name for name in packed if not name.startswith("synthjax/")}
  assert not others and not any(name.endswith(".pyc") for name in packed)


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(built, tmp_path):
  """In a fresh environment, which borrows this one's libraries alone."""
  _, wheel = built
  venv = tmp_path / "venv"
  subprocess.run([sys.executable, "-m", "venv", venv], check=True)
  (site,) = venv.glob("lib/python*/site-packages")
  # Editable installs are found by .pth files, which are not read from here.
  (site / "borrowed.pth").write_text(
    "\n".join(p for p in sys.path if p.endswith("-packages"))
    or sysconfig.get_path("purelib")
  )
  pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet"]
  subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
  empty = tmp_path / "empty"
  empty.mkdir()
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

  def synthjax(*words):
    return subprocess.run(
      [venv / "bin" / "synthjax", *words],
      cwd=empty,
      env=environment | {"JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    ).stdout

  assert synthjax("--version").split()[1] == wheel.name.split("-")[1]
  assert "quickstart" in synthjax("list")
  small = [
    "generate.images_per_class=1",
    "generate.seeds=(0,)",
    "prompts.per_class=1",
    "generator.base.respacing=2<960",
    "generator.upsampler.respacing=2<250",
    "tune.seeds=(0,)",
    "tune.num_epochs=1",
    "tasks=('prompts','generate','score','select','tune','report')",
  ]
  fields = [f"--config.{field}" for field in small]
  synthjax("run", "quickstart:images_per_class=1", "--workdir=run", *fields)
  assert (empty / "run" / "report" / "report.html").stat().st_size > 100_000
  assert "All files are as written." in synthjax("verify", "run")
  assert "clip_rn50" in synthjax("weights", "list")
