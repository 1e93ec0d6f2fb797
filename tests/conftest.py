"""Settings and fixtures that every test shares."""

import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np
import pytest
from absl import flags

# Grain's workers, and whatever else reads a flag, find defaults instead of an
# UnparsedFlagAccessError.
flags.FLAGS.mark_as_parsed()

GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_configure(config):
  """Chooses JAX's device and its cache before any test touches an array."""
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would its processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
  # No test asks the hub itself; `hub_server` stands in for it.
  os.environ["HF_HUB_OFFLINE"] = "1"
  expression = config.option.markexpr
  if "gpu" not in expression or "not gpu" in expression:
    # A test that passes on a CPU alone passes on a machine without more.
    jax.config.update("jax_platforms", "cpu")
  if expression == "not slow" and "XLA_FLAGS" not in os.environ:
    # Compiling is what takes the time of the fast tests. launch/test.sh --all
    # runs the slow ones, and those against references again, without this.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
  # Compiled functions outlive the run, so that the second one is fast.
  from synthjax.runtime import cache

  cache.use_compilation_cache()


def pytest_collection_modifyitems(config, items):
  """Puts the slow tests last, and skips what needs a GPU where none is."""
  del config
  items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
  wanting = [item for item in items if item.get_closest_marker("gpu")]
  if wanting and not _has_gpu():
    for item in wanting:
      item.add_marker(
        pytest.mark.skip(reason="needs a GPU, and pytest called with -m gpu")
      )


def _has_gpu() -> bool:
  try:
    return bool(jax.devices("gpu"))
  except RuntimeError:  # JAX's way of saying that there is none
    return False


@pytest.fixture(scope="session")
def golden():
  """Loads recorded arrays by name: golden("clip_vit")["out/logits"].

  The entry "meta" is a dict, all others are arrays. The folder is the
  environment's SYNTHJAX_GOLDEN, and then tests/golden.
  """
  folder = pathlib.Path(os.environ.get("SYNTHJAX_GOLDEN") or GOLDEN)

  def load(name: str) -> dict:
    path = folder / f"{name}.npz"
    if not path.exists():  # recorded for this repository alone
      path = pathlib.Path(GOLDEN) / path.name
    if not path.exists():
      pytest.skip(
        f"{path} is not there; SYNTHJAX_GOLDEN names the folder to read from"
      )
    with np.load(path, allow_pickle=False) as arrays:
      entries = {key: arrays[key] for key in arrays.files}
    return entries | {"meta": json.loads(str(entries["meta"]))}

  return load


@pytest.fixture
def bucket(monkeypatch):
  """Serves gs:// from memory, and returns an empty folder there."""
  fsspec = pytest.importorskip("fsspec")
  from etils.epath import backend
  from fsspec.implementations.memory import MemoryFileSystem

  from synthjax.runtime import locks

  class Bucket(MemoryFileSystem):
    protocol = ("gcs", "gs", "memory")
    store, pseudo_dirs = {}, [""]

  monkeypatch.setattr(
    backend._FileSystemSpecBackend,
    "_get_filesystem",
    lambda self, name: Bucket() if name == "gcs" else fsspec.filesystem(name),
  )
  monkeypatch.setattr(locks, "_SETTLE", 0.0)
  return "gs://bucket/folder"


@pytest.fixture
def command_line(monkeypatch):
  """Returns a function: the words behind synthjax.main -> the config."""
  from doc_commands import forget_flags

  from synthjax import main

  def parse(*words: str):
    forget_flags()
    monkeypatch.setattr(sys, "argv", ["main", *words])
    assert main.parse_flags(sys.argv) == ["main"]
    return flags.FLAGS.config

  yield parse
  forget_flags()
