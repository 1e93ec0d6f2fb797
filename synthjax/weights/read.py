"""Reads weights from any released file, whose kind its content shows."""

import io
import itertools
import math
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json
from synthjax.weights.torch_files import reader as torch_files
from synthjax.weights.torch_files.mapped import as_array, map_file, reading
from synthjax.weights.torch_files.records import MAX_DIMENSIONS, short

SAFETENSORS_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
MAX_HEADER = 100_000_000  # bytes, as the format itself demands
MAX_DEPTH = 100

# Files that are no weights, by their first bytes in lower case.
IMPOSTORS = {
  b"<!doctype": "a web page: the download led to a login or an error page",
  b"<html": "a web page: the download led to a login or an error page",
  b"<?xml": "an XML page, most likely an error message of the server",
  b"version https://git-lfs": (
    "a Git LFS pointer, a note of where the file itself is: get that by "
    "`git lfs pull`, or by the download link of the file"
  ),
  b"\x1f\x8b": "compressed by gzip: unpack it first",
  b"bzh": "compressed by bzip2: unpack it first",
  b"\xfd7zxz": "compressed by xz: unpack it first",
  b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first",
  b"\x89hdf": "an HDF5 file, of Keras perhaps",
  b"\x93numpy": "a single array of NumPy (savez writes several)",
  b"{": "JSON: the list of a model's files or its configuration, perhaps",
}


def read_weights(path: epath.PathLike) -> dict[str, np.ndarray]:
  """Reads a file of weights, whatever its name ends in.

  Args:
    path: of a file of torch.save or torch.jit.save (.pt, .pth, .bin, .pth.tar),
      of safetensors, of Flax's msgpack, or of NumPy's savez; or of the index
      of such files ("...index.json"), which holds the names of weights in
      several.

  Returns:
    Arrays by their names: those of the state dict, or the keys of nested dicts
    joined by "/" of a Flax file. They are in the dtypes of the file and
    read-only, and where possible mapped from it: do not change it meanwhile.

  Raises:
    UserError: when there is no such file, or it is of none of these kinds, cut
      short or damaged. No code in it is ever run.
  """
  if parts := parts_of(path):
    return _read_parts(parts)
  return _read_file(path)


def _read_file(path: epath.PathLike) -> dict[str, np.ndarray]:
  """Reads one file; see `read_weights`."""
  data = map_file(path)
  if _is_npz(data):
    with reading(path, zipfile.BadZipFile, NotImplementedError):
      return _read_npz(data)
  kinds = (torch_files.is_zip, torch_files.is_pickle, torch_files.is_tar)
  if any(is_of_kind(data) for is_of_kind in kinds):
    return torch_files.parse(data, path)
  with reading(path, *torch_files.DAMAGE, AttributeError, AssertionError):
    if _is_safetensors(data):
      return _read_safetensors(data)
    if impostor := _impostor(data):
      raise UserError(f"it is {impostor}.")
    if _is_msgpack_dict(data):
      return _read_msgpack(data)
    raise UserError(
      f"it begins with {data[:16].tobytes()!r}, unlike the kinds of files that "
      "can be read: torch.save (.pt, .pth, .bin), safetensors, and Flax's "
      "msgpack. Fetch it again, or convert it."
    )


# An index: {"weight_map": {name of a weight: name of its file}}.


def parts_of(path: epath.PathLike) -> list[epath.Path]:
  """Returns the files that an index names; none for any other file.

  Raises:
    UserError: about an index that names files elsewhere, or missing ones.
  """
  names, folder = named_in(path), epath.Path(path).parent
  if lacking := [name for name in names if not (folder / name).exists()]:
    raise UserError(
      f"{path} is the index of {len(names)} files of weights, which lie beside "
      f"it. Missing: {', '.join(lacking)}. Fetch them."
    )
  return [folder / name for name in names]


def named_in(path: epath.PathLike) -> list[str]:
  """Returns the names of the files in an index; none of any other file.

  Raises:
    UserError: about names that are no names of files beside it.
  """
  data = map_file(path)
  if data[:1].tobytes() != b"{" or len(data) > MAX_HEADER:
    return []
  try:
    names = {*parse_json(data.tobytes(), dict)["weight_map"].values()}
    names = sorted(name for name in names if isinstance(name, str))
  except (ValueError, LookupError, TypeError, AttributeError):
    return []
  if odd := [n for n in names if pathlib.PurePath(n).name != n or "\\" in n]:
    raise UserError(
      f"{path} is the index of {len(names)} files of weights, which lie beside "
      f"it. These names are no names of files: {short(odd)}."
    )
  return names


def _read_parts(parts: Sequence[epath.Path]) -> dict[str, np.ndarray]:
  """Reads the weights of all files, which share no name."""
  weights: dict[str, np.ndarray] = {}
  for part in parts:
    for name, weight in _read_file(part).items():
      if name in weights:
        raise UserError(
          f"{short(name)} is in {part} and in another file of the same index: "
          "they do not belong together. Fetch all again."
        )
      weights[name] = weight
  return weights


def _impostor(data: np.ndarray) -> str | None:
  start = data[:256].tobytes().lstrip(b"\xef\xbb\xbf \t\r\n").lower()
  for beginning, what in IMPOSTORS.items():
    if start.startswith(beginning):
      return what
  return None


# safetensors: the length of a header, the header in JSON, the entries.


def _is_safetensors(data: np.ndarray) -> bool:
  length = int.from_bytes(data[:8].tobytes(), "little")
  return data[8:9].tobytes() == b"{" and length <= MAX_HEADER


def _read_safetensors(data: np.ndarray) -> dict[str, np.ndarray]:
  start = 8 + int.from_bytes(data[:8].tobytes(), "little")
  if start > len(data):
    raise EOFError("it ends within its header")
  header = parse_json(data[8:start].tobytes(), dict)
  header.pop("__metadata__", None)
  unknown = {
    name: entry["dtype"]
    for name, entry in header.items()
    if entry["dtype"] not in SAFETENSORS_DTYPES
  }
  if unknown:
    arrays = [f"{short(n)} ({short(d)})" for n, d in list(unknown.items())[:20]]
    raise UserError(
      f"it has arrays of a dtype that cannot be read: {', '.join(arrays)}. "
      f"Allowed: {', '.join(SAFETENSORS_DTYPES)}."
    )
  arrays, spans = {}, []
  for name, entry in header.items():
    dtype = np.dtype(SAFETENSORS_DTYPES[entry["dtype"]])
    shape, (first, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, first, end]
    is_bad = any(type(n) is not int or n < 0 for n in numbers)
    if is_bad or len(shape) > MAX_DIMENSIONS:
      raise ValueError(f"{short(name)} has the numbers {short(numbers)}")
    if end - first != math.prod(shape) * dtype.itemsize:
      raise ValueError(f"{short(name)} has {end - first} bytes for {shape}")
    if start + end > len(data):
      raise EOFError(f"it ends before {short(name)} does")
    arrays[name] = as_array(data[start + first : start + end], dtype, shape)
    spans.append((first, end, name))
  spans.sort()
  for (_, end, name), (first, _, other) in itertools.pairwise(spans):
    if first < end:  # a small file could become gigabytes
      raise UserError(
        f"its arrays {short(name)} and {short(other)} share bytes, which "
        "safetensors does not allow."
      )
  if not arrays:
    raise UserError("it holds no arrays.")
  return arrays


# NumPy's savez: a zip archive of .npy files.


def _is_npz(data: np.ndarray) -> bool:
  length = int.from_bytes(data[26:28].tobytes(), "little")
  return torch_files.is_zip(data) and data[30 : 30 + length].tobytes().endswith(
    b".npy"
  )


def _read_npz(data: np.ndarray) -> dict[str, np.ndarray]:
  arrays = {}
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
      raise UserError("it is compressed: save it by numpy.savez.")
    if sum(member.file_size for member in members) > len(data):
      raise ValueError("its members share bytes")
    for member in members:
      name = member.filename.removesuffix(".npy")
      file = io.BytesIO(archive.read(member))
      array = np.lib.format.read_array(file, allow_pickle=False)
      if array.dtype == np.dtype(
        "V2"
      ):  # how NumPy stores what it does not know
        array = array.view(ml_dtypes.bfloat16)
      arrays[name] = _number(name, array)
  return arrays


# Flax's msgpack: nested dicts of arrays.


def _is_msgpack_dict(data: np.ndarray) -> bool:
  return 0x81 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)


def _read_msgpack(data: np.ndarray) -> dict[str, np.ndarray]:
  from flax import serialization
  from msgpack.exceptions import UnpackException

  try:
    tree = serialization.msgpack_restore(data.tobytes())
  except UnpackException as error:  # msgpack's others are ValueErrors
    raise EOFError(str(error)) from None
  arrays = dict(_flatten(tree, ""))
  if not arrays:
    raise UserError("it holds no arrays.")
  return arrays


def _flatten(
  tree: Mapping, prefix: str, depth: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
  if depth > MAX_DEPTH:
    raise UserError(f"it is nested deeper than {MAX_DEPTH} levels.")
  for key, value in tree.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping):
      yield from _flatten(value, f"{name}/", depth + 1)
    elif value is not None:  # as the bias of a layer without one
      yield name, _number(name, value)


def _number(name: str, value: Any) -> np.ndarray:
  array = np.asarray(value) if np.isscalar(value) else value
  numeric = isinstance(array, np.ndarray) and (
    array.dtype.kind in "biufc" or array.dtype == ml_dtypes.bfloat16
  )
  if not numeric:
    raise UserError(
      f"{short(name)} is {short(value)}, where arrays and numbers are allowed. "
      "Save the parameters alone, by flax.serialization.to_bytes(params)."
    )
  return array
