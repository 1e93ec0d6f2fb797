"""Maps files to arrays of bytes, whose pages are read when they are used."""

import contextlib
import mmap
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError


def map_file(path: epath.PathLike) -> np.ndarray:
  """Returns the bytes of a file, uint8 [n], read-only.

  A local file is mapped: do not change it meanwhile. A file in a bucket is read
  at once.

  Raises:
    UserError: when there is no such file, or it is empty.
  """
  path = epath.Path(path)
  if not path.exists():
    raise UserError(f"There is no file {path}. Correct the path.")
  if path.is_dir():
    names = sorted(entry.name for entry in path.iterdir())[:10]
    raise UserError(
      f"{path} is a folder, where a file of weights is needed. Give the path "
      f"of a file, such as one of those in it: {', '.join(names) or 'none'}."
    )
  if path.stat().length == 0:
    raise UserError(
      f"{path} is empty: a download that failed at once. Fetch it again."
    )
  if "://" in str(path):
    return np.frombuffer(path.read_bytes(), np.uint8)
  with open(path, "rb") as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  return np.frombuffer(data, np.uint8)  # keeps the map open


def as_array(
  raw: np.ndarray,
  dtype: np.dtype,
  shape: Sequence[int],
  *,
  strides: Sequence[int] | None = None,
  offset: int = 0,
) -> np.ndarray:
  """Returns bytes as a read-only array, without a copy if they are aligned.

  Args:
    raw: uint8 [n], contiguous.
    dtype: of the array.
    shape: of the array.
    strides: in entries, not in bytes; in C order if None.
    offset: of the first entry, in entries.

  Raises:
    ValueError, TypeError: when the array reaches beyond the bytes.
  """
  dtype = np.dtype(dtype)
  if 0 in shape:
    array = np.zeros(shape, dtype)  # any offset and strides are valid
  else:
    if strides is not None:
      strides = [stride * dtype.itemsize for stride in strides]
    array = np.ndarray(shape, dtype, raw, offset * dtype.itemsize, strides)
  if dtype.kind == "b":
    # NumPy relies on bytes of 0 and 1. A scalar stays an array.
    array = np.asarray(array.view(np.uint8) != 0)
  elif not array.flags.aligned:
    array = array.copy()
  array.flags.writeable = False
  return array


@contextlib.contextmanager
def reading(path: epath.PathLike, *damage: type[Exception]) -> Iterator[None]:
  """Names the file in every error of the block.

  Args:
    path: of the file.
    *damage: exceptions that a parser raises on broken bytes.

  Raises:
    UserError: in place of each UserError and each of `damage`.
  """
  try:
    yield
  except UserError as error:
    raise UserError(f"{path} cannot be read as weights: {error}") from None
  except damage as error:
    raise UserError(
      f"{path} cannot be read as weights: it is cut short or damaged "
      f"({type(error).__name__}: {str(error)[:200]}). Fetch it again, and "
      "compare its size or checksum with that of its source."
    ) from None
