"""Folders that record what made them and whether they are complete.

A folder is claimed by its specification (`spec.json`), filled with files that
appear under their names only when they are whole, and completed by
`manifest.json`, written last: the specification, library versions, the rows,
bytes and SHA-256 of every file, or of groups of files (see `file_groups`), and
the SHA-256 of all this. Nothing is ever deleted, nor overwritten by another
specification; but what was made of inputs that were repaired may be renewed. A
folder may be local or on Google Cloud (`gs://`).
"""

import functools
import hashlib
import json
import platform
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import metadata
from typing import Any

from etils import epath

from synthjax import __version__
from synthjax.runtime import file_groups, locks, repairs, specifications
from synthjax.runtime.atomic import discards, remove_stale, replace
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.runtime.text_files import parse_json
from synthjax.runtime.threads import count_cores, in_threads

SPEC, MANIFEST = "spec.json", "manifest.json"
_LIBRARIES = ("jax", "flax", "numpy")
Listed = Mapping[str, Mapping[str, Any]]  # what a manifest says of each file


def begin(
  folder: epath.PathLike,
  spec: Mapping[str, Any],
  *,
  renew: Callable[[], Any] | None = None,
) -> bool:
  """Claims a folder for a specification.

  Args:
    folder: made if it is not there.
    spec: plain data (dicts, lists, tuples, strings, numbers, bools, None):
      all that decides the content of the folder.
    renew: removes the files that were made of what has changed, if inputs were
      repaired since; see `digest`. None leaves a complete folder as it is.

  Returns:
    True if the folder is already complete for this specification, so that the
    work can be skipped. False if it must be filled, or filled further.

  Raises:
    SpecMismatch: if the folder was claimed by another specification.
    UserError: if a file of a complete folder is missing or cut short.
  """
  folder, spec = epath.Path(folder), specifications.specify(spec)
  stored, manifest = _claimed(folder)
  if stored is None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder, SPEC, spec)
    return False
  if renew and _is_repaired(stored, spec):
    # Another process may renew it now: it would remove what was made since.
    with locks.one_at_a_time(folder, "renews it"):
      stored, manifest = _claimed(folder)
      if _is_repaired(stored, spec):
        say(f"{folder.name}: is renewed, as its inputs were repaired")
        # The new specification comes last: a run that is killed begins again
        # here.
        renew()
        (folder / MANIFEST).unlink(missing_ok=True)
        _write_json(folder, SPEC, spec)
        return False
  if manifest and _is_repaired(stored, spec):
    say(
      f"{folder.name}: stays as it is, made before its inputs were repaired; "
      f"delete {folder} yourself to make it again"
    )
  else:
    specifications.require_same(folder, stored, spec)
  if manifest:
    _raise_damage(folder, _sizes_that_differ(folder, manifest))
  return bool(manifest)


def _claimed(
  folder: epath.Path,
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
  """Returns the specification that has a folder, and the manifest, if any."""
  path = folder / MANIFEST
  try:
    manifest = _parse_manifest(path.read_bytes(), path)
    return manifest["spec"], manifest
  except (FileNotFoundError, NotADirectoryError):
    path = folder / SPEC
    return (_read_json(path) if path.exists() else None), None


def _is_repaired(stored: Any, asked: Mapping[str, Any]) -> bool:
  """Returns whether only the bytes of inputs differ from the stored ones."""
  return repairs.differ_by_repairs(specifications.of_the_result(stored), asked)


def finish(
  folder: epath.PathLike,
  spec: Mapping[str, Any],
  rows: Mapping[str, int],
  *,
  lists: Iterable[str] = (),
  **summary: Any,
) -> dict[str, Any]:
  """Completes a folder by writing its manifest.

  Args:
    folder: the folder, claimed by `begin` with the same specification.
    spec: the specification.
    rows: the number of rows of every file that belongs to the artifact.
    lists: those of these files that list more, as `file_groups` says; the
      manifest has the groups of these under "groups", by the list.
    **summary: plain data worth reading later: counts, seconds, accuracies.

  Returns:
    The manifest; {} in a process that leaves writing to another.

  Raises:
    UserError: if one of the files is missing.
  """
  folder, spec = epath.Path(folder), specifications.specify(spec)
  if discards():  # the other process may not have written its files yet
    return {}
  if (folder / SPEC).exists():
    specifications.require_same(folder, _read_json(folder / SPEC), spec)
  if missing := [name for name in rows if not (folder / name).exists()]:
    raise UserError(f"{folder} cannot be completed without {missing}.")
  try:
    groups = {name: file_groups.measure(folder, name) for name in lists}
  except FileNotFoundError as error:
    raise UserError(f"{folder} cannot be completed without: {error}") from error
  manifest = {
    "spec": spec,
    "versions": {
      "synthjax": __version__,
      "python": platform.python_version(),
      **{name: metadata.version(name) for name in _LIBRARIES},
    },
    "files": _measure_all(folder, rows),
    "summary": specifications.plain(summary, "summary"),
  } | ({"groups": groups} if groups else {})
  manifest["sha256"] = _digest_of(manifest)
  _write_json(folder, MANIFEST, manifest)
  remove_stale(folder)
  return manifest


def load(folder: epath.PathLike) -> dict[str, Any]:
  """Returns the manifest of a complete folder.

  Raises:
    UserError: if the folder is not complete, or its manifest is damaged.
  """
  path = epath.Path(folder) / MANIFEST
  if not path.exists():
    raise UserError(
      f"Task {path.parent.name!r} has not been completed in "
      f"{path.parent.parent}: run it first, by naming it in config.tasks."
    )
  return _parse_manifest(path.read_bytes(), path)


def _parse_manifest(content: bytes, path: epath.Path) -> dict[str, Any]:
  """Returns what a manifest says; raises as `load`."""
  manifest = _parse_json(content, path)
  if not _is_manifest(manifest):
    raise _corrupt(path, "it lacks 'spec', or 'files' with what each has")
  written = manifest.pop("sha256", None)  # older versions wrote none
  if written not in (None, _digest_of(manifest)):
    raise _corrupt(path, "it is not what the task wrote: its SHA-256 differs")
  return manifest


def _digest_of(manifest: Mapping[str, Any]) -> str:
  text = json.dumps(manifest, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _is_manifest(value: Any) -> bool:
  if not isinstance(value, dict) or not isinstance(value.get("spec"), dict):
    return False
  files, groups = value.get("files"), value.get("groups", {})
  if not file_groups.are_entries(groups):
    return False
  return isinstance(files, dict) and all(
    isinstance(entry, dict)
    and isinstance(entry.get("sha256"), str)
    and all(isinstance(entry.get(key), int) for key in ("rows", "bytes"))
    for entry in files.values()
  )


def check_complete(
  workdir: epath.PathLike, tasks: Iterable[str], *, planned: Collection[str]
) -> None:
  """Checks that all tasks but the planned ones have been completed.

  Raises:
    UserError: as `load`.
  """
  for task in tasks:
    if task not in planned:
      load(epath.Path(workdir) / task)


def digest(folder: epath.PathLike, *, repairable: bool = False) -> str:
  """Returns the SHA-256 (hex) over the names and contents of the files.

  Tasks put it in their own specifications, so that a changed input shows.

  Args:
    folder: of an input, which is complete.
    repairable: tells `begin` of an input that was made again by the same
      specification: of images, scores and selections this is a repair. Other
      prompts draw other images, whatever has made them.
  """
  manifest = load(folder)
  files = manifest["files"].items()
  pairs = sorted((name, entry["sha256"]) for name, entry in files)
  for name, entries in sorted(manifest.get("groups", {}).items()):
    pairs += [(name, entry["sha256"]) for entry in entries]
  found = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
  return repairs.Digest(found, manifest["spec"]) if repairable else found


def verify(folder: epath.PathLike) -> None:
  """Reads every file of a complete folder again.

  Raises:
    UserError: listing every file that is missing, cut short or changed.
  """
  _raise_damage(epath.Path(folder), damage(folder))


def damage(
  folder: epath.PathLike, report: Callable[[int], Any] = lambda count: None
) -> dict[str, str]:
  """Returns what is wrong with the files of a complete folder, by their names.

  Args:
    folder: every file of which is read.
    report: gets the bytes of each file or group, once it has been checked.
  """
  folder = epath.Path(folder)
  manifest = load(folder)
  problems = _sizes_of_files(folder, manifest)
  for name, entry in manifest["files"].items():
    if name not in problems:
      if _measure(folder / name)["sha256"] != entry["sha256"]:
        problems[name] = file_groups.CHANGED
    report(entry["bytes"])
  return problems | _damage_of_groups(
    folder, manifest, problems, read=True, report=report
  )


def damage_by_size(path: epath.Path, size: int) -> str | None:
  """Returns what is wrong with a file that should have so many bytes."""
  if not path.exists():
    return file_groups.MISSING
  if (found := path.stat().length) != size:
    return f"it has {found} bytes instead of {size}"
  return None


def sha256(path: epath.PathLike, listed: Listed | None = None) -> str:
  """Returns the SHA-256 (hex) of a file, checked by the manifest beside it.

  Args:
    path: of the file.
    listed: of `listed_in`, which reads the manifest once for many files; None
      reads it.

  Raises:
    UserError: if the manifest has another one, or is damaged, or the file that
      it lists is not there.
  """
  path = epath.Path(path)
  listed = listed_in(path.parent) if listed is None else listed
  entry = listed.get(path.name)
  if entry and not path.exists():
    _raise_damage(path.parent, {path.name: file_groups.MISSING})
  digest_now = _measure(path)["sha256"]
  if entry and entry["sha256"] != digest_now:
    _raise_damage(path.parent, {path.name: file_groups.CHANGED})
  return digest_now


def check_file(path: epath.PathLike, listed: Listed | None = None) -> None:
  """Reads a file and checks it, if a manifest beside it lists it.

  Args:
    path: of the file.
    listed: as of `sha256`.

  Raises:
    UserError: as `sha256`.
  """
  path = epath.Path(path)
  listed = listed_in(path.parent) if listed is None else listed
  if path.name in listed:
    sha256(path, listed)


def listed_in(folder: epath.PathLike) -> Listed:
  """Returns the files that a manifest lists; none where there is none.

  Raises:
    UserError: if it is damaged.
  """
  path = epath.Path(folder) / MANIFEST
  try:
    return _files_listed(path.read_bytes(), path)
  except (FileNotFoundError, NotADirectoryError):
    return {}


@functools.lru_cache(maxsize=4)
def _files_listed(content: bytes, path: epath.Path) -> Listed:
  """Returns the files of a manifest, which is parsed once."""
  value = _parse_json(content, path)
  if isinstance(value, dict) and not {"spec", "files"} & value.keys():
    return {}  # of another program
  return _parse_manifest(content, path)["files"]


def totals(manifest: Mapping[str, Any]) -> tuple[int, int]:
  """Returns the number and the bytes of the files of a manifest."""
  files = list(manifest["files"].values())
  groups = [e for made in manifest.get("groups", {}).values() for e in made]
  count = len(files) + sum(entry["rows"] for entry in groups)
  return count, sum(entry["bytes"] for entry in (*files, *groups))


def file_stem(name: str) -> str:
  """Returns the start of the files of an arm or a start, as "IN-1K-1200".

  Names that differ in letters, digits and dots alone have different ones.
  """
  return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")


# --- files ------------------------------------------------------------------


def _measure_all(
  folder: epath.Path, rows: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
  names, measure = sorted(rows), lambda name: _measure(folder / name)
  # Hashing releases Python's lock.
  measured = in_threads(measure, names, threads=count_cores())
  return {
    name: {"rows": int(rows[name])} | sizes
    for name, sizes in zip(names, measured, strict=True)
  }


def _measure(path: epath.Path) -> dict[str, Any]:
  with path.open("rb") as file:
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
  return {"bytes": path.stat().length, "sha256": sha256}


def _sizes_that_differ(folder: epath.Path, manifest: dict) -> dict[str, str]:
  problems = _sizes_of_files(folder, manifest)
  groups = _damage_of_groups(folder, manifest, problems, read=False)
  return problems | groups


def _damage_of_groups(
  folder: epath.Path, manifest: dict, problems: Mapping[str, str], **more: Any
) -> dict[str, str]:
  """Returns what is wrong with files that lists name, if these are whole."""
  found: dict[str, str] = {}
  for name, entries in manifest.get("groups", {}).items():
    if name in problems:
      found[name] = f"{problems[name]}, and what it lists was not checked"
    else:
      found |= file_groups.damage(folder, name, entries, **more)
  return found


def _sizes_of_files(folder: epath.Path, manifest: dict) -> dict[str, str]:
  problems = {}
  for name, entry in manifest["files"].items():
    if problem := damage_by_size(folder / name, entry["bytes"]):
      problems[name] = problem
  return problems


def _raise_damage(folder: epath.Path, problems: Mapping[str, str]) -> None:
  if problems:
    listed = "\n".join(f"  {name}: {what}" for name, what in problems.items())
    raise UserError(
      f"{folder} no longer fits its manifest:\n{listed}\nPut the files back "
      "from a copy; or delete the rest of them and "
      f"{folder / MANIFEST} yourself, and run the task again."
    )


def _write_json(folder: epath.Path, name: str, value: Any) -> None:
  with replace(folder, name) as path:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _read_json(path: epath.Path) -> Any:
  return _parse_json(path.read_bytes(), path)


def _parse_json(content: bytes, path: epath.Path) -> Any:
  try:
    return parse_json(content)
  except ValueError as error:
    raise _corrupt(path, str(error)) from error


def _corrupt(path: epath.Path, why: str) -> UserError:
  return UserError(
    f"{path} is damaged ({why}). Put it back from a copy to keep the other "
    f"files of {path.parent}, or delete that folder yourself to make it again."
  )
