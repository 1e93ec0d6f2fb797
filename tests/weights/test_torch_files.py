"""Reading files of torch.save and torch.jit.save without PyTorch."""

import mmap
import pathlib
import pickle
import tarfile
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_pickles as tp
from torch_pickles import assert_same, refusal

RECORDED = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"


@pytest.mark.golden
@pytest.mark.parametrize("name", ["zip.pt", "legacy.pth.tar"])
def test_recorded_state_dicts_are_read(name):
  weights = tp.read(RECORDED / name)
  base = np.arange(12, dtype=np.float32).reshape(3, 4)
  want = {
    "float32": base,
    "column": base[:, 1],
    "transposed": base[1:].T,
    "bfloat16": np.array([1.5, -2, 0.25], ml_dtypes.bfloat16),
    "float16": np.array([[1.5], [-2]], np.float16),
    "int64": np.array(-7),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.ones(2, np.float32),
  }
  assert weights.keys() == want.keys()
  for key, value in want.items():
    assert_same(weights[key], value)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["scripted.pt", "traced.pt"])
def test_recorded_torchscript_is_read_under_the_names_of_its_modules(name):
  weights = tp.read(RECORDED / name)
  want = {
    "layers.0.weight": np.arange(6).reshape(2, 3).astype(np.float16) / 4,
    "layers.0.size": np.array(224),
    "scale": np.array(2.5, np.float32),
  }
  assert weights.keys() == want.keys()
  for key, value in want.items():
    assert_same(weights[key], value.astype(weights[key].dtype))
  assert weights["layers.0.weight"].dtype == np.float16


@pytest.mark.parametrize("prefix", ["", "archive/", "a/b.pt/"])
@pytest.mark.parametrize("compress", [0, zipfile.ZIP_DEFLATED])
def test_any_prefix_and_compressed_members_are_read(tmp_path, prefix, compress):
  path = tp.zip_file(
    tmp_path / "x.pt", {"w": tp.tensor()}, prefix=prefix, compress=compress
  )
  assert_same(tp.read(path)["w"], np.ones((2, 2), np.float32))


def test_big_endian_storages_are_swapped(tmp_path):
  raw = np.arange(4, dtype=">f4").tobytes()
  path = tp.zip_file(
    tmp_path / "x.pt", {"w": tp.tensor()}, {"0": raw}, byteorder=b"big"
  )
  want = np.arange(4, dtype=np.float32).reshape(2, 2)
  assert_same(tp.read(path)["w"], want)
  path = tp.zip_file(tmp_path / "y.pt", {"w": tp.tensor()}, byteorder=b"middle")
  assert "byteorder is" in refusal(path)


def test_views_of_storages_in_old_files_are_narrowed(tmp_path):
  raw = np.arange(6, dtype=np.float32)
  view = tp.storage(6, view=("1", 2, 4))
  path = tp.legacy_file(
    tmp_path / "x.pth",
    {"w": tp.tensor(of=view), "all": tp.tensor((6,), (1,), 0, tp.storage(6))},
    {"0": (6, raw.tobytes())},
  )
  weights = tp.read(path)
  assert_same(weights["w"], raw[2:].reshape(2, 2))
  assert_same(weights["all"], raw)


def test_state_dicts_of_python_2_are_read(tmp_path):
  """Where strings were bytes, and an OrderedDict was called with pairs."""
  pairs = b"](](U\x01w" + tp.operations(tp.tensor()) + b"ee"
  ordered = b"ccollections\nOrderedDict\n" + pairs + b"\x85R"
  path = tp.legacy_file(tmp_path / "x.pth", ordered)
  assert_same(tp.read(path)["w"], np.ones((2, 2), np.float32))


def test_parameters_from_before_pytorch_0_4_are_read(tmp_path):
  """As in torchvision's first files: called, then given flags and hooks."""
  parts = (
    tp.Name("torch._utils", "_rebuild_tensor"),
    (tp.storage(), 0, (4,), (1,)),
  )
  flags = tp.operations((True, False, tp.DICT)) + b"b"
  parameter = tp.Name("torch.nn.parameter", "Parameter")
  tree = {"w": tp.Call(parameter, (tp.Call(*parts),), flags)}
  path = tp.legacy_file(tmp_path / "x.pth", tree)
  assert_same(tp.read(path)["w"], np.ones(4, np.float32))


@pytest.mark.parametrize(
  "wrap",
  [
    lambda state: {"model": state},
    lambda state: {"epoch": 3, "arch": "x", "state_dict": state, "lr": 0.1},
    lambda state: {"step": 1, "module": state, "optimizer": {"state": [{}]}},
    lambda state: {"model": {"state_dict": state}},
  ],
)
def test_checkpoints_are_opened_through_the_usual_keys(tmp_path, wrap):
  path = tp.zip_file(tmp_path / "x.pt", wrap({"a.w": tp.tensor()}))
  assert list(tp.read(path)) == ["a.w"]


@pytest.mark.parametrize(
  ("tree", "words"),
  [
    ({"net": {"w": tp.tensor()}, "epoch": 3}, "net (dict), epoch (int)"),
    ({"w": tp.tensor(), "epoch": 3}, "w (a tensor), epoch (int)"),
    ({"model": {"encoder": {"w": tp.tensor()}}}, "encoder (dict)"),
    ({3: tp.tensor()}, "3 (a tensor)"),
    ([tp.tensor()], "not a state dict"),
    ({}, "not a state dict"),
    (tp.tensor(), "not a state dict"),
  ],
)
def test_a_file_without_a_state_dict_lists_its_keys(tmp_path, tree, words):
  path = tp.zip_file(tmp_path / "x.pt", tree)
  assert words in refusal(path)


def test_archives_of_others_are_named(tmp_path):
  np.savez(tmp_path / "x.npz", w=np.ones(3))
  assert "arrays of NumPy" in refusal(tmp_path / "x.npz")
  with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
    archive.writestr("x/model.json", "{}")
  assert "before PyTorch 1.4" in refusal(tmp_path / "x.pt")
  with tarfile.open(tmp_path / "old.pt", "w") as archive:
    for name in ("sys_info", "pickle", "tensors", "storages"):
      archive.addfile(tarfile.TarInfo(name))
  assert "0.1.10" in refusal(tmp_path / "old.pt")
  path = tmp_path / "plain.pkl"
  path.write_bytes(pickle.dumps({"a": [1, 2]}))
  assert "not one of torch.save" in refusal(path)


@pytest.mark.golden
def test_storages_stay_in_the_file_until_they_are_used():
  weights = tp.read(RECORDED / "zip.pt")
  base = weights["column"]
  while isinstance(base, np.ndarray):
    base = base.base
  assert isinstance(getattr(base, "obj", base), mmap.mmap)
  assert np.shares_memory(weights["column"], weights["float32"])
  assert not any(value.flags.writeable for value in weights.values())
