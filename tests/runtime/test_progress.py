"""Lines about long work: on a terminal, in a log, and of busy devices."""

import os
import pty
import stat
import subprocess
import sys
import time

import jax
import pytest

from synthjax.runtime import progress


@pytest.fixture
def clock(monkeypatch):
  """A clock that the test advances; the CPU works on one and a half cores."""
  now = [0.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  monkeypatch.setattr(time, "process_time", lambda: 1.5 * now[0])
  monkeypatch.setattr(progress, "count_cores", lambda: 2)
  return now


def test_rate_and_time_left_ignore_compilation(clock, capsys):
  """100 images of 1,000 are there; 20 s of compiling, then 50 in 10 s."""
  count_on = progress.counter("generate", 1000, done=100)
  clock[0] = 20
  assert count_on(50) is None
  clock[0] = 30
  assert count_on(50) == 5
  assert capsys.readouterr().err.splitlines() == [
    "generate: 150/1,000 images  1.5 of 2 cores",
    "generate: 200/1,000 images  5 images/s  3 min left  1.5 of 2 cores",
  ]


def test_processes_share_the_rest(clock, capsys):
  count_on = progress.counter("score", 1000, processes=4)
  count_on(0)
  clock[0] = 10
  count_on(100)  # 900 of 10 a second, by four
  assert "  22 s left" in capsys.readouterr().err


def test_the_last_call_shows_the_duration(clock, capsys):
  count_on = progress.counter("tune", 2, unit="heads")
  clock[0] = 1
  count_on(note="LE, 30 rows")
  clock[0] = 3
  count_on(note="B, 30 rows")
  assert capsys.readouterr().err == (
    "tune: 2/2 heads  B, 30 rows  0.667 heads/s  in 3 s  1.5 of 2 cores\n"
  )


def test_a_log_of_a_long_run_does_not_fill_the_disk(clock, capsys):
  """A line each 10 s at first; after hours, one in 5 minutes."""
  count_on = progress.counter("x", 10**6)
  for clock[0] in range(1, 36_001):
    count_on()
    if clock[0] == 60:
      assert len(capsys.readouterr().err.splitlines()) == 6
  assert 150 < len(capsys.readouterr().err.splitlines()) < 400


def test_a_file_that_comes_has_size_rate_and_time(clock, capsys):
  show = progress.transfer("base.pt", 100_000_000, 1_500_000_000)
  clock[0] = 5
  show(110_000_000)  # too early for a line
  clock[0] = 20
  show(300_000_000)
  clock[0] = 21
  show(1_500_000_000, last=True)
  assert capsys.readouterr().err.splitlines() == [
    "base.pt: 300.0 of 1,500.0 MB, 10.0 MB/s, 2 min left",
    "base.pt: 1,500.0 of 1,500.0 MB, 66.7 MB/s",
  ]


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(3, "3 s"), (200, "3 min"), (7500, "2 h 5 min"), (3.6e7, "10,000 h 0 min")],
)
def test_times_are_short(seconds, text):
  assert progress.duration(seconds) == text


def on_a_terminal(code: str) -> str:
  """Runs Python with a terminal of 40 columns; returns what it showed."""
  here, there = pty.openpty()
  environment = os.environ | {"COLUMNS": "40", "TERM": "xterm"}
  child = subprocess.Popen(
    [sys.executable, "-c", code], stderr=there, env=environment
  )
  os.close(there)
  shown = b""
  while True:
    try:
      piece = os.read(here, 4096)
    except OSError:  # Linux: the other end is closed
      break
    if not piece:
      break
    shown += piece
  os.close(here)
  assert child.wait() == 0
  return shown.decode().replace("\r\n", "\n")


def test_a_terminal_has_one_line_that_others_do_not_run_into():
  shown = on_a_terminal(
    "from synthjax.runtime import progress\n"
    "progress.say('a ' * 50, last=False)\n"
    "progress.say('b', last=False)\n"
    "progress.say('whole')\n"
    "progress.say('open', last=False)\n"
    "progress.end_line(); progress.end_line()\n"
  )
  clear = "\r\x1b[K"
  assert shown == (f"{clear}{'a ' * 19}a{clear}b{clear}whole\n{clear}open\n")


def test_a_dumb_terminal_is_a_log(monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  monkeypatch.setenv("TERM", "dumb")
  progress.say("x", last=False)
  assert capsys.readouterr().err == "x\n"


class FakeGpu:
  platform = "gpu"

  def memory_stats(self):
    return {"bytes_in_use": 20e9, "bytes_limit": 40e9}


@pytest.fixture
def smi(tmp_path, monkeypatch):
  """Writes a command that stands for nvidia-smi."""

  def write(script):
    file = tmp_path / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)

  monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
  monkeypatch.setattr(jax, "local_devices", lambda: [FakeGpu(), FakeGpu()])
  return write


def test_gpus_report_memory_and_busy_time(smi, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
  smi('case "$*" in *--id=2,3*) echo 90; echo 96;; esac')
  assert progress.watch_devices()() == "93 % busy, 40 of 80 GB"


@pytest.mark.parametrize("script", ["exit 9", "echo '[N/A]'", "true"])
def test_without_nvidia_smi_the_memory_is_shown(smi, script):
  smi(script)
  assert progress.watch_devices()() == "40 of 80 GB"
