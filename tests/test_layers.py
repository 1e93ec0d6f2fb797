"""Imports point down, as the layout promises."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "synthjax"

# What each part of the package may import of it. A part is a folder or a module
# of synthjax; those that are not named here are leaves, free for all to use.
MAY_IMPORT = {
  "main": {"tasks", "config", "train"},
  "weights": {"convert", "text"},
  "classify": {"encoders", "train", "convert", "data"},
  "tasks": {
    "config",
    "generators",
    "encoders",
    "report",
    "train",
    "evals",
    "diffusion",
    "convert",
    "text",
    "data",
    "models",
    "boxes",
    "embedded",
  },
  "report": {"evals", "data"},
  "generators": {"train", "diffusion", "convert", "text", "data", "models"},
  "encoders": {"train", "convert", "text", "data", "models"},
  # The one step sideways: the denoising objective noises images by the same
  # schedule that the samplers walk down.
  "train": {"diffusion", "boxes"},
  "evals": {"boxes"},
  "diffusion": set(),
  "convert": {"models"},
  "text": set(),
  "data": {"embedded"},
  "models": {"boxes"},
  "boxes": set(),
  "embedded": {"data", "text"},
  "config": set(),
}
LEAVES = {
  "articles",
  "artifacts",
  "atomic",
  "cache",
  "device_use",
  "download",
  "errors",
  "locks",
  "progress",
  "timings",
}

# Libraries that a part must do without.
MUST_NOT_IMPORT = {
  "data": {"flax", "optax"},
  "text": {"flax", "optax", "jax"},
  "diffusion": {"flax", "optax", "ml_collections"},
  "train": {"ml_collections"},
  "models": {"optax", "ml_collections"},
  "boxes": {"flax", "optax", "ml_collections"},
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


def part_of(name: str) -> str | None:
  """Returns the part of synthjax that a dotted name lies in."""
  first, _, rest = name.partition(".")
  return rest.split(".")[0] if first == "synthjax" and rest else None


def violations(path: pathlib.Path, source: str) -> list[str]:
  """Returns what a module of the package imports and should not."""
  relative = path.relative_to(ROOT)
  part = relative.parts[1].removesuffix(".py")
  if part == "__init__":
    return []
  names = imports_of(source, ".".join(relative.parent.parts))
  problems = []
  for name in sorted(names):
    other, library = part_of(name), name.split(".")[0]
    if library in MUST_NOT_IMPORT.get(part, ()):
      problems.append(f"{relative} imports {name}")
    if library in ("configs", "tests", "benchmarks"):
      problems.append(f"{relative} imports {name}")
    if other is None or other in LEAVES or other.startswith("__"):
      continue
    allowed = MAY_IMPORT.get(part, set()) | (
      LEAVES if part in LEAVES else set()
    )
    sideways = part == "tasks" and other == "tasks"
    if sideways or (other != part and other not in allowed):
      problems.append(f"{relative} imports {name}")
  return problems


@pytest.mark.parametrize(
  "path", modules(), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path):
  assert not violations(path, path.read_text())


def test_every_part_of_the_package_has_a_place():
  parts = {
    path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()
  }
  assert parts <= {"__init__"} | MAY_IMPORT.keys() | LEAVES


def test_configs_import_nothing_else_of_the_package():
  for path in sorted((ROOT / "configs").glob("*.py")):
    names = imports_of(path.read_text(), "configs")
    parts = {part_of(name) for name in names} - {None}
    assert parts <= {"config"}, f"{path} imports {sorted(parts)}"


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
    ("training/loop.py", "from synthjax.models import glide"),
    ("diffusion/samplers.py", "from synthjax.models.glide.model import UNet"),
    ("models/glide/model.py", "from ..train import loop"),
    ("detection/nms.py", "from synthjax.models import faster_rcnn"),
    ("detection/nms.py", "import flax"),
    ("detection/voc.py", "from synthjax.boxes import geometry"),
    ("data/pipeline/loader.py", "import flax.linen as nn"),
    ("tokenizers/bpe.py", "from flax import linen"),
    ("evals/accuracy.py", "from synthjax import config"),
    ("training/loop.py", "import synthjax.tasks"),
    ("runtime/artifacts.py", "from synthjax.data import shards"),
    ("encoders/clip.py", "import configs.tune"),
  ],
)
def test_an_import_that_points_up_or_sideways_is_found(file, source):
  assert violations(PACKAGE / file, source)


@pytest.mark.parametrize(
  ("file", "source"),
  [
    ("tasks/tune.py", "from synthjax.train import loop"),
    ("tasks/tune.py", "from synthjax import artifacts, config"),
    (
      "data/real/sources.py",
      "from synthjax.data.generated.shards import Source",
    ),
    ("data/real/sources.py", "from . import shards\nimport numpy as np"),
    ("runtime/artifacts.py", "from synthjax import __version__\nimport json"),
    ("main.py", "import jax"),
    (
      "detection/faster_rcnn.py",
      "from synthjax.detection.roi_align import roi_align",
    ),
    ("detection/nms.py", "from synthjax.boxes import geometry"),
  ],
)
def test_an_import_that_points_down_is_let_through(file, source):
  assert not violations(PACKAGE / file, source)


@pytest.mark.parametrize(
  "code", ["import synthjax.main", "from synthjax.weights.__main__ import main"]
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
