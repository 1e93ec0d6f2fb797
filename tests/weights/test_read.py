"""Reading weights of any kind of file, recognised by its content."""

import gzip
import json
import pathlib
import random
import time

import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest
import torch_pickles as tp
from flax import serialization
from safetensors.numpy import save

from synthjax.runtime.errors import UserError
from synthjax.weights import read

RECORDED = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"


def flax_bytes() -> bytes:
  params = {
    "dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "norm": {"scale": jnp.array([1.5, -2], jnp.bfloat16)},
  }
  return serialization.to_bytes({"params": params, "step": 7})


def safetensors_bytes(header=None, entries=b"") -> bytes:
  """Returns a file with any header; by default, a sound one."""
  if header is None:
    return save({"a/w": np.ones((2, 3), np.float16), "b": np.array(5)})
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + entries


def written(tmp_path, raw: bytes, name="weights.bin"):
  path = tmp_path / name
  path.write_bytes(raw)
  return path


def refusal(path) -> str:
  with pytest.raises(UserError) as error:
    read.read_weights(path)
  assert str(path) in str(error.value)
  return str(error.value)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["x.safetensors", "x", "x.msgpack"])
@pytest.mark.parametrize("file", ["zip.pt", "legacy.pth.tar", "scripted.pt"])
def test_files_of_pytorch_are_recognised_by_their_content(tmp_path, name, file):
  path = written(tmp_path, (RECORDED / file).read_bytes(), name)
  assert {"scale", "float32"} & read.read_weights(path).keys()


def test_safetensors_are_read_under_any_name(tmp_path):
  weights = read.read_weights(written(tmp_path, safetensors_bytes(), "x.pt"))
  assert weights["a/w"].dtype == np.float16 and weights["a/w"].shape == (2, 3)
  assert weights["b"].shape == () and weights["b"] == 5
  assert not weights["a/w"].flags.writeable


@pytest.mark.parametrize(
  "dtype",
  [
    *("float64", "float32", "float16", "bfloat16", "bool"),
    *("int64", "int32", "int16", "int8", "uint8"),
  ],
)
def test_every_dtype_of_safetensors_equals_pytorch(tmp_path, dtype):
  torch = pytest.importorskip("torch")
  from safetensors.torch import save_file

  x = torch.arange(-3, 3).reshape(2, 3).to(getattr(torch, dtype))
  odd, path = torch.ones(1, dtype=torch.uint8), tmp_path / "x"
  save_file(
    {"x": x, "empty": x[:0].clone(), "scalar": x[0, 0].clone(), "odd": odd},
    path,
  )
  weights = read.read_weights(path)
  assert weights["empty"].shape == (0, 3) and weights["scalar"].shape == ()
  assert str(weights["x"].dtype) == dtype
  raw = x.view(torch.int16).numpy() if dtype == "bfloat16" else x.numpy()
  assert weights["x"].tobytes() == raw.tobytes()


def test_flax_files_are_read_with_their_dicts_flattened(tmp_path):
  weights = read.read_weights(written(tmp_path, flax_bytes()))
  kernel, scale = "params/dense/kernel", "params/norm/scale"
  assert weights.keys() == {kernel, scale, "step"}
  np.testing.assert_array_equal(weights[kernel], [[0, 1, 2], [3, 4, 5]])
  assert weights[scale].dtype == ml_dtypes.bfloat16
  assert weights[scale].astype(float).tolist() == [1.5, -2]
  assert weights["step"] == 7 and weights["step"].shape == ()


def test_flax_arrays_in_chunks_are_put_together(tmp_path, monkeypatch):
  monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
  raw = serialization.msgpack_serialize({"w": np.arange(12.0).reshape(3, 4)})
  weights = read.read_weights(written(tmp_path, raw))
  np.testing.assert_array_equal(weights["w"], np.arange(12.0).reshape(3, 4))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"


@pytest.mark.parametrize(
  ("raw", "words"),
  [
    (b"", "is empty"),
    (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    (b"\n  <html lang='en'>", "a web page"),
    (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML page"),
    (LFS, "git lfs pull"),
    (gzip.compress(b"weights", mtime=0), "compressed by gzip"),
    (b"BZh91AY&SY", "compressed by bzip2"),
    (b"\xfd7zXZ\x00", "compressed by xz"),
    (b'{"weight_map": {}}', "JSON"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"what is this", "begins with b'what is this'"),
    (b"\x80", "begins with"),
  ],
)
def test_a_file_of_another_kind_is_named(tmp_path, raw, words):
  assert words in refusal(written(tmp_path, raw))


def test_missing_files_and_folders_are_named(tmp_path):
  assert "There is no file" in refusal(tmp_path / "none.pt")
  written(tmp_path, b"x", "model.safetensors")
  assert "is a folder" in refusal(tmp_path)
  assert "model.safetensors" in refusal(tmp_path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"w": dict(dtype=dtype, shape=shape, data_offsets=offsets)}


@pytest.mark.faults
@pytest.mark.parametrize(
  ("header", "words"),
  [
    (entry(offsets=(0, 4)), "has 4 bytes for"),
    (entry(offsets=(8, 16)), "ends before w does"),
    (entry(offsets=(-8, 0)), "the numbers"),
    (entry(offsets=(8, 0)), "has -8 bytes"),
    (entry(offsets=(0,)), "damaged"),
    (entry(shape=(-1, -2)), "the numbers"),
    (entry(shape=(2.0,)), "the numbers"),
    (entry(shape="2"), "the numbers"),
    (entry(shape=(2**40, 2**40), offsets=(0, 2**82)), "ends before"),
    (entry(dtype="F8_E4M3", offsets=(0, 2)), r"w (F8_E4M3)"),
    (entry(dtype=["F32"]), "damaged"),
    ({"w": 3}, "damaged"),
    ({}, "no arrays"),
    ({"__metadata__": {"format": "pt"}}, "no arrays"),
  ],
)
def test_safetensors_that_lie_about_their_arrays_are_refused(
  tmp_path, header, words
):
  raw = safetensors_bytes(header, bytes(8))
  assert words in refusal(written(tmp_path, raw))


def packed(shape, dtype, buffer, code=1) -> bytes:
  inside = msgpack.packb((shape, dtype, buffer), use_bin_type=True)
  return msgpack.packb({"w": msgpack.ExtType(code, inside)})


@pytest.mark.faults
@pytest.mark.parametrize(
  ("raw", "words"),
  [
    (packed((3,), "float32", bytes(8)), "damaged"),
    (packed((1,), "object", bytes(8)), "damaged"),
    (packed((2,), "U1", bytes(8)), "where arrays and numbers are allowed"),
    (packed((1,), "float33", bytes(8)), "damaged"),
    (packed((2,), "float32", bytes(8), code=9), "where arrays and numbers"),
    (packed("w", "float32", bytes(8)), "damaged"),
    (msgpack.packb({"w": "text"}), "where arrays and numbers are allowed"),
    (msgpack.packb({"w": {}}), "no arrays"),
    (b"\xdf\xff\xff\xff\xff\xa1w", "damaged"),
    (b"\x81\xa1w\xdd\xff\xff\xff\xff", "damaged"),
    (b"\x81\xa1a" * 400 + b"\x01", "nested deeper"),
    (b"\x81\xa1a" * 10**5 + b"\x01", "damaged"),
    (b"\x81\xa1w\xc1", "damaged"),
    (flax_bytes() + b"\x01", "damaged"),
    (
      msgpack.packb({"w": {"__msgpack_chunked_array__": True, "shape": 3}}),
      "damaged",
    ),
    (
      msgpack.packb(
        {
          "w": {
            "__msgpack_chunked_array__": True,
            "shape": {"0": 2**50},
            "chunks": {},
          }
        }
      ),
      "damaged",
    ),
  ],
)
def test_hostile_msgpack_is_refused(tmp_path, raw, words):
  assert words in refusal(written(tmp_path, raw))


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["safetensors", "flax"])
def test_broken_files_are_read_or_refused_and_nothing_else(tmp_path, kind):
  raw = {"safetensors": safetensors_bytes(), "flax": flax_bytes()}[kind]
  rng, start = random.Random(0), time.monotonic()
  for _ in range(150):
    broken = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
      broken[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    try:
      for value in read.read_weights(written(tmp_path, broken)).values():
        assert isinstance(value, np.ndarray)
    except UserError as error:
      assert "weights.bin" in str(error)
  for _ in range(100):
    cut = raw[: rng.randrange(1, len(raw))]
    assert "cut short" in (m := refusal(written(tmp_path, cut))) or (
      len(cut) < 9 and "begins with" in m
    )
  assert time.monotonic() - start < 30


def test_programs_in_pickles_are_refused_here_too(tmp_path):
  attack = tp.Call(tp.Name("posix", "system"), (f"touch {tmp_path}/ran",))
  assert "posix.system" in refusal(tp.zip_file(tmp_path / "x.pt", attack))
  assert "posix.system" in refusal(tp.legacy_file(tmp_path / "y.pt", attack))
  assert not (tmp_path / "ran").exists()


@pytest.mark.faults
@pytest.mark.parametrize(
  ("where", "words"),
  [
    ("../a.safetensors", "no names of files"),
    ("/etc/passwd", "no names of files"),
    ("a.safetensors", "Missing: a.safetensors"),
    ("b.index.json", "JSON"),  # an index of itself
    (5, "JSON"),
  ],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, where, words):
  raw = json.dumps({"weight_map": {"w": where}}).encode()
  assert words in refusal(written(tmp_path, raw, "b.index.json"))


@pytest.mark.faults
def test_parts_that_share_a_name_are_refused(tmp_path):
  for name in ("a", "b"):
    written(tmp_path, safetensors_bytes(), name)
  raw = json.dumps({"weight_map": {"b": "a", "c": "b"}}).encode()
  path = written(tmp_path, raw, "x.index.json")
  with pytest.raises(UserError, match="another file of the same index"):
    read.read_weights(path)
