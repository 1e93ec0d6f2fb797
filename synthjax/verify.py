r"""Checks every file of a workdir against the manifests in it.

  synthjax verify WORKDIR

Names each file that is damaged, missing or not of its task. The exit code is 0
if there is none, and 1 otherwise.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from synthjax.runtime import artifacts, file_groups
from synthjax.runtime.artifacts import MANIFEST, SPEC
from synthjax.runtime.errors import UserError, as_message
from synthjax.runtime.progress import counter, end_line

_CHECKPOINTS = "_checkpoints"  # ends folders that no manifest lists


def check(workdir: epath.PathLike) -> list[str]:
  """Reads all files, shows how far it is, and returns what is wrong with them.

  Args:
    workdir: of a run, or a part of one, such as the folder of a task.

  Raises:
    UserError: if no task is complete there.
  """
  workdir = epath.Path(workdir).expanduser()
  folders = _folders_of(workdir, MANIFEST)
  if not folders:
    raise UserError(
      f"There is no {MANIFEST} in {workdir}: give the --workdir of a run that "
      "has completed a task."
    )
  problems, manifests = [], {}
  for folder in folders:
    try:
      manifests[folder] = artifacts.load(folder)
    except UserError as error:
      problems.append(str(error))
  total = sum(artifacts.totals(each)[1] for each in manifests.values())
  report = counter("verify", total, unit="bytes")
  for folder, manifest in manifests.items():
    damage = artifacts.damage(folder, report)
    extra = _extra(folder, manifest, damage)
    damage |= dict.fromkeys(extra, "its task has not written it")
    problems += [f"{folder / name}: {what}" for name, what in damage.items()]
  end_line()
  return problems


def _extra(
  folder: epath.Path, manifest: Mapping[str, Any], damage: Collection[str]
) -> list[str]:
  """Returns the files of a folder that its task has not written."""
  named = {SPEC, MANIFEST, *manifest["files"]}
  others = (name for name in _files(folder) if name not in named)
  lists = manifest.get("groups", {}).keys()
  if lists & set(damage):
    return []  # as the damaged list may be that of the others
  return list(file_groups.not_listed(folder, lists, others))


def _folders_of(workdir: epath.Path, mark: str) -> list[epath.Path]:
  """Returns the folders that have a file of this name.

  Rounds of `practice` and tasks of candidates lie the deepest.
  """
  names = [f"{'*/' * depth}{mark}" for depth in range(4)]
  return sorted(path.parent for name in names for path in workdir.glob(name))


def _files(folder: epath.Path, below: str = "") -> Iterator[str]:
  """Yields the names of files but hidden ones, checkpoints and artifacts."""
  for path in sorted((folder / below).iterdir()):
    name = f"{below}{path.name}"
    if path.name.startswith(".") or path.name.endswith(_CHECKPOINTS):
      continue
    if not path.is_dir():
      yield name
    elif not (path / MANIFEST).exists():
      yield from _files(folder, f"{name}/")


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line, and exits with 1 if anything is wrong."""
  parser = argparse.ArgumentParser(
    prog="synthjax verify",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("workdir", help="of a run")
  args = parser.parse_args(argv)
  with as_message():
    if not args.workdir:  # as an unset variable of the shell leaves it
      raise UserError("The workdir is an empty text: give its path.")
    problems = check(args.workdir)
  for line in problems:
    print(line)
  workdir = epath.Path(args.workdir).expanduser()
  unfinished = [
    folder.relative_to(workdir).as_posix()
    for folder in _folders_of(workdir, SPEC)
    if not (folder / MANIFEST).exists()
  ]
  if unfinished:
    print(f"Not complete, and not checked: {', '.join(unfinished)}.")
  print("All files are as written." if not problems else "Not all are.")
  sys.exit(1 if problems else 0)


if __name__ == "__main__":
  main()
