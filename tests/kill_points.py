"""Kills a run at random moments, again and again, until so many have hit it.

  python tests/kill_points.py FOLDER KILLS SEED

FOLDER holds `config.json` and `start/`, what every workdir starts from. The
tasks of the config run in a process that is forked from this one, which has
imported everything and computed nothing, so that starting again takes no
seconds. When a run gets to its end, its files must be those of one that was
left alone, `whole/`; then another one starts. Prints how many ended, and how
many kills hit each task.
"""

import collections
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time

import simulated
from ml_collections import ConfigDict

from synthjax import main
from synthjax.runtime import artifacts, cache
from synthjax.tasks import generate, pretrain, score  # noqa: F401


def manifests(workdir: pathlib.Path) -> dict[str, dict]:
  """Returns the files of every task: their rows, bytes and SHA-256."""
  return {
    path.parent.name: artifacts.load(path.parent)["files"]
    for path in sorted(workdir.glob(f"*/{artifacts.MANIFEST}"))
  }


def start(config: ConfigDict, workdir: pathlib.Path) -> int:
  """Forks a process that runs the tasks, and returns its number."""

  def run():
    cache.use_compilation_cache()
    main.run_tasks(config, str(workdir))

  return simulated.fork(run, workdir / "log.txt")


def where(workdir: pathlib.Path, tasks: tuple[str, ...]) -> str:
  """Returns the first task that has not been completed."""
  done = manifests(workdir)
  return next((task for task in tasks if task not in done), "after all")


def run() -> None:
  folder, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  draws = random.Random(int(sys.argv[3]))
  config = ConfigDict(json.loads((folder / "config.json").read_text()))
  config.tasks = tuple(config.tasks)
  config.lock()

  def fresh(name):
    shutil.copytree(folder / "start", folder / name)
    return folder / name

  for name in ("first", "whole"):  # the first compiles, so that kills may hit
    began = time.monotonic()
    _, status = os.waitpid(start(config, fresh(name)), 0)
    assert status == 0, (folder / name / "log.txt").read_text()
    takes = time.monotonic() - began
  whole = manifests(folder / "whole")
  assert set(config.tasks) <= set(whole)

  hits, ended = collections.Counter(), 0
  while hits.total() < kills:
    workdir = fresh(f"run-{ended}")
    while True:
      process = start(config, workdir)
      # Each time some way further: a run starts, does a part, and is killed.
      deadline = time.monotonic() + draws.uniform(0, 0.9 * takes)
      while time.monotonic() < deadline:
        gone, status = os.waitpid(process, os.WNOHANG)
        if gone:
          break
        time.sleep(0.002)
      else:
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
      if os.WIFSIGNALED(status):
        hits[where(workdir, config.tasks)] += 1
        continue
      assert status == 0, (workdir / "log.txt").read_text()
      break
    assert manifests(workdir) == whole
    for task in config.tasks:
      artifacts.verify(workdir / task)
    shutil.rmtree(workdir)
    ended += 1
  print(json.dumps({"ended": ended, "kills": hits.total(), **hits}))


if __name__ == "__main__":
  run()
