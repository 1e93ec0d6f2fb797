"""Damages each file of a finished workdir, and runs the later tasks again.

  python tests/damaged_workdir.py WORKDIR CONFIG [TASK ...]

A file is flipped (one bit), cut, emptied or deleted; then the tasks behind its
own run anew in a copy, and its own task and `classify` after them. The outcome
is "named" where a message names the file, "same" where all that is made again
is as before, and "repaired" where the file is as it was, too. What else happens
is a fault: a message that does not name it, a traceback, or other results.
CONFIG is as of --config; TASK limits the files to those of some tasks.
"""

import collections
import contextlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from synthjax import main
from synthjax.adapt import classifier
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError


def flip(data: bytes) -> bytes:
  """Changes a bit in the middle; in JSON, of a digit if there is one."""
  digits = [i for i, byte in enumerate(data) if chr(byte) in "012345678"]
  is_text = data[:1] in b"{["
  at = digits[len(digits) // 2] if is_text and digits else len(data) // 2
  return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


WAYS = {
  "flipped": flip,
  "cut": lambda data: data[: len(data) // 2],
  "emptied": lambda data: b"",
  "deleted": None,
}
# What a run leaves of its own times differs from run to run.
_TIMED = ("cost", "tasks", "devices", "training_seconds")


def results_of(workdir: pathlib.Path, tasks: Sequence[str]) -> dict[str, str]:
  """Returns what each file of tasks holds, but for times."""
  found = {}
  for task in tasks:
    for name, entry in artifacts.load(workdir / task)["files"].items():
      if name.endswith("results.json"):
        content = json.loads((workdir / task / name).read_text())
        for key in _TIMED:
          content.pop(key, None)
        found[f"{task}/{name}"] = json.dumps(content, sort_keys=True)
      elif name != "report.html":
        found[f"{task}/{name}"] = entry["sha256"]
  return found


def classified(workdir: pathlib.Path) -> list[float]:
  """Returns the probabilities of a picture, if there is a classifier."""
  if not (workdir / "tune").exists():
    return []
  picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
  return classifier.load(workdir).classify(picture)[0].tolist()


def run_again(
  config: ConfigDict, workdir: pathlib.Path, task: str
) -> tuple[dict[str, str], list[float]]:
  """Runs the tasks behind one, and then itself; returns what they left."""
  tasks = list(config.tasks)
  here = tasks.index(task) if task in tasks else -1  # an input of all
  later, own = tasks[here + 1 :], [task] if here >= 0 else []
  for name in later:
    shutil.rmtree(workdir / name, ignore_errors=True)
  for names in (later, own):
    again = ConfigDict(config.to_dict() | {"tasks": tuple(names)})
    if names:
      with contextlib.redirect_stdout(io.StringIO()):
        main.run_tasks(again, str(workdir))
  return results_of(workdir, later + own), classified(workdir)


def outcome(
  config: ConfigDict, workdir: pathlib.Path, name: str, way: str, good: tuple
) -> str:
  """Damages a file of a copy, and says what comes of it."""
  with tempfile.TemporaryDirectory(dir=workdir.parent) as home:
    copy = pathlib.Path(home) / "run"
    shutil.copytree(workdir, copy)
    path = copy / name
    before = path.read_bytes()
    if way == "deleted":
      path.unlink()
    else:
      path.write_bytes(WAYS[way](before))
    try:
      found = run_again(config, copy, name.split("/")[0])
    except UserError as error:
      places = path.name, str(path.parent), f"Task {path.parent.name!r}"
      is_named = any(place in str(error) for place in places)
      return "named" if is_named else f"FAULT, not named: {error}"
    except Exception as error:
      return f"FAULT, {error!r:.300}"
    if name.endswith(artifacts.MANIFEST) and _is_told(copy, path.parent.name):
      return "named"  # on the page, as unfinished
    if found != good:
      other = [k for k in found[0] if found[0][k] != good[0].get(k)]
      return f"FAULT, used: other {', '.join(other) or 'classes'}"
    whole = path.exists() and path.read_bytes() == before
    return "repaired" if whole else "same"


def _is_told(workdir: pathlib.Path, task: str) -> bool:
  results = json.loads((workdir / "report" / "results.json").read_text())
  return results["tasks"].get(task, {}).get("state") == "unfinished"


def table(
  config: ConfigDict, workdir: pathlib.Path, tasks: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
  """Returns what comes of each file, by its name and the way of damage."""
  found: dict[str, dict[str, str]] = collections.defaultdict(dict)
  for task in tasks or config.tasks:
    with tempfile.TemporaryDirectory(dir=workdir.parent) as home:
      copy = pathlib.Path(home) / "run"
      shutil.copytree(workdir, copy)
      good = run_again(config, copy, task)
    for path in sorted((workdir / task).rglob("*")):
      name = str(path.relative_to(workdir))
      for way in WAYS if path.is_file() and path.stat().st_size else ():
        found[name][way] = outcome(config, workdir, name, way, good)
        print(f"{name} {way}: {found[name][way]}", file=sys.stderr, flush=True)
  return dict(found)


def run() -> None:
  workdir, path, *tasks = sys.argv[1:]
  config = main.load_config(path)
  found = table(config, pathlib.Path(workdir).resolve(), tasks)
  counts = collections.Counter(
    what.split(",")[0] for ways in found.values() for what in ways.values()
  )
  print(json.dumps({"counts": counts, "files": found}, indent=1))
  sys.exit(counts["FAULT"] > 0)


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  run()
