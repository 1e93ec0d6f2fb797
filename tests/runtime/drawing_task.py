"""A task whose shards Ray's workers draw: small flat images, slowly enough.

Workers import it by its dotted name, `runtime.drawing_task`.
"""

import os
import signal
import time

from etils import epath
from generators import test_filling

from synthjax.data.pipeline.codecs import encode_png
from synthjax.generators import filling
from synthjax.runtime import artifacts, engine
from synthjax.runtime.errors import UserError

PROCESSES = "shared"


def note(workdir, line):
  """Adds a line to a log that many processes write to."""
  with open(f"{workdir}/log.txt", "a") as log:
    log.write(f"{os.getpid()} {line}\n")


def prepare(config, workdir):
  log = config.get("log") or workdir  # a bucket's objects cannot grow
  note(log, "loads")
  folder, spec = epath.Path(workdir) / "drawing_task", {"seed": config.seed}
  if artifacts.begin(folder, spec):
    return
  rows = test_filling.make_rows(config.count)
  drawing = filling.prepare(
    folder,
    rows,
    test_filling.make_generator(
      config.get("batch", 4), before=lambda: time.sleep(config.pause)
    ),
    name=test_filling.NAME,
    shard_size=10,
    encode=encode_png,
  )

  def do(parts):
    for part in parts:
      note(log, f"draws {part}")
      if part == config.get("fails"):
        raise ZeroDivisionError("of shard 3")
      if part == config.get("refuses"):
        raise UserError("Shard 3 cannot be drawn: buy a larger one.")
      if part == config.get("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
      drawing.draw([part])
      note(log, f"drew {part}")

  def finish():
    note(log, "finishes")
    artifacts.finish(folder, spec, drawing.sizes)

  begin = lambda: note(log, "begins")
  yield engine.Work(folder, drawing.sizes, do, finish, begin, config.most)


def run(config, workdir):
  engine.do_here(prepare(config, workdir))
