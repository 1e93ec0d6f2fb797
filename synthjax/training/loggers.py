"""Where metrics of a training go besides its file: TensorBoard and its like."""

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from synthjax.config.schema import Rule
from synthjax.runtime import atomic, buckets
from synthjax.runtime.progress import say


class Logger(NamedTuple):
  """One run of a training, in one of LOGGERS or several."""

  write: Callable[[int, Mapping[str, float]], None]  # of a step
  text: Callable[[str, str], None]  # a name, and Markdown
  close: Callable[[bool], None]  # whether the training is done


class Run(NamedTuple):
  """What a logger is told of a training."""

  workdir: epath.Path
  name: str  # such as "pretrain/backbone-s0"
  first_step: int  # steps that are done
  settings: Mapping[str, Any]  # numbers and texts of its block


@contextlib.contextmanager
def opened(names: str | Sequence[str], run: Run) -> Iterator[Logger]:
  """Yields what writes to all loggers of these names, and closes it.

  A logger that fails is reported once, and the training goes on without it: the
  same numbers are in the metrics.

  Args:
    names: as `of_names` takes them.
    run: which continues in a logger that it was in before.
  """
  loggers = [_guarded(name, run) for name in of_names(names)]

  def each(action):
    def call(*args):
      for logger in loggers:
        getattr(logger, action)(*args)

    return call

  both = Logger(*map(each, Logger._fields))
  try:
    yield both
  except BaseException:  # a signal, too
    both.close(False)
    raise
  both.close(True)


def of_names(names: str | Sequence[str]) -> list[str]:
  """Returns the names in "tensorboard,wandb", or in a tuple."""
  names = names.split(",") if isinstance(names, str) else names
  return [name.strip() for name in names if name.strip()]


def _guarded(name: str, run: Run) -> Logger:
  """Opens a logger whose calls do nothing from the first that fails on."""
  logger: Logger | None = None

  def attempt(action):
    nonlocal logger
    try:
      return action()
    except Exception as error:  # each library has its own
      logger = None
      say(f"Cannot log {run.name} to {name}: {type(error).__name__}: {error}")

  def guarded(action):
    return lambda *args: (
      attempt(lambda: getattr(logger, action)(*args)) if logger else None
    )

  logger = attempt(lambda: LOGGERS[name](run))
  return Logger(*map(guarded, Logger._fields))


# --- TensorBoard --------------------------------------------------
# `clu.metric_writers` would write them, but imports TensorFlow, as do
# `clu.periodic_actions` and `clu.checkpoint`; tensorboardX does without. We
# use its files and not its `SummaryWriter`: that one's thread dies of a full
# disk, and then its queue blocks the training.

_HELD_BACK = 30  # seconds, at most, before what is written can be seen


def tensorboard(run: Run) -> Logger:
  """Opens a new event file below `tensorboard` in the workdir.

  Those of interrupted attempts stay beside it: TensorBoard drops what they
  wrote of later steps than `run.first_step`.
  """
  from tensorboardX import event_file_writer, record_writer, summary
  from tensorboardX.proto import event_pb2

  folder = os.fspath(run.workdir / "tensorboard" / run.name)
  scheme, separator, _ = folder.partition("://")
  if separator:
    record_writer.register_writer_factory(scheme, _RemoteFiles)
  record_writer.directory_check(folder)
  # The name holds the second, in which another attempt may have begun.
  writer = event_file_writer.EventsWriter(
    os.path.join(folder, "events"), f".{os.getpid()}.{run.first_step}"
  )
  flushed = time.monotonic()

  def add(step: int, **content: Any) -> None:
    nonlocal flushed
    writer.write_event(
      event_pb2.Event(step=step, wall_time=time.time(), **content)
    )
    if (now := time.monotonic()) - flushed > _HELD_BACK:
      flushed = now
      writer.flush()

  def write(step: int, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      add(step, summary=summary.scalar(name, value))

  if run.first_step:
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    add(run.first_step + 1, session_log=log)
  return Logger(
    write,
    lambda name, text: add(0, summary=summary.text(name, text)),
    lambda is_done: writer.close(),
  )


class _RemoteFiles:
  """Opens event files where etils does, as on a bucket."""

  directory_check = staticmethod(lambda path: None)  # buckets have no folders

  @staticmethod
  def open(path: str) -> Any:
    return _RemoteFile(path)


class _RemoteFile:
  """A file that is written anew at each flush, as objects cannot grow."""

  def __init__(self, path: epath.PathLike):
    self._path, self._content = epath.Path(path), bytearray()

  def write(self, data: bytes) -> None:
    self._content += data

  def flush(self) -> None:
    self._path.write_bytes(bytes(self._content))

  close = flush


# --- Weights & Biases and MLflow ----------------------------------
# A file in the workdir holds the id of the run there, so that the same training
# goes on in it. What was logged of the steps after the last checkpoint is
# logged again, with the same numbers.


def wandb(run: Run) -> Logger:
  """Opens a run of Weights & Biases, or goes on with it.

  Its variables count: WANDB_PROJECT ("synthjax" without it), WANDB_MODE and so
  on. What it writes on this machine lies in the workdir, if that is local.
  """
  import wandb as library

  file, known = _known_id(run, "wandb")
  is_local = not buckets.is_bucket(run.workdir)
  of_run = library.init(
    project=os.environ.get("WANDB_PROJECT", "synthjax"),
    name=f"{run.workdir.name}/{run.name}",
    group=run.workdir.name,
    id=known,
    resume="allow",
    dir=os.fspath(run.workdir) if is_local else None,
    config=dict(run.settings),
    allow_val_change=True,
    reinit="create_new",
    settings=library.Settings(console="off"),
  )
  _remember(file, of_run.id)
  return Logger(
    lambda step, metrics: of_run.log(dict(metrics), step=step),
    lambda name, text: of_run.summary.update({name: text}),
    lambda is_done: of_run.finish(exit_code=0 if is_done else 1),
  )


def mlflow(run: Run) -> Logger:
  """Opens a run of MLflow, or goes on with it.

  MLFLOW_TRACKING_URI says where, `mlflow.db` in the workdir without it, and
  MLFLOW_EXPERIMENT_NAME in which experiment ("synthjax").
  """
  from mlflow import entities, exceptions
  from mlflow.tracking import MlflowClient

  place = os.environ.get("MLFLOW_TRACKING_URI")
  if not place and not buckets.is_bucket(run.workdir):
    place = f"sqlite:///{os.path.abspath(run.workdir / 'mlflow.db')}"
  client = MlflowClient(place)
  file, known = _known_id(run, "mlflow")
  try:
    client.update_run(known or "", status="RUNNING")
  except exceptions.MlflowException:  # none, or of another server
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "synthjax")
    experiment = client.get_experiment_by_name(title)
    number = (
      experiment.experiment_id
      if experiment
      else client.create_experiment(title, _artifacts(run, place))
    )
    name = f"{run.workdir.name}/{run.name}"
    known = client.create_run(number, run_name=name).info.run_id
    settings = [entities.Param(k, str(v)) for k, v in run.settings.items()]
    client.log_batch(known, params=settings)
    _remember(file, known)

  def write(step: int, metrics: Mapping[str, float]) -> None:
    now = int(1000 * time.time())
    batch = [
      entities.Metric(re.sub(r"[^\w./ -]", "_", name), value, now, step)
      for name, value in metrics.items()
    ]
    client.log_batch(known, metrics=batch)

  return Logger(
    write,
    lambda name, text: client.log_text(known, text, f"{name}.md"),
    lambda is_done: client.set_terminated(
      known, "FINISHED" if is_done else "KILLED"
    ),
  )


def _artifacts(run: Run, place: str | None) -> str | None:
  """Returns the folder of files, beside a database in the workdir."""
  if os.environ.get("MLFLOW_TRACKING_URI") or not place:
    return None
  return os.path.abspath(run.workdir / "mlflow_files")


def _known_id(run: Run, logger: str) -> tuple[epath.Path, str | None]:
  """Returns the file of a run's id, and the id if there is one."""
  file = run.workdir / "log" / logger / f"{run.name.replace('/', '-')}.txt"
  return file, file.read_text().strip() if file.exists() else None


def _remember(file: epath.Path, run_id: str) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  with atomic.replace(file.parent, file.name) as path:
    path.write_text(run_id)


LOGGERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}


def _can_log(names: str | Sequence[str]) -> bool:
  """Returns whether all names are of LOGGERS that are installed."""
  return all(
    name in LOGGERS and (name == "tensorboard" or _is_installed(name))
    for name in of_names(names)
  )


def _is_installed(package: str) -> bool:
  spec = importlib.util.find_spec(package)
  # Python takes a folder such as ./wandb, where runs lie, for a package, too.
  return spec is not None and spec.origin is not None


# Of a field `str | tuple[str, ...]`.
INSTALLED = Rule(
  _can_log,
  f"some of {', '.join(LOGGERS)}, of which the last two must be installed: "
  'pip install "synthjax[wandb]" or "synthjax[mlflow]"',
)
