"""Fixtures of the tests of the documentation: a folder, and stand-ins."""

import shutil

import emulated_bucket
import numpy as np
import pytest
from doc_blocks import ROOT, read
from doc_commands import Launcher, forget_flags
from PIL import Image
from test_launch import launch  # noqa: F401, a fixture

PHOTOS = ("red apple", "banana", "fish", "automobile", "evergreen tree")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
  """Makes a folder with configs and what a page shows, and changes into it.

  Buckets of s3:// are emulated beside it.
  """

  emulated_bucket.serve(tmp_path)

  def prepare(page=None):
    folder = tmp_path / "workspace"
    shutil.copytree(ROOT / "configs", folder / "configs")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    if page:
      _write_files(page, folder)

  yield prepare
  emulated_bucket.forget()
  forget_flags()


@pytest.fixture
def launcher(request, tmp_path):
  """Runs the scripts of launch/ in a copy of it, with stand-ins."""
  return Launcher(request.getfixturevalue("launch"), tmp_path)


def _write_files(page, folder):
  """Writes the files that a page shows, and photographs to classify."""
  for block in read(page)[0]:
    if block.file:
      path = folder / block.file
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(block.text)
  rng = np.random.default_rng(0)
  for name in PHOTOS:
    photo = folder / "photos" / name / "1.jpg"
    photo.parent.mkdir(parents=True)
    pixels = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
