"""Filling a folder with shards: together, resumed, and where it must fail."""

import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from synthjax.data.generated import shards, unfinished
from synthjax.data.generated.plan import Block, Row, rows_of
from synthjax.data.pipeline.codecs import encode_png
from synthjax.generators import Generator, filling
from synthjax.runtime.errors import UserError

NAME = "tiny_images"


def make_generator(batch_size=4, before=None):
  """Returns a generator of flat images, of the colour that a key gives."""

  def stream(prompts, rngs):
    for first in range(0, len(prompts), batch_size):
      if before:
        before()
      keys = jax.random.key_data(rngs[first : first + batch_size])
      colours = np.asarray(keys)[:, :1].astype(np.uint8)[:, None, None]
      yield np.broadcast_to(colours, (len(keys), 4, 4, 3))

  return Generator(
    stream=stream,
    batch_size=batch_size,
    image_size=4,
    reference_size=4,
    num_steps=1,
    identity={},
  )


def make_row(which, number):
  name = "cat" if which else "dog"
  return Row(f"basic-{which}-0-s0-{number}", which, name, name, 0, number)


def make_rows(count):
  return rows_of([Block(count, 2, make_row)])


def fill_folder(folder, count=20, generator=None, **changes):
  options = dict(name=NAME, shard_size=6, encode=encode_png) | changes
  pathlib.Path(folder).mkdir(exist_ok=True)
  generator = generator or make_generator()
  return filling.fill(folder, make_rows(count), generator, **options)


def contents(folder):
  files = pathlib.Path(folder).glob(f"{NAME}*")
  return {file.name: file.read_bytes() for file in files}


def test_every_image_is_there_once_in_the_order_of_the_rows(tmp_path):
  sizes = fill_folder(tmp_path)
  assert list(sizes.values()) == [6, 6, 6, 2]
  found = [row["id"] for row in shards.open_shards(tmp_path)]
  assert found == [row.id for row in make_rows(20)]


@pytest.mark.faults
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path):
  """It is cut off in the third shard; the first is there, none is half."""
  fill_folder(tmp_path / "whole")
  batches = iter(range(5))

  def before():
    if next(batches, None) is None:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    fill_folder(tmp_path / "cut", generator=make_generator(before=before))
  before_resuming = contents(tmp_path / "cut")
  assert 1 <= len(before_resuming) <= 2
  fill_folder(tmp_path / "cut")
  assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def cut(folder, num_batches, **changes):
  """Fills a folder until so many batches are begun, and is stopped then."""
  batches = iter(range(num_batches))

  def before():
    if next(batches, None) is None:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    fill_folder(folder, generator=make_generator(before=before), **changes)


def drawn_by(folder, **changes):
  """Fills a folder, and returns how many batches were drawn for it."""
  batches = []
  generator = make_generator(before=lambda: batches.append(1))
  fill_folder(folder, generator=generator, **changes)
  return len(batches)


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [0, 1000])
def test_the_images_of_an_unfinished_shard_are_used_again(
  tmp_path, monkeypatch, seconds
):
  """Whether they were written by and by, or when it was stopped."""
  monkeypatch.setattr(unfinished, "SECONDS", seconds)
  fill_folder(tmp_path / "whole", shard_size=20)
  folder = tmp_path / "cut"
  cut(folder, 2, shard_size=20)
  assert not contents(folder) and unfinished.sizes(folder) == {0: 8}
  cut(folder, 2, shard_size=20)
  assert unfinished.sizes(folder) == {0: 16}
  assert drawn_by(folder, shard_size=20) == 1  # of five
  assert contents(folder) == contents(tmp_path / "whole")
  assert not unfinished.sizes(folder)


@pytest.mark.faults
def test_a_damaged_or_foreign_piece_is_drawn_again(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(unfinished, "SECONDS", 0)
  fill_folder(tmp_path / "whole", shard_size=20)
  folder = tmp_path / "cut"
  cut(folder, 4, shard_size=20)
  first, second, third, _ = sorted(folder.glob(".drawn-*"))
  first.write_bytes(first.read_bytes()[:50])
  others = shards.read_file(second)
  shards.write_file(folder, second.name, [x | {"seed": 7} for x in others])
  third.rename(folder / ".drawn-00009-00000008-00000004")  # of no shard
  assert drawn_by(folder, shard_size=20) == 4
  assert contents(folder) == contents(tmp_path / "whole")
  assert "is drawn again" in capsys.readouterr().err
  assert not list(folder.glob(".drawn-*"))


@pytest.mark.faults
def test_a_generator_that_fails_leaves_whole_shards_and_its_error(tmp_path):
  batches = iter(range(3))

  def before():
    if next(batches, None) is None:
      raise FloatingPointError("of the generator")

  with pytest.raises(FloatingPointError, match="of the generator"):
    fill_folder(tmp_path, generator=make_generator(before=before))
  assert list(contents(tmp_path)) == [shards.shard_name(0, 4, name=NAME)]


@pytest.mark.faults
def test_a_write_that_fails_ends_the_run(tmp_path, monkeypatch):
  """The error of the thread that writes is not lost, nor waited for long."""
  monkeypatch.setattr(
    shards, "write_shard", lambda *a, **k: (_ for _ in ()).throw(OSError("no"))
  )
  with pytest.raises(OSError, match="no"):
    fill_folder(tmp_path)


@pytest.mark.faults
def test_a_disk_without_enough_space_stops_the_run_early(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
  monkeypatch.setattr(filling.shutil, "disk_usage", lambda path: usage)
  with pytest.raises(UserError) as error:
    fill_folder(tmp_path, count=1000, shard_size=100)
  need = re.search(r"992 images .* about ([\d,]+) bytes", str(error.value))
  size = len(encode_png(np.zeros((4, 4, 3), np.uint8)))
  assert abs(int(need[1].replace(",", "")) / 992 / size - 1) < 0.2
  assert "10,000 free" in str(error.value)


def test_a_long_run_is_estimated_from_its_second_batch(
  tmp_path, monkeypatch, capsys
):
  """One batch takes half a minute, and 248 are left: about two hours."""
  clock = [0.0]
  monkeypatch.setattr(time, "monotonic", lambda: clock[0])

  def before():
    clock[0] += 30

  slow = make_generator(before=before)
  fill_folder(tmp_path, count=1000, shard_size=100, generator=slow)
  lines = capsys.readouterr().err.splitlines()
  (told,) = [line for line in lines if "are left, about" in line]
  assert told.startswith("generate: 992 images are left, about 2 h 4 min")
  assert "0.133 images/s" in told and "GB free" in told
  assert "1,000/1,000 images" in lines[-1]


# Ctrl-C as commands take it: Python loses a KeyboardInterrupt now and then.
STOPPED = """
import sys, time
from synthjax.data.generated import unfinished
from synthjax.runtime import commands
from generators import test_filling
unfinished.SECONDS = 0.2

def before():
  print("batch", flush=True)
  time.sleep(0.01)

generator = test_filling.make_generator(before=before)
with commands.on_stop(sys.exit):
  test_filling.fill_folder(sys.argv[1], 6000, generator, shard_size=6000)
"""


@pytest.mark.slow
@pytest.mark.faults
def test_a_shard_survives_kills_at_random_moments(tmp_path):
  """Ten by SIGKILL and ten by Ctrl-C, within the one shard there is."""
  fill_folder(tmp_path / "whole", count=6000, shard_size=6000)
  folder, chance, drawn, kills = tmp_path / "cut", random.Random(0), 0, 0
  folder.mkdir()
  while not contents(folder):
    worker = subprocess.Popen(
      [sys.executable, "-c", STOPPED, str(folder)],
      cwd=pathlib.Path(__file__).parents[1],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    if kills < 20:
      drawn += bool(worker.stdout.readline())
      time.sleep(chance.uniform(0, 0.6))
      worker.send_signal((signal.SIGKILL, signal.SIGINT)[kills % 2])
      kills += 1
    drawn += worker.communicate(timeout=120)[0].count("batch")
  assert kills == 20 and contents(folder) == contents(tmp_path / "whole")
  # A kill loses 0.2 s of batches of 0.01 s, and those of writing them.
  assert 1500 <= drawn <= 1500 + 10 * 60, drawn


# A worker begins its first batch when all three have begun one: on a busy
# machine two could draw everything before the third has imported jax.
WORKER = """
import pathlib, sys, time
from generators import test_filling
folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]
def before():
  pathlib.Path(f"{folder}-begun-{number}").touch()
  while len(list(folder.parent.glob(f"{folder.name}-begun-*"))) < 3:
    time.sleep(0.01)
  print("batch", flush=True)
generator = test_filling.make_generator(before=before)
test_filling.fill_folder(folder, 2000, generator, shard_size=10)
"""


@pytest.mark.slow
@pytest.mark.faults
def test_processes_fill_a_folder_together_and_for_a_lost_one(tmp_path):
  """Three draw; one is killed in the middle; the others have it all."""
  fill_folder(tmp_path / "alone", count=2000, shard_size=10)
  folder = tmp_path / "together"
  folder.mkdir()
  workers = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, str(folder), str(number)],
      cwd=pathlib.Path(__file__).parents[1],
      stdout=subprocess.PIPE,
      text=True,
    )
    for number in range(3)
  ]
  timer = threading.Timer(400, lambda: [w.kill() for w in workers])
  timer.start()
  while len(contents(folder)) < 20:
    assert timer.is_alive()
  workers[0].kill()
  logs = [worker.communicate()[0] for worker in workers]
  timer.cancel()
  assert [worker.returncode for worker in workers] == [-9, 0, 0]
  assert contents(folder) == contents(tmp_path / "alone")
  # Three batches a shard. None was drawn twice but for what the lost one was
  # drawing and writing.
  batches = [log.count("batch") for log in logs]
  assert min(batches) > 0 and 600 <= sum(batches) <= 606, batches
