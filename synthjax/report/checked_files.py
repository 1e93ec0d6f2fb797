"""Reads what tasks have written, and refuses files that are not as written."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.generated import drawn_images
from synthjax.data.generated.scores import load_arrays
from synthjax.data.pipeline import image_files
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json

# Tasks that a report is not about: itself, and one whose folder holds several.
_LEFT_OUT = ("report", "export")


class Run(NamedTuple):
  """A workdir, and how far each of its tasks got."""

  workdir: epath.Path
  # task -> dict with `state`: "complete", "unfinished" or "missing". A complete
  # one has digest, spec, versions, summary and files (name -> rows, bytes,
  # sha256) too.
  states: dict[str, dict[str, Any]]
  price_per_device_hour: float | None = None


def open_run(
  workdir: epath.PathLike,
  tasks: Iterable[str],
  price_per_device_hour: float | None = None,
) -> Run:
  """Looks at every task that a workdir has a folder of.

  Args:
    workdir: with a folder for each task.
    tasks: names that come first; those that have not begun are missing.
    price_per_device_hour: in any money.

  Raises:
    UserError: if a manifest is damaged.
  """
  workdir = epath.Path(workdir)
  folders = sorted(workdir.iterdir()) if workdir.exists() else ()
  marks = (artifacts.SPEC, artifacts.MANIFEST)  # the first may have been lost
  begun = [
    p.name for p in folders if any((p / mark).exists() for mark in marks)
  ]
  names = dict.fromkeys([*tasks, *begun])
  return Run(
    workdir,
    {name: _state(workdir / name) for name in names if name not in _LEFT_OUT},
    price_per_device_hour,
  )


def _state(folder: epath.Path) -> dict[str, Any]:
  if not (folder / artifacts.MANIFEST).exists():
    begun = (folder / artifacts.SPEC).exists()
    return {"state": "unfinished" if begun else "missing"}
  manifest = artifacts.load(folder)
  return {
    "state": "complete",
    "digest": artifacts.digest(folder),
    "spec": manifest["spec"],
    "versions": manifest.get("versions", {}),
    "summary": manifest.get("summary", {}),
    "files": manifest["files"],
  }


def files_of(run: Run, task: str) -> Mapping[str, Mapping]:
  """Returns the files of a task by name; none unless it is complete."""
  return run.states.get(task, {}).get("files", {})


def exports_of(run: Run) -> dict[str, epath.Path]:
  """Returns the folders of complete exports by their names in the workdir."""
  folder = run.workdir / "export"
  paths = sorted(folder.iterdir()) if folder.exists() else ()
  return {
    f"export/{path.name}": path
    for path in paths
    if (path / artifacts.MANIFEST).exists()
  }


def read_json(run: Run, task: str, name: str) -> dict:
  """Reads a JSON object, with None for NaN and infinity.

  Raises:
    UserError: naming the file, if it is not what the task wrote.
  """
  return _parse(run, task, name, _read(run, task, name))


def read_rows(run: Run, task: str, name: str) -> Iterator[dict]:
  """Yields the rows of a file of JSON lines; else as `read_json`."""
  for number, line in enumerate(_read(run, task, name).splitlines(), start=1):
    if line.strip():
      yield _parse(run, task, f"{name}, line {number}", line)


def read_selection(run: Run, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Reads columns of what the task `select` wrote; raises as `read_json`."""
  path = drawn_images.selection_file(run.workdir / "select")
  try:
    return drawn_images.read_selection(path, names)
  except UserError as error:
    raise _damaged(run, "select", path.name, error) from error


def selection_batches(
  run: Run, names: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
  """Yields some rows after others; else as `read_selection`."""
  path = drawn_images.selection_file(run.workdir / "select")
  try:
    yield from drawn_images.read_selection_batches(path, names)
  except UserError as error:
    raise _damaged(run, "select", path.name, error) from error


def read_text(run: Run, task: str, name: str) -> str:
  """Reads a text; raises as `read_json`."""
  return _read(run, task, name).decode("utf-8", "replace")


def read_arrays(
  run: Run, task: str, name: str, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
  """Reads arrays of an npz file, all by default; raises as `read_json`."""
  content = _read(run, task, name)
  try:
    return load_arrays(io.BytesIO(content), names)
  except ValueError as error:
    raise _damaged(run, task, name, error) from error


def read_columns(
  run: Run, task: str, name: str, names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Reads arrays of a large npz file, and no others; raises as `read_json`.

  They are checked by their CRC-32 in the file, and the file by its size: its
  SHA-256 would need all of it.
  """
  path = run.workdir / task / name
  size = files_of(run, task)[name]["bytes"]
  if problem := artifacts.damage_by_size(path, size):
    raise _damaged(run, task, name, problem)
  try:
    with path.open("rb") as file:
      return load_arrays(file, names)
  except ValueError as error:
    raise _damaged(run, task, name, error) from error


def read_image(run: Run, task: str, name: str) -> np.ndarray:
  """Reads an image, uint8 [h, w, 3]; raises as `read_json`."""
  content = _read(run, task, name)
  try:
    return image_files.decode(content, name=name)
  except UserError as error:
    raise _damaged(run, task, name, "it is no whole image") from error


def json_data(value: Any) -> Any:
  """Returns what JSON keeps of a value, with None for NaN and infinity."""
  to_json = lambda x: x.tolist() if hasattr(x, "tolist") else str(x)
  return _parse_json(json.dumps(value, default=to_json))


_parse_json = partial(parse_json, constant=lambda name: None)


def _read(run: Run, task: str, name: str) -> bytes:
  path = run.workdir / task / name
  if not path.exists():
    raise _damaged(run, task, name, "it is missing")
  content = path.read_bytes()
  sha256 = files_of(run, task).get(name, {}).get("sha256")
  if sha256 and hashlib.sha256(content).hexdigest() != sha256:
    # An edited file may be good JSON, and would be shown as measured.
    reason = "it is not what the task wrote: its SHA-256 differs"
    raise _damaged(run, task, name, reason)
  return content


def _parse(run: Run, task: str, where: str, content: bytes) -> dict:
  try:
    return _parse_json(content, dict)
  except ValueError as error:
    raise _damaged(run, task, where, error) from error


def _damaged(run: Run, task: str, where: str, reason: Any) -> UserError:
  folder = run.workdir / task
  return UserError(
    f"{folder / where} cannot be used for the report: {reason}. Put the file "
    f"back from a copy; or delete the folder {folder} yourself, and run the "
    f"task {task!r} again."
  )
