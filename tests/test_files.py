"""Weights on disk."""

import numpy as np
import pytest

from synthjax.convert import files
from synthjax.errors import UserError

PARAMS = {
  "a": {"kernel": np.arange(6, dtype=np.float32).reshape(3, 2).T},
  "scale": np.float32(2.5),
}


def test_weights_come_back_with_what_they_are(tmp_path):
  path = tmp_path / "w.safetensors"
  files.save_params(path, PARAMS, {"kind": "x", "sizes": [1, 2]})
  params, about = files.load_params(path)
  np.testing.assert_array_equal(params["a"]["kernel"], PARAMS["a"]["kernel"])
  assert params["scale"].shape == () and params["scale"] == 2.5
  assert about == {"kind": "x", "sizes": [1, 2]}


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
  with pytest.raises(UserError, match="config.encoder.weights.*runlocal"):
    files.locate(None, field="encoder.weights", family="clip")
