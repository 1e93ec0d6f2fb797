"""Imports point down, as the layout promises."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "synthjax"

# The rooms of the package from the lowest to the highest. A room imports rooms
# of lower rows alone, never one of its own row.
ROWS = (
  {"runtime"},
  {"config"},
  {
    "diffusion",
    "tokenizers",
    "evals",
    "embedded",
    "models.pixels",
    "models.unit",
  },
  {"data.pipeline"},
  {"labels", "weights", "data.generated"},
  {"models", "training", "data.formats"},
  {"encoders", "prompts", "data.real"},
  {"generators", "adapt", "detection"},
  {"report"},
  {"tasks"},
  {"main", "classify", "datasets", "push", "verify", "weights.__main__"},
  {"detect", "evaluate", "export"},
  {"__main__"},
)
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}

# Libraries that a room must do without.
MUST_NOT_IMPORT = {
  "data": {"flax", "optax"},
  "labels": {"flax", "optax", "jax"},
  "tokenizers": {"flax", "optax", "jax"},
  "diffusion": {"flax", "optax", "ml_collections"},
  "training": {"ml_collections"},
  "models": {"optax", "ml_collections"},
  "config": {"jax", "flax", "numpy"},
}


def modules():
  return sorted(PACKAGE.rglob("*.py"))


def imports_of(source: str, package: str) -> set[str]:
  """Returns the full names that a module imports, anywhere in it.

  Args:
    source: the text of the module.
    package: the dotted package it lies in, for relative imports.
  """
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      parts = package.split(".")
      above = parts[: len(parts) - node.level + 1] if node.level else []
      base = ".".join([*above, *([node.module] if node.module else [])])
      names |= {f"{base}.{alias.name}" for alias in node.names}
  return names


def room_of(name: str) -> str | None:
  """Returns the room of synthjax that a dotted name lies in."""
  parts = name.split(".")[1:]
  if not name.startswith("synthjax.") or parts[0] == "__version__":
    return None
  longest = ".".join(parts[:2])
  return longest if longest in ROW_OF else parts[0]


def violations(path: pathlib.Path, source: str) -> list[str]:
  """Returns what a module of the package imports and should not."""
  relative = path.relative_to(ROOT)
  room = room_of(".".join(relative.with_suffix("").parts))
  if room is None:
    return []
  problems = []
  for name in sorted(imports_of(source, ".".join(relative.parent.parts))):
    other, library = room_of(name), name.split(".")[0]
    if library in MUST_NOT_IMPORT.get(room.split(".")[0], ()):
      problems.append(f"{relative} imports {name}")
    if library in ("configs", "tests", "benchmarks", "tools"):
      problems.append(f"{relative} imports {name}")
    if other is None or (other == room and room != "tasks"):
      continue
    if ROW_OF.get(other, len(ROWS)) >= ROW_OF[room]:
      problems.append(f"{relative} imports {name}")
  return problems


def circles(imports: dict[str, set[str]]) -> set[str]:
  """Returns the modules that import themselves through others."""

  def reached(start):
    seen, left = set(), [start]
    while left:
      for name in imports[left.pop()] - seen:
        seen.add(name)
        left.append(name)
    return seen

  return {name for name in imports if name in reached(name)}


@pytest.mark.parametrize(
  "path", modules(), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path):
  assert not violations(path, path.read_text())


def test_every_room_of_the_package_has_a_row():
  names = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in modules()
    if path.name != "__init__.py"
  ]
  assert {room_of(name) for name in names} == {*ROW_OF}


def test_no_module_imports_itself_through_others():
  names = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in modules()
  }
  names = {name.removesuffix(".__init__"): path for name, path in names.items()}
  imports = {}
  for name, path in names.items():
    package = ".".join(path.relative_to(ROOT).parent.parts)
    imported = imports_of(path.read_text(), package)
    imported |= {other.rpartition(".")[0] for other in imported}
    imports[name] = {
      other
      for other in imported & names.keys()
      # A package that a module lies in is not what it asks for.
      if not name.startswith(f"{other}.") and other != name
    }
  assert not circles(imports)


def test_a_circle_is_found():
  assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}


def test_configs_import_nothing_else_of_the_package():
  for path in sorted((ROOT / "configs").glob("*.py")):
    names = imports_of(path.read_text(), "configs")
    rooms = {room_of(name) for name in names} - {None}
    assert rooms <= {"config"}, f"{path} imports {sorted(rooms)}"


def test_nothing_below_tasks_takes_a_config():
  for path in modules():
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part in ("main", "tasks", "config"):
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef):
        names = {arg.arg for arg in ast.walk(node.args) if hasattr(arg, "arg")}
        assert "config" not in names, f"{path}: {node.name}(config)"


@pytest.mark.parametrize(
  ("file", "source"),
  [
    ("tasks/tune.py", "from synthjax.tasks import score"),
    ("tasks/tune.py", "from . import score"),
    ("tasks/tune.py", "def run():\n  import synthjax.tasks.score"),
    ("training/loop.py", "from synthjax.models.glide import model"),
    ("diffusion/samplers.py", "from synthjax.models.glide.model import UNet"),
    ("models/vit/model.py", "from ...training import loop"),
    ("models/resnet/model.py", "from synthjax.detection import faster_rcnn"),
    ("models/conv.py", "import optax"),
    ("detection/voc.py", "from synthjax.adapt import coop"),
    ("data/pipeline/loader.py", "import flax.linen as nn"),
    ("data/generated/plan.py", "from synthjax.data.real import sources"),
    ("tokenizers/bpe.py", "from flax import linen"),
    ("runtime/progress.py", "from synthjax import config"),
    ("training/loop.py", "import synthjax.tasks"),
    ("runtime/artifacts.py", "from synthjax.data.generated import shards"),
    ("encoders/clip.py", "import configs.tune"),
    ("embedded/world.py", "from tools import build_senses"),
  ],
)
def test_an_import_that_points_up_or_sideways_is_found(file, source):
  assert violations(PACKAGE / file, source)


@pytest.mark.parametrize(
  ("file", "source"),
  [
    ("tasks/tune.py", "from synthjax.training import loop"),
    ("tasks/tune.py", "from synthjax.runtime import artifacts"),
    ("data/real/sources.py", "from synthjax.data.generated import shards"),
    ("data/real/sources.py", "from . import archives\nimport numpy as np"),
    ("runtime/artifacts.py", "from synthjax import __version__\nimport json"),
    ("training/denoising.py", "from synthjax.models.pixels import to_unit"),
    ("main.py", "import jax"),
    ("detection/faster_rcnn.py", "from synthjax.models.resnet import model"),
    ("evals/accuracy.py", "from synthjax.config import schema"),
  ],
)
def test_an_import_that_points_down_is_let_through(file, source):
  assert not violations(PACKAGE / file, source)


@pytest.mark.parametrize(
  "code",
  [
    "import synthjax.main",
    "from synthjax.weights.__main__ import main",
    "import synthjax.datasets",
  ],
)
def test_starting_the_program_does_not_wait_for_slow_libraries(code):
  """A misspelt flag is answered before JAX and TFDS have been imported."""
  code = (
    f"{code}; import sys; "
    "print([m for m in ('jax', 'flax', 'tensorflow_datasets', 'grain', "
    "'orbax', 'transformers', 'matplotlib') if m in sys.modules])"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
  )
  assert result.stdout.strip() == "[]", result.stdout + result.stderr


# Rooms whose modules follow a rule that their docstring states.
BY_RULE = (
  "tasks",
  "report/sections",
  *(f"models/{p.name}" for p in (PACKAGE / "models").iterdir() if p.is_dir()),
)


@pytest.mark.parametrize(
  "room",
  sorted(
    room
    for path in PACKAGE.rglob("__init__.py")
    if (room := str(path.parent.relative_to(PACKAGE))) not in BY_RULE
  ),
)
def test_a_room_names_its_modules(room):
  doc = ast.get_docstring(
    ast.parse((PACKAGE / room / "__init__.py").read_text())
  )
  inside = {
    path.stem if path.suffix else path.name
    for path in (PACKAGE / room).iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
  }
  words = {*re.findall(r"\w+", doc)}
  assert inside - words - {"__init__", "__main__"} == set()
