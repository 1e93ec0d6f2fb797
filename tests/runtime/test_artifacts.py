"""Folders are complete or not, whatever happens to a run or to its files."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import time
from unittest import mock

import ml_collections
import numpy as np
import pytest
import simulated

from synthjax.runtime import artifacts, atomic, specifications
from synthjax.runtime.errors import UserError

SPEC = {"seed": 0, "model": {"name": "glide", "sizes": (1, 2)}, "note": None}


def complete(folder, spec=SPEC, content=b"four"):
  """Makes a complete artifact of one file, data.bin."""
  assert not artifacts.begin(folder, spec)
  with artifacts.replace(folder, "data.bin") as path:
    path.write_bytes(content)
  return artifacts.finish(folder, spec, {"data.bin": 4}, seconds=1.5)


def test_a_folder_is_claimed_filled_and_then_skipped(tmp_path):
  complete(tmp_path / "a")
  assert artifacts.begin(tmp_path / "a", SPEC) is True
  manifest = artifacts.load(tmp_path / "a")
  assert manifest["spec"]["model"] == {"name": "glide", "sizes": [1, 2]}
  assert manifest["summary"] == {"seconds": 1.5}
  assert manifest["files"]["data.bin"]["rows"] == 4
  assert manifest["files"]["data.bin"]["bytes"] == 4
  assert {"synthjax", "jax", "flax", "numpy", "python"} == set(
    manifest["versions"]
  )
  artifacts.verify(tmp_path / "a")


def test_without_a_manifest_a_folder_is_not_complete(tmp_path):
  assert artifacts.begin(tmp_path / "generate", SPEC) is False
  assert artifacts.begin(tmp_path / "generate", SPEC) is False  # resumed
  with pytest.raises(UserError, match="'generate' has not been completed"):
    artifacts.load(tmp_path / "generate")


@pytest.mark.parametrize("finished", [True, False])
def test_another_specification_is_refused_field_by_field(tmp_path, finished):
  folder = tmp_path / "a"
  complete(folder) if finished else artifacts.begin(folder, SPEC)
  before = {path: path.read_bytes() for path in folder.iterdir()}
  other = {"seed": 1, "model": {"name": "glide", "sizes": (1, 3)}, "new": True}
  with pytest.raises(specifications.SpecMismatch) as error:
    artifacts.begin(folder, other)
  message = str(error.value)
  assert "seed: found 0, asked for 1" in message
  assert "model.sizes.1: found 2, asked for 3" in message
  assert "new: found nothing, asked for true" in message
  assert "note: found null, asked for nothing" in message
  assert "model.name" not in message
  assert "--workdir" in message
  assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_finishing_with_another_specification_is_refused(tmp_path):
  artifacts.begin(tmp_path, SPEC)
  with pytest.raises(specifications.SpecMismatch):
    artifacts.finish(tmp_path, SPEC | {"seed": 2}, {})
  assert not (tmp_path / "manifest.json").exists()


def test_finishing_without_a_file_is_refused(tmp_path):
  artifacts.begin(tmp_path, SPEC)
  with pytest.raises(UserError, match=r"without \['data.bin'\]"):
    artifacts.finish(tmp_path, SPEC, {"data.bin": 1})
  assert not (tmp_path / "manifest.json").exists()


def test_the_digest_follows_content_and_nothing_else(tmp_path):
  complete(tmp_path / "a")
  complete(tmp_path / "b", spec={"seed": 9})
  complete(tmp_path / "c", content=b"five")
  digests = [artifacts.digest(tmp_path / name) for name in "abc"]
  assert digests[0] == digests[1] != digests[2]


def test_plain_data_is_read_from_configs_and_numpy():
  config = ml_collections.ConfigDict({"lr": np.float32(0.5), "drops": (1, 2)})
  assert specifications.plain(config) == {"lr": 0.5, "drops": [1, 2]}


@pytest.mark.parametrize("bad", [object(), float("nan"), np.zeros(2), {1: 2}])
def test_a_value_that_json_cannot_hold_is_named_by_its_path(tmp_path, bad):
  with pytest.raises(TypeError, match=r"spec\.model\.bad"):
    artifacts.begin(tmp_path / "a", {"model": {"bad": bad}})
  assert not (tmp_path / "a").exists()


# --- files ------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_whole(tmp_path):
  with artifacts.replace(tmp_path, "train/a.npz") as path:
    np.savez(path, x=1)  # which adds .npz to a name without it
    assert not (tmp_path / "train" / "a.npz").exists()
  assert [p.name for p in (tmp_path / "train").iterdir()] == ["a.npz"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
  (tmp_path / "a.txt").write_text("old")
  with pytest.raises(error):
    with artifacts.replace(tmp_path, "a.txt") as path:
      path.write_text("half of the n")
      raise error
  assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
  assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.faults
def test_a_killed_run_leaves_an_unfinished_folder_that_resumes(tmp_path):
  """Kills a process in the middle of its second file."""
  script = f"""
import os
from synthjax.runtime import artifacts, atomic
artifacts.begin({str(tmp_path)!r}, {SPEC!r})
for name in ("one.bin", "two.bin"):
  with artifacts.replace({str(tmp_path)!r}, name) as path:
    path.write_bytes(b"half")
    if name == "two.bin":
      os.kill(os.getpid(), 9)
"""
  killed = subprocess.run([sys.executable, "-c", script], timeout=60)
  assert killed.returncode == -9
  assert (tmp_path / "one.bin").exists() and not (tmp_path / "two.bin").exists()
  assert artifacts.begin(tmp_path, SPEC) is False

  # What it left under a temporary name is removed, once nobody can want it.
  (leftover,) = tmp_path.glob(".tmp-*")
  os.utime(leftover, (0, time.time() - 10 * 3600))
  (tmp_path / ".tmp-fresh").write_text("of another process")
  artifacts.finish(tmp_path, SPEC, {"one.bin": 1})
  assert [p.name for p in tmp_path.glob(".tmp-*")] == [".tmp-fresh"]


@pytest.mark.faults
def test_a_full_disk_says_so_and_loses_nothing(tmp_path):
  complete(tmp_path / "a")
  (tmp_path / "b").mkdir()
  (tmp_path / "b" / "x.bin").write_bytes(b"old")
  with pytest.raises(UserError) as error:
    with artifacts.replace(tmp_path / "b", "x.bin", need=12_345) as path:
      path.write_bytes(b"123")
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  message = str(error.value)
  assert str(tmp_path / "b") in message and "is full" in message
  assert "3 bytes of 12,345 needed" in message and "are free" in message
  assert (tmp_path / "b" / "x.bin").read_bytes() == b"old"
  assert len(list((tmp_path / "b").iterdir())) == 1
  artifacts.verify(tmp_path / "a")


@pytest.mark.faults
def test_a_disk_that_fills_up_at_the_sync_is_noticed(tmp_path, monkeypatch):
  def fsync(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", fsync)
  with pytest.raises(UserError, match="is full"):
    artifacts.begin(tmp_path, SPEC)
  assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_errors_of_writers_in_cpp_about_a_full_disk_are_recognised(tmp_path):
  with pytest.raises(UserError, match="is full"):
    with artifacts.replace(tmp_path, "x"):
      raise RuntimeError("INTERNAL: write(): No space left on device")


# --- damage -----------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("text", ["{ not json", "[]", '{"spec": {}}', ""])
def test_a_corrupt_manifest_is_named(tmp_path, text):
  complete(tmp_path)
  (tmp_path / "manifest.json").write_text(text)
  for function in (artifacts.load, artifacts.verify, artifacts.digest):
    with pytest.raises(UserError, match="manifest.json is damaged"):
      function(tmp_path)
  with pytest.raises(UserError, match="manifest.json is damaged"):
    artifacts.begin(tmp_path, SPEC)


@pytest.mark.faults
def test_a_truncated_file_stops_a_run_that_would_rely_on_it(tmp_path):
  complete(tmp_path)
  (tmp_path / "data.bin").write_bytes(b"fou")
  for call in (lambda: artifacts.begin(tmp_path, SPEC), verify_of(tmp_path)):
    with pytest.raises(
      UserError, match="data.bin: it has 3 bytes instead of 4"
    ):
      call()


@pytest.mark.faults
def test_verify_lists_every_missing_and_changed_file(tmp_path):
  artifacts.begin(tmp_path, SPEC)
  for name in ("good", "gone", "changed"):
    with artifacts.replace(tmp_path, name) as path:
      path.write_bytes(b"1234")
  artifacts.finish(
    tmp_path, SPEC, dict.fromkeys(("good", "gone", "changed"), 1)
  )
  (tmp_path / "gone").unlink()
  (tmp_path / "changed").write_bytes(b"1235")
  with pytest.raises(UserError) as error:
    artifacts.verify(tmp_path)
  assert "gone: it is missing" in str(error.value)
  assert "changed: its content has changed" in str(error.value)
  assert "good" not in str(error.value)


def verify_of(folder):
  return lambda: artifacts.verify(folder)


# --- buckets ----------------------------------------------------------------


def test_a_folder_can_be_in_a_bucket(bucket):
  complete(bucket)
  assert artifacts.begin(bucket, SPEC) is True
  artifacts.verify(bucket)
  with pytest.raises(specifications.SpecMismatch):
    artifacts.begin(bucket, SPEC | {"seed": 1})


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
  """Whoever sees a manifest sees every file, renamed and on the disk."""
  names = []
  rename = os.replace

  def record(source, target):
    names.append(pathlib.Path(target).name)
    rename(source, target)

  monkeypatch.setattr(os, "replace", record)
  complete(tmp_path)
  assert names == ["spec.json", "data.bin", "manifest.json"]
  assert json.loads(
    (tmp_path / "spec.json").read_text()
  ) == specifications.plain(SPEC)


def test_small_files_reach_the_disk_in_groups_and_then_get_names(
  tmp_path, monkeypatch
):
  """No file is named before the content of its group is on the disk."""
  happened = []

  def note(what, function):
    return lambda *args: (happened.append(what), function(*args))[1]

  monkeypatch.setattr(atomic, "_GROUP", 2)
  monkeypatch.setattr(os, "fsync", note("sync", os.fsync))
  monkeypatch.setattr(os, "replace", note("name", os.replace))
  with atomic.replace_many(tmp_path) as write:
    for i in range(3):
      write(f"{i % 2}/{i}", str(i).encode())
  first = ["sync"] * 2 + ["name"] * 2 + ["sync"] * 2  # with two folders
  assert happened == [*first, "sync", "name", "sync"]
  files = [p for p in tmp_path.rglob("*") if p.is_file()]
  assert {p.name: p.read_text() for p in files} == {i: i for i in "012"}

  with pytest.raises(KeyError), atomic.replace_many(tmp_path) as write:
    write("0/3", b"3")
    raise KeyError  # loses nothing that is whole
  files.append(tmp_path / "0" / "3")
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=full))
  with pytest.raises(UserError, match="is full"):
    with atomic.replace_many(tmp_path) as write:
      write("4", b"4")
  left = [p for p in tmp_path.rglob("*") if p.is_file()]
  assert sorted(left) == sorted(files)


def test_fields_that_do_not_change_the_result_block_no_resume(tmp_path):
  """A run goes on with another number of workers; an old one knew it."""
  trained = {"epochs": 3, "arms": [{"lr": 0.1, "num_workers": 16}]}
  folder = tmp_path / "pretrain"
  folder.mkdir()
  (folder / artifacts.SPEC).write_text(
    json.dumps(trained | {"log_every": 50, "checkpoint_every": 9, "fsdp": 2})
  )
  asked = {"epochs": 3, "arms": [{"lr": 0.1, "num_workers": 4}], "log_every": 1}
  assert not artifacts.begin(folder, asked)
  (folder / "weights").write_text("1")
  manifest = artifacts.finish(folder, asked, {"weights": 1})
  assert manifest["spec"] == {"epochs": 3, "arms": [{"lr": 0.1}]}
  assert artifacts.begin(folder, trained)
  with pytest.raises(specifications.SpecMismatch, match="lr: found 0.1"):
    artifacts.begin(folder, {"epochs": 3, "arms": [{"lr": 0.2}]})


RENEW = """
import pathlib, sys, time
from synthjax.runtime import artifacts, repairs
folder, spec = pathlib.Path(sys.argv[1]), {"seed": 0}

def begin(images, renew=None):
  read = spec | {"images": repairs.Digest(images, {"drawn": 0})}
  if not artifacts.begin(folder, read, renew=renew):
    with artifacts.replace(folder, "data.bin") as path:
      path.write_text(images)
    artifacts.finish(folder, read, {"data.bin": 1})

def drop():
  with open(f"{folder}.log", "a") as log:
    log.write("drops ")
  time.sleep(2)  # as it reads thousands of files
  (folder / "data.bin").unlink()

begin("a" * 64)
print("begun", flush=True)
sys.stdin.readline()
begin("b" * 64, drop)
assert (folder / "data.bin").read_text() == "b" * 64
"""


@pytest.mark.faults
def test_one_of_several_processes_renews_a_folder(tmp_path):
  """The others wait, and find it as the first one has made it."""
  folder, begun = tmp_path / "score", []
  for _ in range(3):  # one after the other makes what is there before
    begun.append(simulated.start(RENEW, folder, stdin=subprocess.PIPE))
    assert begun[-1].stdout.readline() == "begun\n"
  for process in begun:
    process.stdin.write("go\n")
    process.stdin.flush()
  simulated.finish(*begun)
  assert (tmp_path / "score.log").read_text() == "drops "
  assert artifacts.load(folder)["files"]["data.bin"]["bytes"] == 64
