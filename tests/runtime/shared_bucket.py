"""Draws on one emulated bucket by several processes, and kills them at random.

  python tests/runtime/shared_bucket.py FOLDER PROCESSES KILLS SHARDS SEED

Each process is a command with --shared that knows nothing of the others. Its
clocks are wrong, by up to a day and by a tenth of their speed. A process that
is killed (SIGKILL) is replaced at once. Prints what was seen, as JSON: seconds,
kills, shards that were begun and that were drawn to the end more than once, and
whether the files are those of one process that was left alone with a disk.
"""

import collections
import hashlib
import json
import os
import pathlib
import random
import signal
import sys
import time
import zlib

import emulated_bucket
import ml_collections
import numpy as np
import simulated
from runtime import drawing_task

from synthjax import main
from synthjax.generators import Generator, filling
from synthjax.runtime import leases

TASK = "drawing_task"
BUCKET = "s3://bucket/run"


def make_generator(batch_size, before):
  """Returns a generator that needs neither keys nor a compiler."""

  def stream(prompts, rows):
    for first in range(0, len(rows), batch_size):
      before()
      ids = [row.id.encode() for row in rows[first : first + batch_size]]
      colours = np.array([[zlib.crc32(i) % 251] for i in ids], np.uint8)
      yield np.broadcast_to(colours[:, None, None], (len(ids), 4, 4, 3))

  sizes = dict(batch_size=batch_size, image_size=4, reference_size=4)
  return Generator(stream=stream, num_steps=1, identity={}, **sizes)


def start(folder, config, workdir, seed=None, **options):
  """Forks a process that runs the task; wrong clocks come of the seed."""

  def run():
    os.fsync = lambda descriptor: None  # no power is cut here
    emulated_bucket.serve(folder)
    leases.BEAT, leases.DEAD_AFTER, leases.LOOK = 1.0, 12.0, 3.0
    if seed is not None:
      shift_clocks(random.Random(seed))
    filling.image_keys = lambda rows: rows
    drawing_task.test_filling.make_generator = make_generator
    main.run_tasks(config, workdir, **options)

  return simulated.fork(run, folder / "log")


def shift_clocks(chance):
  for name in ("time", "monotonic"):
    true, began = getattr(time, name), getattr(time, name)()
    offset, rate = chance.uniform(-86400, 86400), chance.uniform(0.9, 1.1)

    def clock(true=true, began=began, offset=offset, rate=rate):
      return began + offset + rate * (true() - began)

    setattr(time, name, clock)


def at_work(folder):
  """Returns the processes that have begun a shard; others cost only time."""
  log = folder / "log.txt"
  lines = log.read_text().splitlines() if log.exists() else []
  words = (line.split() for line in lines)
  return {int(pid) for pid, word, *_ in words if word == "draws"}


def files_of(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.iterdir()
    if path.is_file() and path.name != "manifest.json"
  }


def run():
  folder = pathlib.Path(sys.argv[1])
  processes, kills, shards, seed = map(int, sys.argv[2:])
  chance, now = random.Random(seed), time.monotonic
  fields = dict(count=10 * shards, batch=10, pause=0.0, most=1, seed=0)
  fields |= {"tasks": (f"runtime.{TASK}",), "log": str(folder / "alone")}
  alone = folder / "alone"
  alone.mkdir(parents=True)
  process = start(folder, ml_collections.ConfigDict(fields), str(alone))
  assert os.waitpid(process, 0)[1] == 0, (folder / "log").read_text()

  fields |= {"log": str(folder), "pause": 0.15}
  config, began, killed = ml_collections.ConfigDict(fields), now(), 0
  begin = lambda: start(folder, config, BUCKET, chance.random(), shared=True)
  alive, due = {begin() for _ in range(processes)}, now() + 2
  while alive:
    time.sleep(0.05)
    if killed < kills and now() > due and (ready := alive & at_work(folder)):
      lost = chance.choice(sorted(ready))
      os.kill(lost, signal.SIGKILL)
      os.waitpid(lost, 0)
      killed, due = killed + 1, now() + chance.uniform(0.2, 2)
      alive = alive - {lost} | {begin()}
    for process in [*alive]:
      if os.waitpid(process, os.WNOHANG)[0]:
        alive.remove(process)
  seconds = now() - began
  lines = (folder / "log.txt").read_text().splitlines()
  begun, drawn = (
    collections.Counter(w[2] for w in map(str.split, lines) if w[1] == word)
    for word in ("draws", "drew")
  )
  found = folder / "objects" / BUCKET.partition("://")[2] / TASK
  written = json.loads((found / "manifest.json").read_text())["files"]
  expected = json.loads((alone / TASK / "manifest.json").read_text())["files"]
  report = {
    "seconds": round(seconds),
    "kills": killed,
    "shards": len(begun),
    "images": sum(entry["rows"] for entry in written.values()),
    "begun_twice": sum(begun.values()) - len(begun),
    "drawn_twice": sum(drawn.values()) - len(drawn),
    "finished": sum(line.endswith(" finishes") for line in lines),
    "same_files": files_of(found) == files_of(alone / TASK),
    "same_manifest": written == expected,
  }
  print(json.dumps(report))


if __name__ == "__main__":
  run()
