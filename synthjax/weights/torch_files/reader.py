"""Reads weights that PyTorch saved, without PyTorch and without running code.

Three kinds of files: zip archives of torch.save (since PyTorch 1.6), zip
archives of torch.jit.save (TorchScript, as CLIP is released), and the rows of
pickles and storages that torch.save wrote before (as the files of torchvision,
DeiT and MoCo are).
"""

import collections
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError
from synthjax.weights.torch_files import unpickle
from synthjax.weights.torch_files.mapped import as_array, reading
from synthjax.weights.torch_files.records import Module, Storage, Tensor, short

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle before the zip archives
VERSION = 1001  # the second
WRAPPERS = ("state_dict", "model", "module")
MAX_TENSORS = 1_000_000
MAX_NAME = 4096

DAMAGE = (
  *(ValueError, TypeError, LookupError, ArithmeticError, MemoryError),
  *(EOFError, OSError, NotImplementedError, RuntimeError),
  *(struct.error, zipfile.BadZipFile, zlib.error),
)


def parse(data: np.ndarray, path: epath.PathLike) -> dict[str, np.ndarray]:
  """Reads the weights of a file of torch.save or torch.jit.save.

  Args:
    data: uint8 [n], the bytes of the file.
    path: of the file.

  Returns:
    Arrays by the names of the state dict, which may lie alone or under
    "state_dict", "model" or "module". TorchScript gives all tensors among the
    attributes of its modules: parameters, buffers, and others. Arrays are
    read-only, of NumPy's dtypes or ml_dtypes.bfloat16, and mapped from the file
    where they can be: do not change it meanwhile.

  Raises:
    UserError: when the file is of another kind, cut short or damaged, asks for
      anything but plain tensors, or holds no state dict.
  """
  with reading(path, *DAMAGE):
    if is_zip(data):
      tree, bytes_of = read(data, path)
    elif is_pickle(data):
      tree, bytes_of = _read_legacy(data)
    elif is_tar(data):
      raise UserError(
        "it is a tar archive. If PyTorch wrote it, that was before version "
        "0.1.10: load it with a PyTorch that still can, such as 2.0, and save "
        "its state dict with torch.save. If not, unpack it first."
      )
    else:
      raise UserError(
        "it is no file of torch.save, as it begins with "
        f"{data[:16].tobytes()!r}. It may be another kind of file with the "
        "wrong name, or a download that failed."
      )
    return _arrays(_state_dict(tree), bytes_of, len(data))


def is_zip(data: np.ndarray) -> bool:
  """Returns whether the bytes, uint8 [n], are those of a zip archive."""
  return data[:4].tobytes() in (b"PK\3\4", b"PK\5\6")


def is_pickle(data: np.ndarray) -> bool:
  """Returns whether the bytes, uint8 [n], are a pickle of protocol 2 to 5."""
  return len(data) > 1 and data[0] == 0x80 and 2 <= data[1] <= 5


def is_tar(data: np.ndarray) -> bool:
  """Returns whether the bytes, uint8 [n], are those of a tar archive."""
  return data[257:262].tobytes() == b"ustar"


def _read_legacy(
  data: np.ndarray,
) -> tuple[Any, Callable[[Storage], np.ndarray]]:
  """Reads four pickles, a fifth with the keys of storages, and the storages."""
  file = io.BytesIO(data[:MAX_PICKLE].tobytes())
  magic, _ = unpickle.load(file)
  if magic != MAGIC:
    raise UserError(
      "it is a pickle, but not one of torch.save. Save the weights as a state "
      "dict with torch.save, or as safetensors."
    )
  version, _ = unpickle.load(file)
  if version != VERSION:
    raise UserError(
      f"torch.save wrote it in version {short(version)} of its format, where "
      f"only {VERSION} can be read. Load it in PyTorch and save it again."
    )
  unpickle.load(file)  # the sizes of C's integers on the machine that wrote it
  tree, storages = unpickle.load(file)
  keys, _ = unpickle.load(file)
  raw, position = {}, file.tell()
  for key in keys:
    # The first mention of the storage counts, as when it was written.
    declared, size = storages[key].numel, storages[key].dtype.itemsize
    # Always little-endian, whatever the machine.
    numel = int.from_bytes(data[position : position + 8].tobytes(), "little")
    raw[key] = data[position + 8 : position + 8 + declared * size]
    position += 8 + declared * size
    if position > len(data):
      raise EOFError("it ends within a storage")
    if numel != declared:
      raise UserError(
        f"a storage has {numel} entries, where {declared} are declared. The "
        "file is damaged: fetch it again."
      )

  def bytes_of(storage: Storage) -> np.ndarray:
    size = storage.dtype.itemsize
    whole = raw[storage.key]
    if len(whole) < storage.numel * size:
      raise ValueError(f"a storage has only {len(whole)} bytes")
    start, numel = storage.view or (0, storage.numel)
    return whole[start * size : (start + numel) * size]

  return tree, bytes_of


def _state_dict(tree: Any) -> dict[str, Tensor]:
  """Returns the names and tensors in the content of a file."""
  for _ in range(len(WRAPPERS) + 1):
    if type(tree) is Module:
      return _module_tensors(tree)
    if type(tree) is not dict or not tree:
      raise UserError(
        f"it holds {short(tree)}, not a state dict: a dict of names to tensors."
      )
    if all(type(k) is str and type(v) is Tensor for k, v in tree.items()):
      return tree
    for key in WRAPPERS:
      if type(tree.get(key)) in (dict, Module):
        tree = tree[key]
        break
    else:
      break
  keys = [f"{short(k)} ({_kind(v)})" for k, v in list(tree.items())[:20]]
  more = f" and {len(tree) - 20} more" if len(tree) > 20 else ""
  raise UserError(
    "it holds no state dict, that is, a dict of names to tensors, alone or "
    f"under one of the keys {', '.join(WRAPPERS)}. Found the keys "
    f"{', '.join(keys)}{more}. Load it in PyTorch, and save the part that is "
    "the state dict."
  )


def _kind(value: Any) -> str:
  return {Tensor: "a tensor"}.get(type(value), type(value).__name__)


def _module_tensors(root: Module) -> dict[str, Tensor]:
  """Names the tensors of TorchScript modules as their state dict does."""
  tensors, waiting, seen = {}, [("", root)], 0
  while waiting:
    prefix, module = waiting.pop()
    attributes = module.state[0] if module.state else {}
    # Other types hold quantized layers or members of enumerations.
    attributes = attributes if type(attributes) is dict else {}
    for name, value in attributes.items():
      seen += 1
      # Modules may hold each other in circles.
      if seen > MAX_TENSORS or len(prefix) + len(name) > MAX_NAME:
        raise UserError("its modules hold each other without end.")
      if type(value) is Tensor:
        tensors[f"{prefix}{name}"] = value
      elif type(value) is Module:
        waiting.append((f"{prefix}{name}.", value))
  if not tensors:
    raise UserError("its TorchScript modules hold no tensors.")
  return tensors


def _arrays(
  tensors: dict[str, Tensor],
  bytes_of: Callable[[Storage], np.ndarray],
  file_size: int,
) -> dict[str, np.ndarray]:
  # A file can repeat its entries by strides of 0, or by many names.
  total = sum(
    math.prod(tensor.size) * tensor.storage.dtype.itemsize
    for tensor in tensors.values()
  )
  if total > MAX_PACKING * file_size + MAX_SMALL:
    raise UserError(
      f"its tensors would take {total:,} bytes, from a file of {file_size:,}. "
      "Save them with fewer repetitions, as tensor.clone() does in PyTorch."
    )
  return {
    name: as_array(
      bytes_of(tensor.storage),
      tensor.storage.dtype,
      tensor.size,
      strides=tensor.stride,
      offset=tensor.offset,
    )
    for name, tensor in tensors.items()
  }


# --- zip archives of torch.save and torch.jit.save ---------------------------

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
