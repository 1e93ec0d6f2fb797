"""Reads zip archives of torch.save and torch.jit.save, mapped if possible."""

import collections
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError
from synthjax.weights.torch_files import unpickle
from synthjax.weights.torch_files.records import Storage, short

# No pickle of weights is longer, and no archive of them is packed tighter.
MAX_PICKLE = 2**26
MAX_PACKING = 16
MAX_SMALL = 2**26  # bytes that are allowed however small the file is


class Archive(NamedTuple):
  """The directory of an archive, and its bytes."""

  data: np.ndarray  # uint8 [n]
  members: Mapping[str, zipfile.ZipInfo]
  prefix: str  # "NAME/", or nothing


def read(
  data: np.ndarray, path: epath.PathLike
) -> tuple[Any, Callable[[Storage], np.ndarray]]:
  """Returns the content of data.pkl, and a function from storages to bytes.

  It ignores the pickled constants and the code of TorchScript, which hold no
  weights of a state dict.

  Args:
    data: uint8 [n], the archive.
    path: of the archive.

  Raises:
    UserError and the exceptions of `zipfile` and `zlib`: when it is not an
      archive of PyTorch, or a damaged one.
  """
  archive = _open(data, path)
  name = f"{archive.prefix}data.pkl"
  if archive.members[name].file_size > MAX_PICKLE:
    raise UserError(
      f"its {name} has more than {MAX_PICKLE:,} bytes, which no checkpoint "
      "needs."
    )
  tree, _ = unpickle.load(io.BytesIO(_member(archive, name).tobytes()))
  swapped, unpacked = _is_swapped(archive), {}

  def bytes_of(storage: Storage) -> np.ndarray:
    name, size = f"{archive.prefix}data/{storage.key}", storage.dtype.itemsize
    if (name, size) not in unpacked:
      raw = _member(archive, name)
      if swapped and size > 1:
        raw = raw.reshape(-1, size)[:, ::-1].reshape(-1)
      unpacked[name, size] = raw
    raw = unpacked[name, size]
    if len(raw) < storage.numel * size:
      raise UserError(
        f"its {short(name)} has {len(raw)} bytes, where {storage.numel} "
        f"entries of {size} bytes are declared. The file is damaged: fetch it "
        "again."
      )
    return raw[: storage.numel * size]

  return tree, bytes_of


def _open(data: np.ndarray, path: epath.PathLike) -> Archive:
  with epath.Path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
    entries = archive.infolist()
  names = [entry.filename for entry in entries]
  strange = [
    name
    for name in names
    if ".." in name.split("/") or name.startswith("/") or "\\" in name
  ]
  strange += [name for name, n in collections.Counter(names).items() if n > 1]
  if strange:
    raise UserError(
      f"its zip archive has members that reach outside of it or come twice: "
      f"{_listed(strange)}. PyTorch writes no such file; nothing was unpacked."
    )
  size = sum(entry.file_size for entry in entries)
  if size > MAX_PACKING * len(data) + MAX_SMALL:
    raise UserError(
      f"its zip archive declares {size:,} bytes in {len(data):,}, a ratio that "
      "weights never have. Nothing was unpacked."
    )
  pickles = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
  if not pickles:
    raise UserError(_other_zip(names))
  name = min(pickles, key=lambda name: name.count("/"))
  members = dict(zip(names, entries, strict=True))
  return Archive(data, members, name.removesuffix("data.pkl"))


def _other_zip(names: list[str]) -> str:
  problem = f"its zip archive holds no data.pkl but {_listed(names)}"
  if any(name.endswith("model.json") for name in names):
    return (
      f"{problem}: TorchScript from before PyTorch 1.4. Load it there with "
      "torch.jit.load, and save its state_dict() with torch.save."
    )
  if names and all(name.endswith(".npy") for name in names):
    return f"{problem}: arrays of NumPy. Save them as safetensors."
  return f"{problem}. If weights are among these, unpack it first."


def _listed(names: list[str]) -> str:
  more = f" and {len(names) - 8} more" if len(names) > 8 else ""
  return ", ".join(short(name) for name in names[:8]) + more


def _member(archive: Archive, name: str) -> np.ndarray:
  """Returns a member's bytes [n]: a view of the file, if not compressed."""
  entry = archive.members.get(name)
  if entry is None:
    raise UserError(
      f"its zip archive has no {short(name)}. The file is damaged: fetch it "
      "again."
    )
  if entry.flag_bits & 1 or entry.compress_type not in (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
  ):
    raise UserError(
      f"its {short(name)} is encrypted or compressed in an uncommon way. "
      "Unpack the archive, and pack it again without compression."
    )
  # The directory has the offset of a member's header; the member follows it.
  head = archive.data[max(entry.header_offset, 0) :][:30].tobytes()
  signature, name_length, extra_length = struct.unpack("<4s22xHH", head)
  start = entry.header_offset + 30 + name_length + extra_length
  raw = archive.data[start : start + entry.compress_size]
  if signature != b"PK\3\4" or len(raw) != entry.compress_size:
    raise zipfile.BadZipFile(f"{short(name)} is not where it should be")
  if entry.compress_type == zipfile.ZIP_DEFLATED:
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
      raw, max(entry.file_size, 1)
    )
    raw = np.frombuffer(unpacked, np.uint8)
  if len(raw) != entry.file_size:
    raise zipfile.BadZipFile(f"{short(name)} has another size than declared")
  # PyTorch has an option to compute no checksums, and then writes 0.
  if entry.CRC and zlib.crc32(raw) != entry.CRC:
    raise zipfile.BadZipFile(f"{short(name)} has another checksum")
  return raw


def _is_swapped(archive: Archive) -> bool:
  """Returns whether the storages are big-endian."""
  name = f"{archive.prefix}byteorder"
  if name not in archive.members:
    return False  # older files are little-endian
  order = _member(archive, name).tobytes()
  if order not in (b"little", b"big"):
    raise UserError(f"its byteorder is {short(order)}, not little or big.")
  return order == b"big"
