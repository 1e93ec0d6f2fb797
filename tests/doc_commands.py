"""What is checked of each kind of command in the documentation.

CHECKS is pattern -> function; a command that none fits fails. What a command
needs of the world outside (weights, data, a cloud, a cluster) may be absent;
all else must be there: files, flags, fields, names and arguments.
"""

import argparse
import importlib
import pathlib
import re
import sys
import tomllib

import pytest
import yaml
from absl import flags
from doc_blocks import ROOT, Command

from synthjax import datasets, main
from synthjax.data.real import publishers
from synthjax.runtime.errors import UserError
from synthjax.weights import given_files
from synthjax.weights.catalogue import FAMILIES, HUB_GENERATORS, RELEASED

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What `check` of a task may miss: files of others, and tasks before it.
ABSENT = re.compile(
  r"synthjax\.(weights|datasets) fetch|There is no (folder|file)|is not there"
  r"|has not been completed|TFDS has prepared no|hub cannot be reached"
  r"|pip install .synthjax\["
)
# Tasks whose checks outline large networks, which takes seconds.
OUTLINED = ("pretrain", "detect")
# Words that stand for what readers put in, and an example of it.
PLACEHOLDERS = {
  "--config=...": "--config=configs/quickstart.py",
  "--workdir=...": "--workdir=runs/example",
  "--config=configs/FILE.py[:arg,arg=value]": "--config=configs/quickstart.py",
  "[--config.field=value]": "--config.seed=1",
  "--config=FILE[:arg,arg=value]": "--config=quickstart",
  "--workdir=DIR": "--workdir=runs/example",
}


class Parsed(Exception):
  """Arguments were read, and nothing further is wanted."""


def parse(words: list[str]) -> tuple:
  """Returns config, workdir and --shared of what follows synthjax.main."""
  forget_flags()
  argv = ["main", *(PLACEHOLDERS.get(word, word) for word in words)]
  before, sys.argv = sys.argv, argv  # which the flag of the config reads
  try:
    left = main.parse_flags(argv)
  finally:
    sys.argv = before
  found = flags.FLAGS
  assert left == ["main"] and found.config and found.workdir, argv
  return found.config, found.workdir, found.shared


def forget_flags() -> None:
  """Undoes what parsing has left, as one process usually parses once."""
  flags.FLAGS.unparse_flags()
  for name in list(flags.FLAGS):
    if name.startswith("config."):
      delattr(flags.FLAGS, name)
  flags.FLAGS.mark_as_parsed()


def check_main(words: list[str], *, tasks: bool) -> None:
  """Parses, and runs what the tasks check before they work; all, if wanted."""
  config, workdir, shared = parse(words)
  modules = [importlib.import_module(main.TASKS[t]) for t in config.tasks]
  if shared:
    assert {module.PROCESSES for module in modules} == {"shared"}
  for module in modules:
    if module.__name__.rpartition(".")[2] in OUTLINED and not tasks:
      continue
    try:
      getattr(module, "check", lambda config, workdir: None)(config, workdir)
    except UserError as error:
      assert ABSENT.search(str(error)), f"{words}: {error}"


def check_weights(words: list[str]) -> None:
  command, *names = [word for word in words if not word.startswith("--")]
  options = [word for word in words if word.startswith("--")]
  options = [o for o in options if not o.startswith("--output=")]
  if options:
    (kind,) = options
    assert command == "convert" and len(names) == 1, words
    assert kind.removeprefix("--kind=") in FAMILIES, words
    return
  if command == "pack":  # made files are tested in test_stable_diffusion_draw
    assert len(names) == 1, words
    return
  if command == "convert":
    name, *files = names
    for file in files:
      pathlib.Path(file).touch()
    made = given_files._match(name, files)
    wanted = {file.name for file in RELEASED[name].files}
    assert wanted == made.keys(), f"{words} leaves out {wanted - made.keys()}"
    return
  assert command in ("list", "fetch", "check"), words
  assert bool(names) == (command != "list")
  assert {*names} <= {*RELEASED, *HUB_GENERATORS}


def check_datasets(words: list[str]) -> None:
  command, *names = [word for word in words if not word.startswith("--")]
  assert command in datasets.COMMANDS, words
  assert set(names) <= set(publishers.published()), words


def check_benchmark(name: str, words: list[str]) -> None:
  """Lets the benchmark read its arguments; a test of its own runs it small."""
  assert (ROOT / f"tests/benchmarks/test_benchmarks_{name}.py").exists()
  check_program(f"benchmarks.{name}", words)


def check_program(module: str, words: list[str]) -> None:
  """Lets the `main` of a module read its arguments, and do no more."""

  def parse_args(parser, args=None, namespace=None):
    original(parser, args, namespace)
    raise Parsed

  original = argparse.ArgumentParser.parse_args
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    patch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Parsed):
      importlib.import_module(module).main()


def check_tests(words: list[str]) -> None:
  match words:
    case [] | ["--all"]:
      pass
    case ["-m", expression]:
      markers = PROJECT["tool"]["pytest"]["ini_options"]["markers"]
      names = {marker.split(":")[0] for marker in markers}
      assert set(re.findall(r"\w+", expression)) <= names | {"not", "and", "or"}
    case [path]:
      assert path.startswith("tests/") and (ROOT / path).exists(), path
    case _:
      raise AssertionError(words)


def check_pip(words: list[str]) -> None:
  (target,) = words
  extra = re.fullmatch(r"(?:\.|synthjax(?=\[))(?:\[(\w+)\])?", target)[1]
  assert extra is None or extra in PROJECT["project"]["optional-dependencies"]


class Launcher:
  """Runs the scripts of launch/ with stand-ins for Python, gcloud and srun."""

  def __init__(self, start, folder: pathlib.Path):
    self.start, self.log = start, folder / "python.log"
    self.check_tasks = True

  def __call__(self, script: str, words: list[str], **environment) -> list[str]:
    """Returns what the script gives to synthjax.main."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if words[:1] == ["follow"]:  # which would not end
      assert "\n  follow)" in (ROOT / "launch/tpu.sh").read_text()
      return []
    self.log.unlink(missing_ok=True)
    process = self.start(script, *words, codes=("0",) * 4, **environment)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, f"{script} {words}: {out}"
    if not self.log.exists():
      done = ("build", "create", "delete", "install", "show", "stop")
      assert words and words[0] in done
      return []
    said = {
      line.partition(" ids=")[0] for line in self.log.read_text().splitlines()
    }
    passed = []
    for line in said:  # of each process the same
      option, module, *rest = line.split()
      assert option == "-m", line
      if module == "synthjax.weights":
        check_weights(rest)
      else:
        assert module == "synthjax.main" and not passed, said
        passed = rest
    return passed


def check_launch(command: Command, launcher: Launcher) -> None:
  script, *words = command.words[1:]
  script = script.removeprefix("launch/")
  if script == "test.sh":
    return check_tests(words)
  passed = launcher(script, words, **command.environment)
  if passed and passed[-1] != "--help":
    check_main(passed, tasks=launcher.check_tasks)


def check_prepare(script: str) -> None:
  """Checks what a shell prepares, which would install it: that it is there."""
  extra = script.removeprefix(". launch/environment.sh && prepare ")
  check_pip([f".[{extra}]"])


def check_slurm(command: Command, launcher: Launcher) -> None:
  """Drops the options of srun and sbatch, and checks what they start."""
  program, *words = command.words
  while words[0].startswith("--"):
    option = words.pop(0).partition("=")[0]
    assert option in ("--nodes", "--ntasks-per-node", "--partition"), option
  if program == "sbatch":
    (script, *rest) = words
    assert script == "launch/slurm.sh"
    text = (ROOT / script).read_text()
    assert 'srun --kill-on-bad-exit=1 bash launch/gpu.sh "$@"' in text
    words = ["bash", "launch/gpu.sh", *rest]
  assert words[:2] == ["bash", "launch/gpu.sh"], words
  check_launch(command._replace(words=words), launcher)


def check_sky(command: Command, launcher: Launcher) -> None:
  """Checks the variables that a task of SkyPilot gets, and the config."""
  file, *words = command.words[3:]
  given = yaml.safe_load((ROOT / file).read_text())["envs"]
  assert words[::2] == ["--env"] * (len(words) // 2), words
  for name, _, value in (word.partition("=") for word in words[1::2]):
    assert name in given, name
    given[name] = value
  if given["WEIGHTS"]:
    check_weights(["fetch", *given["WEIGHTS"].split()])
  run = [f"--config={given['CONFIG']}", f"--workdir={given['WORKDIR']}"]
  check_main(run + given["FIELDS"].split(), tasks=launcher.check_tasks)


def check(command: Command, launcher: Launcher) -> None:
  """Checks a command by the one pattern of CHECKS that fits."""
  (function,) = [f for p, f in CHECKS.items() if re.match(p, command.text)]
  function(command, launcher)


CHECKS = {
  r"python -m synthjax\.main ": lambda c, launcher: check_main(
    c.words[3:], tasks=launcher.check_tasks
  ),
  r"python -m synthjax\.(classify|detect|evaluate|export|push|verify)\b": (
    lambda c, _: check_program(c.words[2], c.words[3:])
  ),
  r"python -m synthjax\.config\.config_files\b": lambda c, _: check_program(
    c.words[2], c.words[3:]
  ),
  r"python -m synthjax\.weights ": lambda c, _: check_weights(c.words[3:]),
  r"python -m synthjax\.datasets ": lambda c, _: check_datasets(c.words[3:]),
  r"python -m tools\.embedded_world\.build( --help)?$": lambda c, _: (
    importlib.import_module("tools.embedded_world.build")
  ),
  r"python -m tools\.(compile_ahead|build_site)\b": lambda c, _: check_program(
    c.words[2], c.words[3:]
  ),
  r"python -m tools\.embedded_world\.(probe|samples|tables)\b": lambda c, _: (
    check_program(c.words[2], c.words[3:])
  ),
  r"python -m benchmarks\.\w+": lambda c, _: check_benchmark(
    c.words[2].removeprefix("benchmarks."), c.words[3:]
  ),
  r"bash launch/\w+\.sh": check_launch,
  r"srun |sbatch ": check_slurm,
  r"sky jobs launch ": check_sky,
  r"bash -c .*launch/environment\.sh": lambda c, _: check_prepare(c.words[2]),
  r"pip install -e ": lambda c, _: check_pip(c.words[3:]),
  r"pip install synthjax\[": lambda c, _: check_pip(c.words[2:]),
  r"pip install synthjax-VERSION|python -m build$": lambda c, _: None,
  r"hf auth login$": lambda c, _: None,  # of huggingface_hub
  # Google's.
  r"gcloud storage (buckets create|cp|rm) ": lambda c, _: None,
  r"(cp|rm) -r runs/": lambda c, _: None,  # is run
}
