"""Files that would do harm in `pickle.load`, and broken ones, do none here."""

import os
import pathlib
import pickle
import random
import struct
import time
import zipfile

import numpy as np
import pytest
import torch_pickles as tp

from synthjax.runtime.errors import UserError

pytestmark = pytest.mark.faults
RECORDED = pathlib.Path(__file__).parents[1] / "golden" / "torch_files"


class Runs:
  """Calls a function when it is unpickled."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def refusal(path) -> str:
  """Returns the message with which a file is refused, soon."""
  start = time.monotonic()
  message = tp.refusal(path)
  assert time.monotonic() - start < 5
  assert len(message) < 3000
  return message


@pytest.mark.parametrize("protocol", range(6))
def test_programs_in_pickles_are_named_and_not_run(tmp_path, protocol):
  marker = tmp_path / "ran"
  attack = {
    "w": Runs(os.system, f"touch {marker}"),
    "x": Runs(eval, f"open({str(marker)!r}, 'w')"),
    "y": Runs(pathlib.Path.touch, marker),
  }
  raw = pickle.dumps(attack, protocol=protocol)
  body = raw[2:-1] if protocol > 1 else raw[:-1]
  for write in (tp.zip_file, tp.legacy_file):
    message = refusal(write(tmp_path / "x.pt", body))
    assert f"{os.system.__module__}.system" in message
    assert f"{'builtins' if protocol > 2 else '__builtin__'}.eval" in message
    assert "nothing of the file was executed" in message
  pickle.loads(raw)
  assert marker.exists()  # the attack was a real one


@pytest.mark.parametrize("file", ["data.pkl", "first"])
def test_every_pickle_of_a_file_is_read_so(tmp_path, file):
  attack = pickle.dumps(Runs(os.system, f"touch {tmp_path}/ran"), protocol=2)
  path = tmp_path / "x.pt"
  if file == "first":
    path.write_bytes(attack)
  else:
    tp.zip_file(path, attack[2:-1])
  assert ".system" in refusal(path)
  assert not (tmp_path / "ran").exists()


V2 = tp.operations(tp.V2)
ATTACKS = {
  # Names.
  "a dotted name": (
    b"\x8c\x02os\x8c\x09path.join\x93)R",
    "os.path.join",
  ),
  "a dotted name in an allowed module": (
    b"\x8c\x05torch\x8c\x0e_utils.os.open\x93)R",
    "torch._utils.os.open",
  ),
  "a name that is no string": (b"K\x01K\x02\x93", "damaged"),
  "an object of protocol 0": (
    b"(\x8c\x02idiposix\nsystem\n",
    "posix.system",
  ),
  "an unknown dtype": (b"ctorch\ncomplex64\n", "torch.complex64"),
  "extension codes": (b"\x82\x01", "EXT1"),
  "extension codes of two bytes": (b"\x83\x01\x00", "EXT2"),
  "the registry of them": (
    b"ccopyreg\nadd_extension\n(X\x02\x00\x00\x00osX\x06\x00\x00\x00systemK\x01tR",
    "copyreg.add_extension",
  ),
  "keyword arguments": (V2 + b")}\x92", "NEWOBJ_EX"),
  # Allowed names put to another use.
  "too few arguments": (V2 + b")R", "calls torch._utils._rebuild_tensor_v2"),
  "arguments that are no tuple": (V2 + b"]R", "_rebuild_tensor_v2"),
  "an object of a function": (V2 + b")\x81", "makes an object"),
  "attributes of a function": (
    V2 + b"}X\x08\x00\x00\x00__code__Nsb",
    "sets attributes of",
  ),
  "a call of a storage": (b"ctorch\nFloatStorage\n)R", "calls torch.Float"),
  "a call of a string": (b"X\x01\x00\x00\x00w)R", "calls 'w'|calls w"),
  "a call of a tensor": (tp.operations(tp.tensor()) + b")R", "calls Tensor"),
  "a dict of a number": (b"ccollections\nOrderedDict\nK\x01\x85R", "Ordered"),
  "a parameter of a list": (
    b"ctorch._utils\n_rebuild_parameter\n]\x88}\x87R",
    "no tensor",
  ),
  # Values that are slow, or crash.
  "a key of nested tuples": (b"}" + b")" + b"\x85" * 10**5 + b"Ns", "key"),
  "a key that collides": (b"}\x8a\x09" + b"\xff" * 8 + b"\x7fNs", "key"),
  "nested lists": (b"]" * 10**5 + b"a" * (10**5 - 1), "nested deeper"),
  "nested tuples": (b")" + b"\x85" * 10**5, "nested deeper"),
  "a memo of gigabytes": (b"Nr\xff\xff\xff\xff", "not a state dict"),
  "a string of exabytes": (b"\x8d" + b"\xff" * 7 + b"\x7f", "damaged"),
  "an empty stack": (b"0", "damaged"),
  "a memo without an entry": (b"h\x07", "damaged"),
  "no operations": (b"", "damaged"),
  "circles": (b"]q\x00h\x00ah\x00a", "not a state dict"),
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_pickles_that_torch_never_writes_are_refused(tmp_path, kind):
  body, words = ATTACKS[kind]
  message = refusal(tp.zip_file(tmp_path / "x.pt", body))
  assert any(word in message for word in words.split("|")), message


@pytest.mark.parametrize("depth", [20, 40])
def test_modules_in_circles_and_doubling_modules_end(tmp_path, depth):
  """Each module holds the one before twice: 2^40 of them to walk through."""
  new = b"c__torch__\nA\n)\x81"
  body = new + b"}X\x01\x00\x00\x00w" + tp.operations(tp.tensor()) + b"sbq\x00"
  for i in range(depth):
    body += b"0" + new + b"}(X\x01\x00\x00\x00a" + b"h" + bytes([i])
    body += b"X\x01\x00\x00\x00b" + b"h" + bytes([i]) + b"ub"
    body += b"q" + bytes([i + 1])
  assert "without end" in refusal(tp.zip_file(tmp_path / "x.pt", body))
  circle = new + b"q\x00}X\x01\x00\x00\x00ah\x00sb"
  assert "without end" in refusal(tp.zip_file(tmp_path / "y.pt", circle))


FLOAT = tp.Name("torch", "FloatStorage")


@pytest.mark.parametrize(
  "pid",
  [
    "0",
    ("storage",),
    ("module", FLOAT, "0", "cpu", 4),
    ("storage", "FloatStorage", "0", "cpu", 4),
    ("storage", tp.V2, "0", "cpu", 4),
    ("storage", FLOAT, 0, "cpu", 4),
    ("storage", FLOAT, "0", None, 4),
    ("storage", FLOAT, "0", "cpu", -4),
    ("storage", FLOAT, "0", "cpu", 4.0),
    ("storage", FLOAT, "0", "cpu", True),
    ("storage", FLOAT, "0", "cpu", 2**80),
    ("storage", FLOAT, "0", "cpu", 4, ("1", 3, 2)),
    ("storage", FLOAT, "0", "cpu", 4, ("1", -1, 2)),
    ("storage", FLOAT, "0", "cpu", 4, "1"),
    ("storage", FLOAT, "0", "cpu", 4, None, None),
  ],
)
def test_odd_persistent_ids_are_refused(tmp_path, pid):
  tree = {"w": tp.tensor(of=tp.PersistentId(pid))}
  message = refusal(tp.zip_file(tmp_path / "x.pt", tree))
  assert "persistent id that torch.save never writes" in message


@pytest.mark.parametrize(
  ("size", "stride", "offset", "words"),
  [
    ((2, 2), (2, 1), 1, "outside its storage of 4"),
    ((5,), (1,), 0, "outside"),
    ((2,), (4,), 0, "outside"),
    ((), (), 4, "outside"),
    ((2**40, 2**40), (2**40, 1), 0, "outside"),
    ((2,), (-1,), 1, "none is negative"),
    ((-2,), (1,), 0, "none is negative"),
    ((2,), (1,), -1, "none is negative"),
    ((2,), (1, 1), 0, "whole numbers"),
    ((2.0,), (1,), 0, "whole numbers"),
    ((True,), (1,), 0, "whole numbers"),
    ((1,) * 65, (1,) * 65, 0, "whole numbers"),
    ("ab", (1, 1), 0, "whole numbers"),
    ((2**20, 2**20), (0, 0), 0, "would take"),
    ((2**70,), (0,), 0, "whole numbers"),
  ],
)
def test_tensors_outside_their_storage_are_refused(
  tmp_path, size, stride, offset, words
):
  tree = {"w": tp.tensor(size, stride, offset)}
  assert words in refusal(tp.zip_file(tmp_path / "x.pt", tree))
  assert words in refusal(tp.legacy_file(tmp_path / "x.pth", tree))


def test_empty_tensors_may_have_any_stride(tmp_path):
  tree = {"w": tp.tensor((0, 2**40), (2**50, 1))}
  assert tp.read(tp.zip_file(tmp_path / "x.pt", tree))["w"].size == 0


def test_storages_that_are_short_or_missing_are_found(tmp_path):
  tree = {"w": tp.tensor()}
  path = tp.zip_file(tmp_path / "a.pt", tree, {"0": tp.ONES[:-1]})
  assert "has 15 bytes, where 4 entries of 4 bytes" in refusal(path)
  path = tp.zip_file(tmp_path / "b.pt", tree, {"1": tp.ONES})
  assert "has no archive/data/0" in refusal(path)
  path = tp.legacy_file(tmp_path / "c.pt", tree, {"0": (3, tp.ONES[:12])})
  assert "cut short" in refusal(path)
  path = tp.legacy_file(tmp_path / "d.pt", tree, {"0": (3, tp.ONES)})
  assert "has 3 entries, where 4 are declared" in refusal(path)
  path = tp.legacy_file(tmp_path / "e.pt", tree, {})
  assert "damaged" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
  "name", ["../x", "a/../../x", "/etc/x", "a\\..\\x", "data.pkl"]
)
def test_members_outside_of_the_archive_are_refused(tmp_path, name):
  path = tp.zip_file(tmp_path / "x.pt", {"w": tp.tensor()}, prefix="")
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr(zipfile.ZipInfo(name), b"x")
  assert "reach outside of it or come twice" in refusal(path)


def test_archives_that_unpack_to_too_much_are_refused(tmp_path):
  bomb = {"0": tp.ONES, "1": bytes(2**27)}
  path = tp.zip_file(tmp_path / "x.pt", {}, bomb, compress=zipfile.ZIP_DEFLATED)
  assert path.stat().st_size < 2**18
  assert "declares 134," in refusal(path)


@pytest.mark.parametrize("compress", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_uncommon_compression_is_refused(tmp_path, compress):
  path = tp.zip_file(tmp_path / "x.pt", {}, compress=compress)
  assert "compressed in an uncommon way" in refusal(path)


def flipped(raw: bytes, rng: random.Random) -> bytes:
  """Returns bytes with a few bits changed."""
  raw = bytearray(raw)
  for _ in range(rng.choice((1, 1, 2, 8))):
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
  return bytes(raw)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["zip.pt", "legacy.pth.tar", "scripted.pt"])
def test_broken_files_are_read_or_refused_and_nothing_else(tmp_path, name):
  raw, rng = (RECORDED / name).read_bytes(), random.Random(0)
  path = tmp_path / "x.pt"
  start, outcomes = time.monotonic(), {"read": 0, "refused": 0}
  for _ in range(150):
    path.write_bytes(flipped(raw, rng))
    try:
      for value in tp.read(path).values():
        assert isinstance(value, np.ndarray)
      outcomes["read"] += 1
    except UserError as error:
      assert str(path) in str(error)
      outcomes["refused"] += 1
  for _ in range(150):
    path.write_bytes(raw[: rng.randrange(1, len(raw))])
    with pytest.raises(UserError, match="cut short|begins with"):
      tp.read(path)
  assert min(outcomes.values()) > 10, outcomes
  assert time.monotonic() - start < 30


@pytest.mark.golden
def test_a_flipped_bit_of_a_weight_is_found_by_its_checksum(tmp_path):
  raw = (RECORDED / "zip.pt").read_bytes()
  at = raw.index(struct.pack("<3f", 5, 6, 7))
  path = tmp_path / "x.pt"
  path.write_bytes(raw[:at] + b"\1" + raw[at + 1 :])
  assert "another checksum" in refusal(path)
