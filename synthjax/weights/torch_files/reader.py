"""Reads weights that PyTorch saved, without PyTorch and without running code.

Three kinds of files: zip archives of torch.save (since PyTorch 1.6), zip
archives of torch.jit.save (TorchScript, as CLIP is released), and the rows of
pickles and storages that torch.save wrote before (as the files of torchvision,
DeiT and MoCo are).
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError
from synthjax.weights.torch_files import unpickle, zip_archive
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
      tree, bytes_of = zip_archive.read(data, path)
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
  file = io.BytesIO(data[: zip_archive.MAX_PICKLE].tobytes())
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
  if total > zip_archive.MAX_PACKING * file_size + zip_archive.MAX_SMALL:
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
