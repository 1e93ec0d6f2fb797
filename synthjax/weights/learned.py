"""What the tasks of a run have learned, by arm."""

import itertools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from etils import epath

from synthjax.evals.arms import ZERO_SHOT
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights import files

# Tasks by what they leave; of several in a run, the first one is meant.
CLASSIFYING = ("tune", "few_shot", "top_up", "tune_encoder", "transfer")
CLASSIFYING += ("practice", "pretrain")
DETECTING = ("detect",)
# Starts that others are compared with: no arm that is meant by default.
_REFERENCES = (ZERO_SHOT, "random")


class Arm(NamedTuple):
  """One of the arms that a task has learned."""

  task: str
  name: str
  path: epath.Path  # of its file, which may hold others
  kind: str  # that the file's description says


def choose(
  workdir: epath.PathLike,
  kinds: Collection[str],
  *,
  tasks: Sequence[str] = CLASSIFYING,
  task: str | None = None,
  arm: str | None = None,
) -> Arm:
  """Finds the arm that is meant in the folder of a run.

  Args:
    workdir: of a run; or a folder of `synthjax export`.
    kinds: of files, as their descriptions say.
    tasks: that may have left such files.
    task: the one that is meant; by default the first that has the arm.
    arm: of the task; by default the one that the task lists first.

  Raises:
    UserError: if there is no such task, arm, or file; or there are several
      arms, and nothing says which is meant.
  """
  workdir = epath.Path(workdir).expanduser()
  if task is not None and task not in tasks:
    raise unknown_names("task", [task], tasks)
  looked = tasks if task is None else [task]
  arms = [
    found
    for name in ("", *looked)
    for found in _arms(workdir / name, name, kinds)
  ]
  if not arms:
    raise UserError(_nothing(workdir, looked))
  if arm is not None:
    if named := [each for each in arms if each.name == arm]:
      return named[0]
    raise unknown_names("arm", [arm], [each.name for each in arms])
  _, first = next(itertools.groupby(arms, lambda each: each.task))
  first = [*first]
  own = [each for each in first if not _is_reference(each.name)] or first
  folder = own[0].path.parent
  if len(own) > 1 and own[0].name not in _listed(folder):
    if len({each.path for each in own}) > 1:
      names = "\n  ".join(each.name for each in own)
      raise UserError(
        f"{folder} holds several arms: choose one of them by --arm:\n  {names}"
      )
  return own[0]


def _arms(folder: epath.Path, task: str, kinds: Collection[str]) -> list[Arm]:
  """Returns the arms of a folder: those first that its task lists."""
  if not folder.is_dir():
    return []
  arms = {}
  for path in sorted(folder.glob("*.safetensors")):
    about = files.read_description(path)
    if about.get("kind") in kinds:
      for name in about.get("arms", [path.stem]):
        arms[name] = Arm(task, name, path, about["kind"])
  first = [name for name in _listed(folder) if name in arms]
  return [arms[name] for name in dict.fromkeys([*first, *arms])]


def _listed(folder: epath.Path) -> Sequence[str]:
  """Returns what the task has listed; nothing if it is of an older version."""
  if not (folder / artifacts.MANIFEST).exists():
    return ()
  summary: dict[str, Any] = artifacts.load(folder).get("summary", {})
  return summary.get("learned", ())


def _is_reference(arm: str) -> bool:
  return arm == ZERO_SHOT or any(arm.startswith(f"{n}-") for n in _REFERENCES)


def _nothing(workdir: epath.Path, tasks: Sequence[str]) -> str:
  """Says why there is no arm, and how to get one."""
  done = [t for t in tasks if (workdir / t / artifacts.MANIFEST).exists()]
  if done:
    return (
      f"{' and '.join(str(workdir / task) for task in done)} holds no weights "
      "to use, as an older version left none, or a training without labels. "
      f"Run `{done[0]}` again by the command of the run, in a copy of the "
      f"workdir without the folder `{done[0]}`; after a training without "
      "labels, run `transfer`."
    )
  if [*workdir.glob("classifier.*")]:
    return (
      f"{workdir} was exported as files for servers alone: export it with "
      "--format=safetensors, too, which is what this reads."
    )
  first, *others = (f"`{task}`" for task in tasks)
  besides = f", or {' or '.join(others)}" if others else ""
  return (
    f"There is nothing learned in {workdir}: the folder of a run is needed, "
    f"the --workdir whose task {first} is done{besides}."
  )
