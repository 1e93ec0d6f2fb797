"""Locks: who holds a workdir, who does which part, and what a crash leaves."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from synthjax.runtime import commands, locks
from synthjax.runtime.errors import UserError

pytestmark = pytest.mark.faults

HOLD = """
import sys, time
from synthjax.runtime import locks
with locks.workdir(sys.argv[1], shared="shared" in sys.argv):
  print("held", flush=True)
  time.sleep(600)
"""
CLAIM = """
import sys, time
from synthjax.runtime import locks
with locks.claims(sys.argv[1]) as held:
  print(*(part for part in (0, 2) if held.claim(part)), flush=True)
  time.sleep(600)
"""


def start(script, *args):
  """Starts another process, which holds what it takes until it is killed."""
  process = subprocess.Popen(
    [sys.executable, "-c", script, *map(str, args)],
    stdout=subprocess.PIPE,
    text=True,
  )
  return process, process.stdout.readline().strip()


@pytest.fixture
def holder():
  """Starts processes, and kills those that are left."""
  started = []

  def begin(script, *args):
    process, line = start(script, *args)
    started.append(process)
    return process, line

  yield begin
  for process in started:
    process.kill()
    process.wait()


def test_another_run_is_refused_until_the_first_is_gone(tmp_path, holder):
  """The message has host, process and time; SIGKILL leaves no lock behind."""
  process, line = holder(HOLD, tmp_path)
  assert line == "held"
  with pytest.raises(UserError) as error:
    with locks.workdir(tmp_path):
      pass
  message = str(error.value)
  assert f"pid {process.pid}" in message and "--workdir" in message
  assert os.uname().nodename in message and "since 20" in message

  process.send_signal(signal.SIGKILL)
  process.wait()
  with locks.workdir(tmp_path):
    note = json.loads((tmp_path / locks.WORKDIR).read_text())
    assert note["pid"] == os.getpid()


def test_shared_runs_go_together_and_with_no_other(tmp_path, holder):
  for _ in range(2):
    _, line = holder(HOLD, tmp_path, "shared")
    assert line == "held"
  with locks.workdir(tmp_path, shared=True):
    pass
  with pytest.raises(UserError, match="--shared to each of them"):
    with locks.workdir(tmp_path):
      pass


def test_a_run_that_is_alone_admits_no_shared_one(tmp_path, holder):
  holder(HOLD, tmp_path)
  with pytest.raises(UserError, match="Another run"):
    with locks.workdir(tmp_path, shared=True):
      pass


def test_an_unreadable_note_is_no_obstacle(tmp_path, holder):
  process, _ = holder(HOLD, tmp_path)
  (tmp_path / locks.WORKDIR).write_bytes(b"\xff{")
  with pytest.raises(UserError, match="it left no note"):
    with locks.workdir(tmp_path):
      pass
  process.kill()
  process.wait()
  with locks.workdir(tmp_path):
    pass


def test_parts_of_a_lost_process_are_done_by_another(tmp_path, holder, capsys):
  """It has 0 and 2, and finishes 0 before it dies; 3 is there already."""
  process, line = holder(CLAIM, tmp_path)
  assert line == "0 2"
  names = [f"part-{i}" for i in range(5)]
  (tmp_path / names[3]).touch()
  done = []
  with locks.claims(tmp_path) as held:
    while locks.missing(tmp_path, names):
      for part in locks.share(tmp_path, names, held, wait=0.05):
        done.append(part)
        (tmp_path / names[part]).touch()
        if done == [1, 4]:
          (tmp_path / names[0]).touch()
          threading.Timer(0.5, process.kill).start()
  assert done == [1, 4, 2]
  said = capsys.readouterr().err
  assert said == f"{tmp_path.name}: other processes make part-2; waits\n"


def test_a_process_that_waits_for_others_can_be_stopped(tmp_path, holder):
  """Python may have dropped what the handler of the signal has raised."""
  process, _ = holder(CLAIM, tmp_path)
  threading.Timer(5, process.kill).start()  # else it would wait for ever
  told = []

  def stop(number):
    told.append(number)
    if len(told) > 1:
      raise SystemExit(number)

  with pytest.raises(SystemExit), commands.on_stop(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    with locks.claims(tmp_path) as held:
      for _ in locks.share(tmp_path, ["part-0"], held, wait=0.05):
        raise AssertionError("it has waited until the other one was lost")
  assert told == [signal.SIGTERM] * 2


def test_separate_processes_do_every_part_once(tmp_path):
  names = [f"part-{i}" for i in range(5)]
  with locks.claims(tmp_path) as held:
    parts = locks.share(tmp_path, names, held, process=(2, 3))
    assert list(parts) == [3, 4, 0, 1, 2]
    assert list(locks.share(tmp_path, [], held)) == []


def test_claims_are_released_afterwards(tmp_path, holder):
  with locks.claims(tmp_path) as held:
    assert held.claim(0) and held.claim(2)
    assert held.claim(2**48 - 1)  # as chunks of features have, of their digest
    process, line = holder(CLAIM, tmp_path)
    assert line == ""
    process.kill()
    process.wait()
  _, line = holder(CLAIM, tmp_path)
  assert line == "0 2"


# --- a bucket, which has no locks -------------------------------------------


class Bucket:
  """A path that says that it is of a bucket, and lies in a folder."""

  def __init__(self, path):
    self.path = pathlib.Path(path)
    self.parent = f"gs://{path}"

  def __getattr__(self, name):
    return getattr(self.path, name)


OTHER = {"host": "node7", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
  monkeypatch.setattr(locks, "_SETTLE", 0.0)


def test_a_note_with_a_heartbeat_stands_for_the_lock(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, "_BEAT", 0.05)
  note = Bucket(tmp_path / locks.WORKDIR)
  with locks._noted(note, shared=False):
    first = json.loads(note.read_text())["beat"]
    with pytest.raises(UserError, match=f"pid {os.getpid()}"):
      with locks._noted(note, shared=False):
        pass
    deadline = time.monotonic() + 20
    while json.loads(note.read_text() or "{}").get("beat", first) == first:
      assert time.monotonic() < deadline
      time.sleep(0.02)
  assert not note.exists()


def test_a_note_whose_heart_has_stopped_is_overwritten(tmp_path):
  note = Bucket(tmp_path / locks.WORKDIR)
  stopped = time.time() - locks._DEAD_AFTER - 1
  note.write_text(json.dumps({"pid": 1, "beat": stopped}))
  with locks._noted(note, shared=False):
    assert json.loads(note.read_text())["pid"] == os.getpid()


def test_a_run_waits_until_the_lost_one_before_it_is_surely_dead(
  tmp_path, monkeypatch, capsys
):
  """As the next try of a job does, whose machine was lost just now."""
  monkeypatch.setattr(locks, "_BEAT", 0.1)
  monkeypatch.setattr(locks, "_DEAD_AFTER", 0.5)
  note, began = Bucket(tmp_path / locks.WORKDIR), time.time()
  note.write_text(json.dumps(OTHER | {"beat": began}))
  with locks._noted(note, shared=False):
    assert time.time() - began >= 0.5
    assert json.loads(note.read_text())["pid"] == os.getpid()
  assert "waits for a sign of life" in capsys.readouterr().err


def test_a_shared_run_is_refused_by_a_note_whose_heart_beats(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(locks, "_BEAT", 0.05)
  note = Bucket(tmp_path / locks.WORKDIR)
  with locks._noted(note, shared=False):
    with pytest.raises(UserError, match="Another run is at work"):
      with locks._noted(note, shared=True):
        pass


def test_of_two_runs_that_begin_at_once_one_gives_up(tmp_path, monkeypatch):
  """Neither finds a note; the other one writes its own a moment later."""
  note = Bucket(tmp_path / locks.WORKDIR)
  written = json.dumps(OTHER | {"beat": time.time()})
  monkeypatch.setattr(time, "sleep", lambda _: note.write_text(written))
  with pytest.raises(UserError, match="node7, pid 1, since 2026"):
    with locks._noted(note, shared=False):
      pass
  assert json.loads(note.read_text())["host"] == "node7"


def test_a_run_whose_note_was_replaced_stops(tmp_path, monkeypatch, capsys):
  """It was asleep, and another one has the folder by now."""
  monkeypatch.setattr(locks, "_BEAT", 0.05)
  stopped = threading.Event()
  monkeypatch.setattr(os, "kill", lambda pid, number: stopped.set())
  note = Bucket(tmp_path / locks.WORKDIR)
  with locks._noted(note, shared=False):
    note.write_text(json.dumps(OTHER | {"beat": time.time()}))
    if not stopped.wait(1):  # it was writing at that very moment
      note.write_text(json.dumps(OTHER | {"beat": time.time()}))
    assert stopped.wait(300)
  assert json.loads(note.read_text())["host"] == "node7"
  assert "host node7" in capsys.readouterr().err


def test_a_machine_with_another_folder_of_that_path_is_told(tmp_path):
  """It has one of an earlier run, on its own disk."""
  with locks.workdir(tmp_path):
    holding = locks.holder(tmp_path)
    assert holding["pid"] == os.getpid()
    locks.check_seen(tmp_path, holding)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match="has no .*elsewhere of this run: give"):
      locks.check_seen(tmp_path / "elsewhere", holding)
    (tmp_path / "elsewhere" / locks.WORKDIR).write_text(json.dumps(OTHER))
    with pytest.raises(UserError, match="than this run, of host node7, pid 1"):
      locks.check_seen(tmp_path / "elsewhere", holding)


def test_a_workdir_that_cannot_be_had_is_one_message(tmp_path):
  (tmp_path / "file").write_text("kept")
  (tmp_path / "link").symlink_to("/scratch/not/mounted")
  for name, why in (
    ("file", "it is a file"),
    ("file/run", "Not a directory"),
    ("link", "it is a link to /scratch/not/mounted, which is not there"),
    ("x" * 300, "File name too long"),
  ):
    with pytest.raises(UserError, match=f"results: {why}.*another --workdir"):
      with locks.workdir(tmp_path / name):
        pass
  assert (tmp_path / "file").read_text() == "kept"


def test_a_disk_that_takes_no_lock_is_one_message(tmp_path, monkeypatch):
  for code in (errno.EROFS, errno.ENOSPC):

    def pwrite(*args, code=code):
      raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(UserError, match=os.strerror(code)):
      with locks.workdir(tmp_path):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
  (tmp_path / "precious").write_text("kept")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / locks.WORKDIR).symlink_to(tmp_path / "precious")
  with pytest.raises(UserError, match="in it is a link to .*precious"):
    with locks.workdir(tmp_path / "run"):
      pass
  assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.faults
def test_a_lock_that_is_no_file_is_named(tmp_path):
  for number, make in enumerate((os.mkfifo, os.mkdir)):
    run = tmp_path / str(number)
    run.mkdir()
    make(run / locks.WORKDIR)
    with pytest.raises(UserError, match=".lock in it is no file"):
      with locks.workdir(run):
        pass
