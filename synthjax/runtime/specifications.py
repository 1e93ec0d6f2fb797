"""What identifies the result of a task, and how two of them differ.

A specification is plain data: the fields of a config that decide the result,
with hashes of what a task reads. Fields that change nothing of the result are
no part of it.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from etils import epath

from synthjax.runtime import repairs
from synthjax.runtime.errors import UserError

# Fields of a training that do not change its result. Specifications leave them
# out at any depth, and ignore them in those of older versions.
NOT_OF_THE_RESULT = frozenset(
  {
    "log_every",
    "checkpoint_every",
    "num_workers",
    "fsdp",
    "steps_per_call",
    "loggers",
  }
)
# What identifies the real images of a specification, by split, as of
# `data.pipeline.inspection`. Those of older versions lack it, and fit any.
IMAGE_FILES = "image_files"
# Where such images are, which may change while they stay the same.
_PLACES = frozenset({"path", "data_dir", "split_file"})


class SpecMismatch(UserError):
  """A folder belongs to another specification than the one asked for."""


def plain(value: Any, path: str = "spec") -> Any:
  """Returns plain JSON data: lists for tuples, numbers for NumPy's scalars.

  Raises:
    TypeError: with the dotted path of a value that JSON cannot hold exactly.
  """
  if hasattr(value, "items"):
    if wrong := [key for key in value if not isinstance(key, str)]:
      raise TypeError(f"{path}: keys must be strings, found {wrong}.")
    return {key: plain(v, f"{path}.{key}") for key, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v, f"{path}.{i}") for i, v in enumerate(value)]
  if getattr(value, "shape", None) == () and hasattr(value, "item"):
    value = value.item()  # a NumPy or JAX scalar
  if value is None or isinstance(value, str | bool | int):
    return value
  if isinstance(value, float) and math.isfinite(value):
    return value
  raise TypeError(f"{path}: {value!r} of {type(value)} is not plain data.")


def specify(spec: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what of a mapping identifies a result, as plain data."""
  return repairs.with_keys(of_the_result(plain(spec)))


def of_the_result(spec: Any) -> Any:
  """Returns plain data without NOT_OF_THE_RESULT, at any depth."""
  return _without(NOT_OF_THE_RESULT, spec)


def _without(names: Collection[str], value: Any) -> Any:
  """Returns plain data without the fields of these names, at any depth."""
  if isinstance(value, dict):
    return {k: _without(names, v) for k, v in value.items() if k not in names}
  if isinstance(value, list):
    return [_without(names, item) for item in value]
  return value


def require_same(folder: epath.Path, stored: Any, asked: Any) -> None:
  """Compares what a folder was made with to what is asked for.

  Raises:
    SpecMismatch: with a line for every field that differs.
  """
  asked = _without({repairs.KEYS}, asked)
  stored = _without({repairs.KEYS}, of_the_result(stored))
  if IMAGE_FILES not in stored:  # of an older version
    asked = _without({IMAGE_FILES}, asked)
  elif all(stored[IMAGE_FILES].values()):
    bare, other = (_without(_PLACES, spec) for spec in (stored, asked))
    if bare[IMAGE_FILES] == other.get(IMAGE_FILES):
      stored, asked = bare, other
  lines = list(_differences(stored, asked, ""))
  if not lines:
    return
  if any(line.startswith(f"  {IMAGE_FILES}") for line in lines):
    lines.append("Real images were added, taken away or changed since then.")
  more = [f"  ... and {len(lines) - 20} more"] if len(lines) > 20 else []
  raise SpecMismatch(
    "\n".join(
      [
        f"{folder} was made with another specification than this run asks for:",
        *lines[:20],
        *more,
        "Nothing was changed. Give another --workdir to have both, put the "
        f"values back to go on with the folder, or delete {folder} yourself to "
        "make it again.",
      ]
    )
  )


def _differences(stored: Any, asked: Any, path: str) -> Iterator[str]:
  """Yields a line for every value that differs, named by its dotted path."""
  if isinstance(stored, dict) and isinstance(asked, dict):
    pairs = {key: (stored.get(key, ...), asked.get(key, ...)) for key in stored}
    pairs |= {key: (..., asked[key]) for key in asked if key not in stored}
    for key in sorted(pairs):
      yield from _differences(*pairs[key], f"{path}.{key}" if path else key)
  elif (
    isinstance(stored, list)
    and isinstance(asked, list)
    and len(stored) == len(asked)
  ):
    for i, (one, other) in enumerate(zip(stored, asked, strict=True)):
      yield from _differences(one, other, f"{path}.{i}")
  elif stored != asked:
    yield f"  {path}: found {_show(stored)}, asked for {_show(asked)}"


def _show(value: Any) -> str:
  text = "nothing" if value is ... else json.dumps(value, sort_keys=True)
  return text if len(text) <= 100 else f"{text[:97]}..."
