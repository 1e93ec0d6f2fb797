"""Records the time of each run of a task, in a small file in `log/tasks`.

No digest covers that folder, as an artifact is the same however long it took.
Each run has a file of its own, so that commands that share a workdir need not
wait for each other.
"""

import contextlib
import datetime
import json
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from synthjax.runtime.artifacts import MANIFEST
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.runtime.text_files import parse_json

FOLDER = "log/tasks"  # in a workdir
_NAME = re.compile(r"\d+T\d+-(\w+)-[0-9a-f]+\.json")


class Timing:
  """The duration of a run of a task."""

  seconds: float = 0.0
  skipped: bool = False  # the task was complete before the run


_noted: dict[str, Any] = {}  # by the task that runs


def note(**measured: float | str) -> None:
  """Adds to the record of the task that runs what it has measured of itself."""
  _noted.update(measured)


def noted() -> dict[str, float | str]:
  """Returns what the task that runs has measured of itself so far."""
  return dict(_noted)


@contextlib.contextmanager
def timed(
  workdir: epath.PathLike, task: str, *, elsewhere: bool = False
) -> Iterator[Timing]:
  """Records when a run of a task began, how long it took, and its devices.

  The file is written at the start too, so that a killed run leaves a record
  without its length. A skipped task leaves none. A record that cannot be
  written does not end the run.

  Args:
    workdir: of the run.
    task: its name.
    elsewhere: the task runs on devices of other processes, which `note` gets.
  """
  import jax

  first = jax.process_index() == 0  # one record for all processes of a run
  folder, timing = epath.Path(workdir), Timing()
  began = datetime.datetime.now(datetime.UTC)
  record = {
    "task": task,
    "began": began.isoformat(timespec="seconds"),
    "seconds": None,
    "ended": None,  # "complete", or "stopped" by an error or a signal
    "devices": None,
    "device": None,
    "processes": None,
    "resumed": False,
  }
  if not elsewhere:
    record |= {
      "devices": jax.device_count(),
      "device": jax.devices()[0].device_kind,
      "processes": jax.process_count(),
    }
  name = f"{began:%Y%m%dT%H%M%S}-{task}-{secrets.token_hex(4)}.json"
  before = _manifests(folder / task)
  if first and not before:
    record["resumed"] = (folder / task).exists()
    _write(folder, name, record)
  clock = time.monotonic()
  _noted.clear()
  record["ended"] = "stopped"
  try:
    yield timing
    record["ended"] = "complete"
  finally:
    timing.seconds = time.monotonic() - clock
    timing.skipped = bool(before) and _manifests(folder / task) == before
    record |= {**_noted, "seconds": round(timing.seconds, 3)}
    if first and not timing.skipped:
      _write(folder, name, record)


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the records of all runs, in their order.

  A record that cannot be read counts as that of a killed run.
  """
  folder, records = epath.Path(workdir) / FOLDER, []
  for path in sorted(folder.iterdir()) if folder.exists() else ():
    if match := _NAME.fullmatch(path.name):
      try:
        record = parse_json(path.read_bytes(), dict)
      except ValueError:
        record = {}
      records.append(record | {"task": match[1]})
  return records


def _manifests(folder: epath.Path) -> dict[str, bytes]:
  """Reads the manifests of a task and of the folders in it."""
  if not folder.exists():
    return {}
  paths = [folder / MANIFEST, *folder.glob(f"*/{MANIFEST}")]
  return {str(path): path.read_bytes() for path in paths if path.exists()}


def _write(workdir: epath.Path, name: str, record: dict[str, Any]) -> None:
  folder = workdir / FOLDER
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with replace(folder, name) as path:
      path.write_text(json.dumps(record) + "\n")
  except (OSError, UserError) as error:  # such as a full disk
    say(f"{folder / name} could not be written ({error}); the run goes on.")
