r"""Runs the tasks that a config names, in order.

  synthjax run CONFIG[:arg,arg=value] --workdir=DIR [--config.field=value ...]
  python -m synthjax.main --config=CONFIG[:arg,arg=value] --workdir=DIR ...

CONFIG is a file, such as configs/quickstart.py, or the name of one that
`synthjax list` lists; its docstring has its arguments.

Each task leaves one artifact in DIR, and is skipped when that is complete
(`runtime.artifacts.begin`). So
the same command starts a run, resumes it, and extends it.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import sys
import types
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from synthjax.config import schema
from synthjax.config.arguments import unknown_fields
from synthjax.config.config_files import find, load_config
from synthjax.runtime import (
  atomic,
  cache,
  commands,
  locks,
  progress,
  ray_cluster,
  timings,
)
from synthjax.runtime.errors import (
  UserError,
  as_message,
  gathered,
  unknown_names,
)

# Each module of the folder `tasks` is one. A config may also name the dotted
# path of a task in another package.
TASKS = {
  path.stem: f"synthjax.tasks.{path.stem}"
  for path in sorted((pathlib.Path(__file__).parent / "tasks").glob("*.py"))
  if path.stem != "__init__"
}

# Blocks that several tasks read, and the modules that have their FIELDS.
LOADED = {
  "generator": "synthjax.generators",
  "encoder": "synthjax.encoders",
}

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "A config's file or name, with its arguments behind a colon.",
  # What a task reads can be given although the file leaves it out; all else is
  # refused by `parse_flags`, which locks the config.
  lock_config=False,
  accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "The folder of the results, made if it is not there."
)
_SHARED = flags.DEFINE_bool(
  "shared",
  False,
  "Lets several commands, which know nothing of each other, draw, score, "
  "describe and export the images of one workdir together.",
)
_ENGINE = flags.DEFINE_enum(
  "engine",
  None,
  ["ray"],
  "Runs the tasks on the workers of a Ray cluster: RAY_ADDRESS, or one that "
  "runs on this machine, or is started there.",
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "Joins the processes of a TPU pod, of a Slurm job, or those that "
  "JAX_COORDINATOR_ADDRESS and its kin describe.",
)


@dataclasses.dataclass(frozen=True)
class Common:
  """Fields of a config that all its tasks share."""

  seed: schema.Whole = 0
  # Another run's folder in the workdir -> the blocks that differ. It has the
  # tasks that follow the drawing, as AGAIN has them, of the same images.
  also: Mapping[str, schema.Block] = dataclasses.field(default_factory=dict)

  def problems(self) -> Iterable[str]:
    for name in {*self.also} & {*TASKS}:
      yield f"also.{name} is the folder of a task: choose another name"


AGAIN = ("score", "select", "tune", "report")
# The modules of tasks by their names, the config and the workdir of a run.
_Run = tuple[Mapping[str, types.ModuleType], ConfigDict, str]


def run_tasks(
  config: ConfigDict,
  workdir: str,
  *,
  shared: bool = False,
  engine: str | None = None,
) -> None:
  """Checks every task of `config.tasks`, then runs them in order.

  Args:
    config: its field `tasks` names the tasks; the rest is read by them.
    workdir: the folder that holds one folder for each task.
    shared: does them together with other commands of the same kind, which
      know nothing of each other and may come and go.
    engine: "ray", whose workers do the tasks; see `runtime.ray_cluster`.

  Raises:
    UserError: about an unknown task, another run in this workdir, or from a
      task's `check` before any task has run.
  """
  from synthjax.runtime import mesh as meshes

  if not isinstance(config.get("tasks"), tuple | list):
    raise UserError("A config needs the field `tasks`, a tuple of task names.")
  common = {name: config.get(name) for name in ("seed", "also")}
  schema.read(Common, common, "config")
  modules = _load_tasks(config.tasks)
  alone = [
    name for name, module in modules.items() if _processes(module) != "shared"
  ]
  if shared and alone:
    raise UserError(
      "--shared is of tasks whose work is in parts, such as generate, score, "
      f"card and export, not of {', '.join(alone)}: set "
      "--config.tasks=\"('generate','score')\", and run the other tasks before "
      "and after, without --shared."
    )
  runs = [
    *_of_tasks("before", modules, config, workdir),
    (modules, config, workdir),
    *_others(config, workdir),
  ]
  later = _of_tasks("after", modules, config, workdir)
  with meshes.checked_later(engine is not None) as of_devices:
    _check_all([*runs, *later], workdir)
  with ray_cluster.connected(engine) as cluster:
    if of_devices:
      count = cluster.count_devices()
      with gathered() as attempt:
        for check in of_devices:
          attempt(check, count)
    for modules, config, folder in runs:
      if folder != workdir:
        _say(f"{folder}:")
      with _lock(folder, shared):
        _run_all(modules, config, folder, cluster)


def _of_tasks(
  hook: str,
  modules: Mapping[str, types.ModuleType],
  config: ConfigDict,
  workdir: str,
) -> Iterator[_Run]:
  """Yields the runs that tasks name by a function of theirs.

  Those of `before` are run before the task; those of `after` are checked alone,
  as the user runs them when the task is done.
  """
  for module in modules.values():
    for other, folder in getattr(module, hook, _none)(config, workdir):
      yield _load_tasks(other.tasks), other, folder


def _none(config: ConfigDict, workdir: str) -> Iterable:
  del config, workdir
  return ()


def _others(config: ConfigDict, workdir: str) -> Iterator[_Run]:
  """Yields the tasks, config and workdir of each run of `config.also`."""
  tasks = tuple(name for name in AGAIN if name in config.tasks)
  for name, blocks in (config.get("also") or {}).items() if tasks else ():
    fields = config.to_dict() | ConfigDict(blocks).to_dict()
    fields["score"] = (fields.get("score") or {}) | {"images": workdir}
    other = ConfigDict(fields | {"tasks": tasks, "also": {}})
    yield _load_tasks(tasks), other, os.path.join(workdir, name)


def _load_tasks(names: Iterable[str]) -> dict[str, types.ModuleType]:
  """Returns the module of each task.

  Raises:
    UserError: listing every name that is none of TASKS and no dotted path.
  """
  is_dotted = lambda name: isinstance(name, str) and "." in name
  unknown = [n for n in names if n not in TASKS and not is_dotted(n)]
  if unknown:
    raise unknown_names("task", unknown, TASKS)
  return {name: schema.resolve(name, TASKS) for name in names}


def _lock(workdir: str, shared: bool) -> contextlib.AbstractContextManager:
  """Holds the workdir; of the processes of one run, the first does."""
  import jax

  if jax.process_index() > 0:
    return contextlib.nullcontext()
  return locks.workdir(workdir, shared=shared)


def _run_all(
  modules: Mapping[str, types.ModuleType],
  config: ConfigDict,
  workdir: str,
  cluster: ray_cluster.Cluster | None,
) -> None:
  for number, (name, module) in enumerate(modules.items(), start=1):
    label = f"[{number}/{len(modules)}] {name}"
    _say(f"{label}: starts")
    elsewhere = cluster is not None
    with timings.timed(workdir, name, elsewhere=elsewhere) as timing:
      try:
        if cluster:
          cluster.run_task(module.__name__, config.to_dict(), workdir)
        else:
          _run(module, config, workdir)
      finally:
        progress.end_line()
    done = "skipped, as it was complete" if timing.skipped else "done"
    _say(f"{label}: {done} ({timing.seconds:.1f} s)")


def _run(module: types.ModuleType, config: ConfigDict, workdir: str) -> None:
  """Runs a task in all processes that it is for, and waits for them.

  Its PROCESSES says which: "shared" where each works for itself on its own
  devices, and finds out what others leave to it; "all" where they work together
  and the first one writes; otherwise one does it.
  """
  import jax

  from synthjax.runtime import mesh as meshes
  from synthjax.runtime import processes

  if jax.process_count() == 1:
    return module.run(config, workdir)
  if _processes(module) == "all":
    with atomic.discarding(not processes.is_first()):
      module.run(config, workdir)
  elif _processes(module) == "shared" or processes.is_first():
    with meshes.own_devices():
      module.run(config, workdir)
  processes.wait_for_all(module.__name__)


def _processes(module: types.ModuleType) -> str:
  return getattr(module, "PROCESSES", "one")


def _check_all(runs: Iterable[_Run], workdir: str) -> None:
  """Stops before hours of work on what is missing or misspelt: on all of it.

  A problem that only some of the runs in other folders have names these.
  """
  from synthjax.runtime import mesh as meshes

  found: dict[str, dict[str, None]] = {}
  others = {folder for *_, folder in runs} - {workdir}
  problems = []
  with gathered():
    for modules, config, folder in runs:
      for module in modules.values():
        check = getattr(module, "check", _none)
        try:
          if _processes(module) == "all":
            check(config, folder)
          else:  # as it will run
            with meshes.own_devices():
              check(config, folder)
        except UserError as error:
          for problem in error.problems:
            found.setdefault(problem, {})[folder] = None
    for problem, folders in found.items():
      if workdir not in folders and {*folders} != others:
        names = (f.removeprefix(workdir).strip("/") for f in folders)
        problem = f"{', '.join(names)}: {problem}"
      problems.append(problem)
    if problems:
      raise UserError(*problems)


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line and returns what is left of it.

  Where it asks for help, that is printed, and nothing else is done.

  Raises:
    UserError: about an unknown flag, a bad value, a missing config, or every
      field that the config does not hold and its tasks do not read.
  """
  if any(re.fullmatch(r"--?(h|\?|help(short|full)?)", arg) for arg in argv[1:]):
    of_us = flags.FLAGS.find_module_defining_flag("workdir")
    print(f"{__doc__}\nflags:\n{flags.FLAGS.module_help(of_us)}")
    sys.exit()
  argv = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
  argv, path, fields = _config_arguments(argv)
  if path is not None:
    # The flag would load it too, but wraps what goes wrong in tracebacks.
    if problem := unknown_fields(load_config(path), fields, fields_of):
      raise problem
  try:
    left = flags.FLAGS(argv)
  except flags.Error as error:
    raise UserError(f"{error} (--help lists the flags)") from error
  if path is not None:
    _CONFIG.value.lock()
  return left


def fields_of(config: ConfigDict, block: str) -> Collection[str]:
  """Returns the fields that a block such as "detect.options" may hold.

  FIELDS lists them, of the task or of the module in LOADED.
  """
  outer, _, inner = block.partition(".")
  # The block of a task of another package has the last part of its path.
  of_others = {n.split(".")[-1]: n for n in config.get("tasks") or ()}
  modules = LOADED | TASKS
  name = outer if outer in modules else of_others.get(outer)
  if name is None:
    return ()
  fields = schema.resolve(name, modules).FIELDS
  return schema.fields_of(fields, config.get(outer), inner)


def _config_arguments(
  argv: Sequence[str],
) -> tuple[list[str], str | None, list[str]]:
  """Finds the config's file.

  Returns:
    argv with its path; the path, and every FIELD of a --config.FIELD.
  """
  path, fields, words, rest = None, [], [], iter(argv)
  for word in rest:
    if match := re.fullmatch(r"--?config(=(.*))?", word, re.DOTALL):
      given = match[2] if match[1] else next(rest, "")
      file, colon, arg = given.partition(":")
      if not file:  # as an unset variable of the shell leaves it
        continue
      path = f"{find(file)}{colon}{arg}"
      word = f"--config={path}"
    elif match := re.match(r"--?(?:no)?config\.([^=]+)", word):
      fields.append(match[1])
    words.append(word)
  return words, path, fields


def _say(line: str) -> None:
  """Prints a line, once however many processes there are."""
  import jax

  if jax.process_index() == 0:
    print(line, flush=True)


def _main(argv: Sequence[str]) -> None:
  if argv[1:]:
    raise UserError(f"Cannot make sense of {argv[1:]}; flags start with --.")
  if missing := [
    f"--{flag.name}" for flag in (_CONFIG, _WORKDIR) if not flag.value
  ]:
    # Empty is also what an unset variable of the shell leaves.
    raise UserError(f"{' and '.join(missing)} must be given; see --help.")
  others = dict(shared=_SHARED.value, distributed=_DISTRIBUTED.value)
  ray_cluster.set_up_driver(_ENGINE.value, **others)
  signals = commands.STOPS
  if _DISTRIBUTED.value:
    from synthjax.runtime import processes

    processes.join()
    signals = (signal.SIGINT,)  # JAX takes SIGTERM, and passes it on to all
  if not flags.FLAGS["verbosity"].present:  # not given on the command line
    logging.set_verbosity(logging.WARNING)  # Orbax logs every step
  cache.use_compilation_cache()
  workdir = os.path.expanduser(_WORKDIR.value)
  if variable := re.search(r"\$\{?[A-Za-z_]\w*\}?", workdir):
    raise UserError(
      f"--workdir={workdir} holds {variable[0]}, which no shell has replaced "
      "by its value: write it in double quotes, or the path itself."
    )
  with commands.on_stop(_stop, signals):
    run_tasks(
      _CONFIG.value, workdir, shared=_SHARED.value, engine=_ENGINE.value
    )


def _stop(number: int) -> None:
  """Ends the run as an error would, so that files are closed and removed."""
  what = "Ctrl-C" if number == signal.SIGINT else "a signal"
  progress.end_line()
  print(
    f"synthjax: stopped by {what}; the same command resumes.", file=sys.stderr
  )
  sys.exit(128 + number)


def _cleanly(function: Callable) -> Callable:
  """Makes errors of the user one message and exit code 2."""

  def call(argv):
    with as_message():
      return function(argv)

  return call


def main(argv: Sequence[str]) -> None:
  """Is `synthjax run`: a CONFIG that comes first needs no --config."""
  if argv and not argv[0].startswith("-"):
    argv = [f"--config={argv[0]}", *argv[1:]]
  _start(["synthjax run", *argv])


def _start(argv: Sequence[str]) -> None:
  with commands.on_stop(_stop, (signal.SIGINT,)):  # while it reads its flags
    app.run(_cleanly(_main), argv=argv, flags_parser=_cleanly(parse_flags))


if __name__ == "__main__":
  _start(sys.argv)
