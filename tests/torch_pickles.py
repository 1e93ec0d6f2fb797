"""Writes files as torch.save does and as it never would, and reads them."""

import io
import pickle
import zipfile
from typing import Any, NamedTuple

import numpy as np
import pytest

from synthjax.runtime.errors import UserError
from synthjax.weights.torch_files import mapped, reader


class Name(NamedTuple):
  """What a pickle would import."""

  module: str
  name: str


class Call(NamedTuple):
  """What it would call; `then` are further operations on the result."""

  function: Any
  args: Any
  then: bytes = b""


class PersistentId(NamedTuple):
  value: Any


V2 = Name("torch._utils", "_rebuild_tensor_v2")
DICT = Call(Name("collections", "OrderedDict"), ())


def storage(numel=4, key="0", kind="FloatStorage", view=()):
  ids = "storage", Name("torch", kind), key, "cpu", numel
  return PersistentId(ids + ((view,) if view != () else ()))


def tensor(size=(2, 2), stride=(2, 1), offset=0, of=None):
  return Call(V2, (of or storage(), offset, size, stride, False, DICT))


def operations(value: Any) -> bytes:
  """Returns the operations that put a value on the stack."""
  if isinstance(value, Name):
    return f"c{value.module}\n{value.name}\n".encode()
  if isinstance(value, Call):
    return (
      operations(value.function) + operations(value.args) + b"R" + value.then
    )
  if isinstance(value, PersistentId):
    return operations(value.value) + b"Q"
  inside = b"".join
  if isinstance(value, dict):
    pairs = (operations(k) + operations(v) for k, v in value.items())
    return b"}(" + inside(pairs) + b"u"
  if isinstance(value, list):
    return b"](" + inside(map(operations, value)) + b"e"
  if isinstance(value, tuple):
    return b"(" + inside(map(operations, value)) + b"t"
  return pickle.dumps(value, protocol=2)[2:-1]


def pickled(value: Any) -> bytes:
  """Returns a pickle of protocol 2; bytes are operations already."""
  body = value if isinstance(value, bytes) else operations(value)
  return b"\x80\x02" + body + b"."


ONES = np.ones(4, np.float32).tobytes()


def zip_file(
  path, value, storages=None, *, prefix="archive/", compress=0, **members
):
  """Writes a zip file as torch.save does; returns its path."""
  storages = {"0": ONES} if storages is None else storages
  with zipfile.ZipFile(path, "w", compress) as archive:
    archive.writestr(f"{prefix}data.pkl", pickled(value))
    archive.writestr(f"{prefix}version", b"3\n")
    for key, raw in storages.items():
      archive.writestr(f"{prefix}data/{key}", raw)
    for name, raw in members.items():
      archive.writestr(f"{prefix}{name}", raw)
  return path


def legacy_file(path, value, storages=None):
  """Writes a file as torch.save did before PyTorch 1.6; returns its path.

  Args:
    path: of the file.
    value: that is pickled.
    storages: (number of entries, bytes) by keys.
  """
  storages = {"0": (4, ONES)} if storages is None else storages
  file = io.BytesIO()
  sizes = {"short": 2, "int": 4, "long": 4}
  info = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
  for header in (0x1950A86A20F9469CFC6C, 1001, info, value, list(storages)):
    file.write(pickled(header))
  for numel, raw in storages.values():
    file.write(numel.to_bytes(8, "little") + raw)
  path.write_bytes(file.getvalue())
  return path


# --- reading -----------------------------------------------------------------


def read(path) -> dict[str, np.ndarray]:
  """Reads the weights of a file of PyTorch."""
  return reader.parse(mapped.map_file(path), path)


def refusal(path) -> str:
  """Returns the message with which a file is refused."""
  with pytest.raises(UserError) as error:
    read(path)
  assert str(path) in str(error.value)
  return str(error.value)


def assert_same(got, want):
  """Compares arrays bit for bit, so that NaN equals itself."""
  assert got.dtype == want.dtype and got.shape == want.shape
  assert got.tobytes() == want.tobytes()
