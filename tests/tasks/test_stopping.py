"""The command when a signal stops it, when it is not alone, or finds damage."""

import contextlib
import hashlib
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
import tiny_glide
import tiny_world

from synthjax.data.generated import shards, unfinished
from synthjax.generators import filling
from synthjax.runtime import artifacts

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CONFIG = """
import json
from ml_collections import ConfigDict
def get_config(arg=None):
  fields = json.load(open({path!r}))
  return ConfigDict(fields | dict(tasks=tuple(fields["tasks"])))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """Returns the path of a config that draws 720 images in 180 shards."""
  folder = tmp_path_factory.mktemp("config")
  weights = tiny_glide.write_glide(folder)
  block = dict(images_per_class=120, seeds=(0, 1), shard_size=4)
  made = tiny_world.make_config(folder, generator=weights, generate=block)
  made.tasks = ("generate",)
  (folder / "config.json").write_text(made.to_json())
  path = folder / "config.py"
  path.write_text(CONFIG.format(path=str(folder / "config.json")))
  return path


def command(config, workdir, *more, **options):
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "synthjax.main",
      f"--config={config}",
      f"--workdir={workdir}",
      *more,
    ],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    **dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) | options,
  )


def whole(workdir):
  return sorted((workdir / "generate").glob(f"{filling.NAME}*"))


def wait_for_shards(process, workdir, count):
  while len(whole(workdir)) < count:
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.01)


@pytest.fixture
def workdir(tmp_path):
  tiny_world.write_prompts(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  ("sent", "by"), [(signal.SIGTERM, "a signal"), (signal.SIGINT, "Ctrl-C")]
)
def test_told_to_stop_it_leaves_whole_shards_and_no_litter(
  config, workdir, sent, by
):
  """And a second command, meanwhile, is told who is at work there."""
  process = command(config, workdir)
  wait_for_shards(process, workdir, 2)
  process.send_signal(signal.SIGSTOP)  # else it may draw all meanwhile
  other = command(config, workdir)
  _, said = other.communicate(timeout=300)
  assert other.returncode == 2 and f"pid {process.pid}" in said
  assert said.startswith("synthjax: Another run is at work")

  process.send_signal(sent)
  process.send_signal(signal.SIGCONT)
  _, said = process.communicate(timeout=60)
  assert process.returncode == 128 + sent
  assert f"stopped by {by}; the same command resumes" in said
  assert "Traceback" not in said
  found = whole(workdir)
  assert 2 <= len(found) < 180 and not list(workdir.rglob(".tmp-*"))
  for path in found:
    shards.check_rows(path, 4)
  assert not (workdir / "generate" / artifacts.MANIFEST).exists()


def stopped(config, workdir, sigint, after=None):
  """Runs the command until Ctrl-C has ended it, and returns what it said.

  Its standard error is a terminal, as that shows each batch.

  Args:
    config: of the command.
    workdir: of the command.
    sigint: what the command inherits as its way with SIGINT.
    after: seconds of drawing, after which it is sent.
  """
  screen, terminal = pty.openpty()
  before = signal.signal(signal.SIGINT, sigint)
  try:
    process = command(
      config,
      workdir,
      "--config.generate.shard_size=1000",
      stdout=subprocess.DEVNULL,
      stderr=terminal,
    )
  finally:
    signal.signal(signal.SIGINT, before)
  os.close(terminal)
  said = ""
  with contextlib.suppress(OSError):  # of a terminal that nobody has open
    while text := os.read(screen, 4096).decode():
      said += text
      if after is not None and re.search(r"generate: [\d,]+/720 images", said):
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        after = None
  os.close(screen)
  assert process.wait(60) == 128 + signal.SIGINT, said
  assert "stopped by Ctrl-C; the same command resumes" in said
  assert "Traceback" not in said
  return said


def test_ctrl_c_keeps_the_images_of_a_shard_and_changes_no_byte(
  config, workdir, tmp_path_factory
):
  """Again and again, also in the background of a script, which ignores it."""
  kept = [0]
  for sigint, after in [
    (signal.SIG_DFL, 0),
    (signal.SIG_IGN, 0.1),
    (signal.SIG_DFL, 0.3),
  ]:
    stopped(config, workdir, sigint, after)
    kept += unfinished.sizes(workdir / "generate").values()
  assert len(kept) == 4 and sorted({*kept}) == kept and kept[-1] < 720

  undisturbed = tmp_path_factory.mktemp("undisturbed")
  tiny_world.write_prompts(undisturbed)
  found = []
  for process, folder in [
    (command(config, folder, "--config.generate.shard_size=1000"), folder)
    for folder in (workdir, undisturbed)
  ]:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found.append(hashes(folder / "generate"))
  assert found[0] == found[1]


def hashes(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.iterdir()
  }


@pytest.mark.parametrize("sigint", [signal.SIG_DFL, signal.SIG_IGN])
def test_ctrl_c_while_the_config_is_read_stops_the_run(config, workdir, sigint):
  early = workdir / "early.py"
  sent = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
  early.write_text(sent + config.read_text())
  said = stopped(early, workdir, sigint)
  assert "generate:" not in said


def test_shared_commands_finish_what_a_lost_one_had_in_hand(config, workdir):
  workers = [command(config, workdir, "--shared") for _ in range(2)]
  for worker in workers:
    wait_for_shards(worker, workdir, 2)
  workers[0].kill()
  _, said = workers[1].communicate(timeout=300)
  assert workers[1].returncode == 0, said
  artifacts.verify(workdir / "generate")
  ids = [row["id"] for row in shards.open_shards(workdir / "generate")]
  assert len(ids) == len(set(ids)) == 720


def test_only_what_can_be_shared_is(config, workdir):
  process = command(
    config, workdir, "--shared", "--config.tasks=('generate','select')"
  )
  _, said = process.communicate(timeout=300)
  assert process.returncode == 2 and "not of select" in said
