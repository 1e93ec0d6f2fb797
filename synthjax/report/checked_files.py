"""Reads what other tasks left, and notices when it is not what they wrote."""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError

# In the order of a run; those that made the embedded models come last.
TASKS = (
  "prompts",
  "generate",
  "score",
  "select",
  "card",
  "tune",
  "few_shot",
  "tune_encoder",
  "pretrain",
  "transfer",
  "detect",
  "train_generator",
  "train_clip",
)


def task_states(workdir: epath.PathLike) -> dict[str, dict[str, Any]]:
  """Says how far each task got in a workdir.

  Returns:
    task -> dict with `state`: "complete", "unfinished" or "missing". A complete
    one has digest, spec, versions, summary and files (name -> rows, bytes,
    sha256) too.

  Raises:
    UserError: if a manifest is damaged.
  """
  states = {}
  for task in TASKS:
    folder = epath.Path(workdir) / task
    if (folder / artifacts.MANIFEST).exists():
      manifest = artifacts.load(folder)
      states[task] = {
        "state": "complete",
        "digest": artifacts.digest(folder),
        "spec": manifest["spec"],
        "versions": manifest.get("versions", {}),
        "summary": manifest.get("summary", {}),
        "files": manifest["files"],
      }
    else:
      begun = (folder / artifacts.SPEC).exists()
      states[task] = {"state": "unfinished" if begun else "missing"}
  return states


def read_json(folder: epath.PathLike, name: str, files: Mapping) -> dict:
  """Reads a JSON object.

  Args:
    folder: of a complete task.
    name: of the file.
    files: of the task's manifest, which knows the file's SHA-256.

  Raises:
    UserError: naming the file, if it is not what the task wrote.
  """
  return _parse(folder, name, _read(folder, name, files))


def read_rows(
  folder: epath.PathLike, name: str, files: Mapping
) -> Iterator[dict]:
  """Yields the rows of a file of JSON lines; arguments as in `read_json`."""
  content = _read(folder, name, files)
  for number, line in enumerate(content.splitlines(), start=1):
    if line.strip():
      yield _parse(folder, f"{name}, line {number}", line)


def read_arrays(
  folder: epath.PathLike, name: str, files: Mapping
) -> dict[str, np.ndarray]:
  """Reads the arrays of an npz file; arguments as in `read_json`."""
  content = _read(folder, name, files)
  try:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
      return {key: arrays[key] for key in arrays.files}
  except (ValueError, OSError, zipfile.BadZipFile) as error:
    raise _damaged(folder, name, error) from error


def read_image(folder: epath.PathLike, name: str, files: Mapping) -> np.ndarray:
  """Reads an image, uint8 [h, w, 3]; arguments as in `read_json`."""
  content = _read(folder, name, files)
  try:
    with Image.open(io.BytesIO(content)) as image:
      return np.asarray(image.convert("RGB"))
  except (OSError, ValueError, Image.DecompressionBombError) as error:
    raise _damaged(folder, name, "it is no whole image") from error


def plain(value: Any) -> Any:
  """Returns plain JSON data, with None for what is not a finite number."""
  if hasattr(value, "items"):
    return {str(key): plain(entry) for key, entry in value.items()}
  if isinstance(value, list | tuple | set):
    return [plain(entry) for entry in value]
  if hasattr(value, "tolist"):  # NumPy's arrays and scalars
    return plain(value.tolist())
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value if isinstance(value, str | bool | int | None) else str(value)


def number(value: Any) -> float | int | None:
  """Returns a finite number, or None for whatever else it is."""
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  return value if np.isfinite(value) else None


def _read(folder: epath.PathLike, name: str, files: Mapping) -> bytes:
  path = epath.Path(folder) / name
  if not path.exists():
    raise _damaged(folder, name, "it is missing")
  content = path.read_bytes()
  sha256 = files.get(name, {}).get("sha256")
  if sha256 and hashlib.sha256(content).hexdigest() != sha256:
    # What was edited may still be good JSON, and would be shown as measured.
    raise _damaged(
      folder, name, "it is not what the task wrote: its SHA-256 differs"
    )
  return content


def _parse(folder: epath.PathLike, where: str, content: bytes) -> dict:
  try:
    value = json.loads(content)
  except ValueError as error:  # of JSON or of UTF-8
    raise _damaged(folder, where, error) from error
  if not isinstance(value, dict):
    kind = type(value).__name__
    raise _damaged(folder, where, f"found a {kind}, needed an object")
  return value


def _damaged(folder: epath.PathLike, where: str, why: Any) -> UserError:
  folder = epath.Path(folder)
  return UserError(
    f"{folder / where} cannot be used for the report: {why}. Put the file back "
    f"from a copy; or delete the folder {folder} yourself, and run the task "
    f"{folder.name!r} again."
  )
