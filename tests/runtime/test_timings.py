"""What each run of a task took is kept, and changes nothing else."""

import json

import pytest

from synthjax.runtime import artifacts, timings
from synthjax.runtime.errors import UserError


def complete(workdir, task, content="a", folder=None):
  """Does what a task does: nothing if it is complete."""
  folder, spec = folder or workdir / task, {"task": task}
  if artifacts.begin(folder, spec):
    return
  (folder / "file.txt").write_text(content)
  artifacts.finish(folder, spec, {"file.txt": 1})


def test_a_run_is_recorded_when_it_begins_and_when_it_ends(tmp_path):
  with timings.timed(tmp_path, "tune") as timing:
    (record,) = timings.read(tmp_path)
    assert (record["task"], record["ended"], record["seconds"]) == (
      *("tune", None, None),
    )
    complete(tmp_path, "tune")
  assert timing.seconds > 0 and not timing.skipped
  (record,) = timings.read(tmp_path)
  assert record["ended"] == "complete" and record["processes"] == 1
  assert record["seconds"] == pytest.approx(timing.seconds, abs=1e-3)
  assert record["devices"] >= 1 and record["device"]
  assert not record["resumed"]


def test_what_a_task_measures_stands_in_its_own_record(tmp_path):
  for name in ("generate", "score"):
    with timings.timed(tmp_path, name):
      if name == "generate":
        timings.note(seconds_per_image=2.0)
        timings.note(seconds_per_image=1.5)
  found = {r["task"]: r for r in timings.read(tmp_path)}
  assert found["generate"]["seconds_per_image"] == 1.5
  assert "seconds_per_image" not in found["score"]


def test_a_task_that_is_skipped_leaves_no_record(tmp_path):
  complete(tmp_path, "tune")
  with timings.timed(tmp_path, "tune") as timing:
    assert timings.read(tmp_path) == []
    complete(tmp_path, "tune")
  assert timing.skipped and timings.read(tmp_path) == []


def test_a_task_with_a_manifest_for_each_part_is_skipped_too(tmp_path):
  """As `export` has for each format; a new one is work again."""
  part = lambda name: complete(tmp_path, "export", folder=tmp_path / name)
  with timings.timed(tmp_path, "export"):
    part("export/webdataset")
  with timings.timed(tmp_path, "export") as timing:
    part("export/webdataset")
  assert timing.skipped and len(timings.read(tmp_path)) == 1
  with timings.timed(tmp_path, "export") as timing:
    part("export/webdataset")
    part("export/parquet")
  assert not timing.skipped and len(timings.read(tmp_path)) == 2


def test_an_error_and_a_signal_are_recorded_as_stopped(tmp_path):
  for error in (UserError("no"), SystemExit(143), KeyboardInterrupt()):
    with pytest.raises(type(error)), timings.timed(tmp_path, "generate"):
      artifacts.begin(tmp_path / "generate", {})
      raise error
  found = timings.read(tmp_path)
  assert [record["ended"] for record in found] == ["stopped"] * 3
  assert [record["resumed"] for record in found].count(False) == 1
  assert all(record["seconds"] >= 0 for record in found)


def test_records_do_not_change_an_artifact(tmp_path):
  for name in ("one", "other"):
    with timings.timed(tmp_path / name, "tune"):
      complete(tmp_path / name, "tune")
  one, other = (tmp_path / name / "tune" for name in ("one", "other"))
  assert artifacts.digest(one) == artifacts.digest(other)
  assert sorted(p.name for p in one.iterdir()) == [
    *("file.txt", "manifest.json", "spec.json"),
  ]


def test_an_unreadable_record_counts_as_killed(tmp_path):
  with timings.timed(tmp_path, "train_clip"):
    pass
  folder = tmp_path / timings.FOLDER
  (path,) = folder.iterdir()
  for content in ("", "{", "[1]", "\x00"):
    path.write_text(content)
    assert timings.read(tmp_path) == [{"task": "train_clip"}]
  (folder / "notes.txt").write_text("mine")
  assert len(timings.read(tmp_path)) == 1
  assert timings.read(tmp_path / "nothing") == []


@pytest.mark.faults
def test_a_record_that_cannot_be_written_does_not_end_the_run(tmp_path, capsys):
  (tmp_path / "log").write_text("in the way")
  with timings.timed(tmp_path, "tune"):
    complete(tmp_path, "tune")
  assert (tmp_path / "tune" / artifacts.MANIFEST).exists()
  assert "could not be written" in capsys.readouterr().err


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  import jax

  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with timings.timed(tmp_path, "tune") as timing:
    complete(tmp_path, "tune")
  assert timing.seconds > 0 and timings.read(tmp_path) == []


def test_a_file_is_one_line_of_json(tmp_path):
  with timings.timed(tmp_path, "tune"):
    pass
  (path,) = (tmp_path / timings.FOLDER).iterdir()
  assert len(path.read_text().splitlines()) == 1
  assert json.loads(path.read_text())["task"] == "tune"
