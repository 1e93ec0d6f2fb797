"""Weights on disk."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from synthjax.runtime.errors import UserError
from synthjax.weights import files

PARAMS = {
  "a": {"kernel": np.arange(6, dtype=np.float32).reshape(3, 2).T},
  "scale": np.float32(2.5),
}


def test_weights_come_back_with_their_description(tmp_path):
  path = tmp_path / "w.safetensors"
  files.save_params(path, PARAMS, {"kind": "x", "sizes": [1, 2]})
  params, about = files.load_params(path)
  np.testing.assert_array_equal(params["a"]["kernel"], PARAMS["a"]["kernel"])
  assert params["scale"].shape == () and params["scale"] == 2.5
  assert about == {"kind": "x", "sizes": [1, 2]}


def test_files_have_the_permissions_of_any_other(tmp_path):
  files.save_params(tmp_path / "w", PARAMS, {})
  (tmp_path / "other").touch()
  modes = {path.stat().st_mode for path in tmp_path.iterdir()}
  assert len(modes) == 1


def test_half_precision_halves_the_file_and_reads_as_float32(tmp_path):
  big = {"w": np.linspace(0, 1, 10_000, dtype=np.float32)}
  for dtype in ("float32", "float16"):
    files.save_params(tmp_path / dtype, big, {}, dtype=dtype)
  sizes = [(tmp_path / d).stat().st_size for d in ("float32", "float16")]
  assert sizes[1] < 0.51 * sizes[0]
  params, _ = files.load_params(tmp_path / "float16")
  assert params["w"].dtype == np.float32
  np.testing.assert_allclose(params["w"], big["w"], atol=5e-4)


@pytest.mark.parametrize("keep", [0, 5, 40, 100])
def test_a_file_cut_short_is_refused(tmp_path, keep):
  path = tmp_path / "w.safetensors"
  files.save_params(path, PARAMS, {"kind": "x"})
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(UserError, match="cut short"):
    files.load_params(path)


def test_a_missing_file_says_what_to_do(tmp_path):
  with pytest.raises(UserError, match="There are no weights"):
    files.load_params(tmp_path / "none")


def test_the_stored_precision_can_be_kept(tmp_path):
  params = {
    "half": np.float16([1, 2]),
    "single": np.float32([1 / 3]),
    "brain": np.asarray([0.5], ml_dtypes.bfloat16),
    "double": np.float64([0.25]),
  }
  path = tmp_path / "w.safetensors"
  files.save_params(path, params, {}, dtype=None)
  kept, _ = files.load_params(path, dtype=None)
  assert {k: str(v.dtype) for k, v in kept.items()} == {
    "half": "float16",
    "single": "float32",
    "brain": "float32",
    "double": "float32",
  }
  read, _ = files.load_params(path)
  for name, value in params.items():
    assert read[name].dtype == np.float32
    np.testing.assert_array_equal(read[name], value.astype(np.float32))


def test_a_description_is_read_without_the_arrays(tmp_path):
  path = tmp_path / "w.safetensors"
  files.save_params(path, PARAMS, {"kind": "x"})
  assert files.read_description(path) == {"kind": "x"}
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match="cut short"):
    files.read_description(path)


def test_another_s_safetensors_are_refused(tmp_path):
  from safetensors.numpy import save_file

  save_file({"w": np.zeros(3)}, tmp_path / "w.safetensors")
  with pytest.raises(UserError, match="was not written by synthjax"):
    files.load_params(tmp_path / "w.safetensors")


LOAD = """
import re, sys
from synthjax.weights import files

def peak():
  status = open("/proc/self/status").read()
  return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024

begun = peak()
files.sha256(sys.argv[1])
hashed = peak()
params, _ = files.load_params(sys.argv[1])
print(hashed - begun, peak() - hashed, len(params))
"""


@pytest.mark.skipif(
  not sys.platform.startswith("linux"), reason="reads /proc/self/status"
)
def test_big_files_are_read_without_further_copies(tmp_path):
  """128 MB as float16 are 256 as float32, and one array more on the way."""
  path = tmp_path / "w.safetensors"
  big = {f"w{i}": np.ones((1024, 2048), np.float16) for i in range(32)}
  files.save_params(path, big, {}, dtype=None)
  run = subprocess.run(
    [sys.executable, "-c", LOAD, str(path)],
    capture_output=True,
    text=True,
    check=True,
  )
  hashed, loaded, number = map(float, run.stdout.split())
  assert number == 32
  assert hashed < 20  # in pieces
  # The mapped pages, 128 MB, count too, but make room for others. With the
  # bytes and all arrays as they are stored it would be 512 MB.
  assert 256 <= loaded < 256 + 128 + 60


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path))
  return tmp_path / "weights"


def put(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  files.save_params(path, PARAMS, {"kind": "x"})
  return path


@pytest.mark.parametrize(
  ("reference", "file"),
  [
    ("released:glide/base.safetensors", "glide/base.safetensors"),
    ("released:clip_rn50", "clip_rn50/clip.safetensors"),
    ("released:clip_rn50/clip.safetensors", "clip_rn50/clip.safetensors"),
  ],
)
def test_fetched_weights_are_found_by_reference(cache, reference, file):
  path = put(cache / file)
  found = files.locate(reference, field="encoder.weights", family="clip")
  assert str(found) == str(path)


@pytest.mark.parametrize(
  ("weights", "family", "words"),
  [
    (None, "glide", ["fetch glide`", "released:glide/base.safetensors or"]),
    (None, "clip", ["fetch clip_rn50`", "released:clip_rn50/clip.safete"]),
    (None, "t5", ["fetch t5_common_gen`"]),
    (None, "other", ["fetch NAME`"]),
    ("nowhere.safetensors", "clip", ["no file nowhere.safetensors"]),
    ("released:clip_rn50", "clip", ["fetch clip_rn50`"]),
    ("released:glide", "glide", ["upsampler.safetensors", "x.weights"]),
    ("released:glide/bass.safetensors", "glide", ["base.safetensors"]),
    ("released:glade", "glide", ["did you mean 'glide'", "x.weights"]),
    ("embedded:none", "clip", ["no file"]),
  ],
)
def test_missing_weights_name_the_command(cache, weights, family, words):
  with pytest.raises(UserError) as error:
    files.locate(weights, field="x.weights", family=family)
  for word in words:
    assert word in str(error.value)
  if any("fetch" in word for word in words):
    assert "`python -m synthjax.weights fetch" in str(error.value)
    assert ":runlocal" in str(error.value)


def test_embedded_weights_and_paths_keep_their_meaning(tmp_path):
  found = files.locate("embedded:clip.safetensors", field="x", family="clip")
  assert found.exists()
  path = put(tmp_path / "w.safetensors")
  assert files.locate(str(path), field="x", family="clip") == path


def test_the_home_folder_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  path = put(tmp_path / "w.safetensors")
  found = files.locate("~/w.safetensors", field="x", family="clip")
  assert str(found) == str(path)
