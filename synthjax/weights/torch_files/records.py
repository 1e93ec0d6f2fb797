"""The names that a PyTorch pickle may use, as records without behaviour."""

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from synthjax.runtime.errors import UserError

STORAGES = {
  "torch.DoubleStorage": np.dtype(np.float64),
  "torch.FloatStorage": np.dtype(np.float32),
  "torch.HalfStorage": np.dtype(np.float16),
  "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "torch.LongStorage": np.dtype(np.int64),
  "torch.IntStorage": np.dtype(np.int32),
  "torch.ShortStorage": np.dtype(np.int16),
  "torch.CharStorage": np.dtype(np.int8),
  "torch.ByteStorage": np.dtype(np.uint8),
  "torch.BoolStorage": np.dtype(np.bool_),
  "torch.UntypedStorage": np.dtype(np.uint8),
  "torch.storage.UntypedStorage": np.dtype(np.uint8),
}
# Some files name these beside tensors.
DTYPES = {
  f"torch.{name}"
  for name in (
    *("float64", "float32", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
  )
}
TORCHSCRIPT = "__torch__."  # before the name of each class of torch.jit.save

MAX_DIMENSIONS = 64  # NumPy's own limit
# Greater integers can be chosen so that all their hashes collide.
MAX_INT = 2**61 - 2


class Global(NamedTuple):
  """A name that the pickle would import."""

  name: str


class Storage(NamedTuple):
  """The entries of tensors; several tensors can share one."""

  dtype: np.dtype
  key: str
  numel: int  # entries of `dtype`, before `view` narrows them
  view: tuple[int, int] | None  # offset and number of entries, if narrowed


class Tensor(NamedTuple):
  """A torch.Tensor, checked to lie within its storage."""

  storage: Storage
  offset: int  # this and the strides in entries
  size: tuple[int, ...]
  stride: tuple[int, ...]


class Module(NamedTuple):
  """An object of a TorchScript class."""

  name: str
  state: list  # empty, or its attributes alone


def short(value: Any) -> str:
  """Returns a value as a text of bounded length, for messages."""
  if isinstance(value, str) and value.isprintable():
    return value[:200]
  return _REPR.repr(value)


_REPR = reprlib.Repr()
# The records' own text would hold all that they refer to.
_REPR.repr_instance = lambda value, level: (
  value.name[:100] if isinstance(value, Global) else type(value).__name__
)


def is_key(value: Any) -> bool:
  """Returns whether a dict may have this key; others can be slow to hash."""
  if type(value) is int:
    return abs(value) <= MAX_INT
  return type(value) in (str, bytes, bool, type(None))


def _natural(*values: Any) -> bool:
  return all(type(v) is int and 0 <= v <= MAX_INT for v in values)


def storage(pid: Any) -> Storage:
  """Returns the storage of a persistent id.

  Args:
    pid: ("storage", type, key, location, numel), and (key, offset, size) of a
      view of it, or None, in the format before zip files.

  Raises:
    UserError: when it is anything else.
  """
  view = None
  fine = type(pid) is tuple and len(pid) in (5, 6) and pid[0] == "storage"
  if fine:
    _, kind, key, location, numel, *views = pid
    fine = type(kind) is Global and kind.name in STORAGES
    fine = fine and type(key) is str and type(location) is str
    fine = fine and _natural(numel)
    view = views[0] if views else None
  if fine and view is not None:
    fine = type(view) is tuple and len(view) == 3 and _natural(*view[1:])
    # The key of the view is not needed: the file stores the root.
    view = view[1:]
    fine = fine and sum(view) <= numel
  if not fine:
    raise UserError(
      f"it has a persistent id that torch.save never writes, {short(pid)}; "
      "nothing of the file was executed."
    )
  return Storage(STORAGES[kind.name], key, numel, view)


def _tensor(storage, offset, size, stride, *rest) -> Tensor:
  text = f"of size {short(size)}, stride {short(stride)} and offset "
  text += short(offset)
  fine = type(storage) is Storage and len(rest) < 4 and _natural(offset)
  for numbers in (size, stride):
    fine = fine and type(numbers) in (tuple, list)
    fine = fine and len(numbers) <= MAX_DIMENSIONS and _natural(*numbers)
  if not fine or len(size) != len(stride):
    raise UserError(
      f"it has a tensor {text}, which torch.save never writes: they are whole "
      f"numbers, none is negative, and the storage is {short(storage)}."
    )
  # The rest: requires_grad, hooks, and whether the entries count as conjugated
  # or negated.
  if len(rest) == 3 and rest[2]:
    raise UserError(
      f"it has a tensor that is {short(rest[2])} when it is looked at. Save "
      "it after tensor.resolve_conj().resolve_neg() in PyTorch."
    )
  last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
  numel = storage.view[1] if storage.view else storage.numel
  if 0 not in size and last >= numel:
    raise UserError(
      f"it has a tensor {text}, which reaches outside its storage of {numel} "
      "entries. The file is damaged, or made to do harm."
    )
  return Tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data, *rest) -> Tensor:
  # The rest: requires_grad, hooks, and attributes that were set on it.
  if type(data) is not Tensor or len(rest) > 3:
    raise UserError(f"it has a parameter that is no tensor: {short(data)}.")
  return data


def _ordered_dict(*args) -> dict:
  got = {}
  if args:  # Python 2 wrote a list of pairs
    (pairs,) = args
    if type(pairs) is not list:
      raise TypeError(f"an OrderedDict of {short(pairs)}")
    for key, value in pairs:
      if not is_key(key):
        raise TypeError(f"a dict with the key {short(key)}")
      got[key] = value
    # Nothing else needs the list, and a file could have it read without end.
    pairs.clear()
  return got


def _size(numbers) -> tuple:
  if type(numbers) not in (tuple, list) or len(numbers) > MAX_DIMENSIONS:
    raise TypeError(f"a torch.Size of {short(numbers)}")
  return tuple(numbers)


_LISTS = ("intlist", "tensorlist", "doublelist", "boollist")
CALLS: dict[str, Callable] = {
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
  "torch.nn.parameter.Parameter": _parameter,  # before PyTorch 0.4
  "collections.OrderedDict": _ordered_dict,
  "torch.Size": _size,
  "torch.device": lambda kind, index=0: None,
  "torch.jit._pickle.restore_type_tag": lambda value, type_name: value,
  **{f"torch.jit._pickle.build_{kind}": lambda value: value for kind in _LISTS},
}


def is_allowed(name: str) -> bool:
  """Returns whether a pickle of weights may use this name."""
  listed = name in CALLS or name in STORAGES or name in DTYPES
  return listed or name.startswith(TORCHSCRIPT)
