"""The page shows what a run cost, and what it has exported."""

import json

import ml_collections
import pytest
from made_up_run import (
  MAKERS,
  make_config,
  make_images,
  make_pretrained,
  make_scores,
  make_workdir,
  write,
)
from report_page import Page

from synthjax.report.sections import cost
from synthjax.runtime import artifacts, timings
from synthjax.runtime.errors import UserError
from synthjax.tasks import report

DEVICE = {"devices": 8, "device": "TPU v4", "processes": 2, "resumed": False}


def record(task, minute, seconds=None, ended="complete", **changes):
  """Returns what `timings` keeps of a run that began at 12:`minute`."""
  began = f"2026-11-27T12:{minute:02d}:00+00:00"
  times = {"began": began, "seconds": seconds, "ended": ended}
  return {"task": task} | times | DEVICE | changes


def keep(workdir, *records):
  folder = workdir / timings.FOLDER
  folder.mkdir(parents=True)
  for i, of in enumerate(records):
    stamp = of["began"].replace("-", "").replace(":", "")[:15]
    name = f"{stamp}-{of['task']}-{i:08x}.json"
    (folder / name).write_text(json.dumps(of) + "\n")


def measured(*records, price=None, states=None, curves=()):
  return cost.measure(records, states or {}, curves, price)


def test_runs_of_a_task_are_added_up():
  """A stop and a second run: 60 s and 120 s of 8 devices are 0.4 hours."""
  found = measured(
    record("generate", 0, 60, "stopped"),
    record("generate", 5, 120),
    record("tune", 9, 90, devices=1, device="cpu"),
    price=3.0,
  )
  generate, tune = found["tasks"]
  assert (generate["runs"], generate["seconds"]) == (2, 180)
  assert generate["device_hours"] == pytest.approx(0.4)
  assert generate["price"] == pytest.approx(1.2)
  assert (generate["devices"], tune["devices"]) == ("8 x TPU v4", "1 x cpu")
  assert found["seconds"] == 270 and found["unknown"] == 0
  assert found["price"] == pytest.approx(3 * (0.4 + 90 / 3600))


def test_runs_at_the_same_time_count_once_on_the_clock():
  """Two commands with --shared: 0 to 120 s and 60 to 180 s."""
  (row,) = measured(record("score", 0, 120), record("score", 1, 120))["tasks"]
  assert row["seconds"] == 180
  assert row["device_hours"] == pytest.approx(8 * 240 / 3600)


def test_a_killed_run_is_counted_apart():
  killed = record("generate", 0, None, None)
  states = {"generate": {"state": "complete", "files": {}}}
  found = measured(killed, record("generate", 5, 60), states=states)
  (row,) = found["tasks"]
  assert (row["runs"], row["unknown"], row["seconds"]) == (2, 1, 60)
  assert found["unknown"] == 1 and row["rate"] is None
  # As does one that cannot be read.
  assert measured({"task": "tune"})["unknown"] == 1
  assert measured(record("tune", 0, 5, began="yesterday"))["unknown"] == 1


def test_the_page_itself_is_left_out():
  assert measured(record("report", 0, 5))["tasks"] == []


def images_drawn(*records):
  files = {
    "synthjax_images-train.array_record-00000-of-00001": {"rows": 240},
    "features.json": {"rows": 0},
  }
  states = {"generate": {"state": "complete", "files": files}}
  (row,) = measured(*records, states=states)["tasks"]
  return row["amount"], row["unit"], row["rate"]


def test_images_a_second_are_those_of_all_runs_that_drew_them():
  runs = record("generate", 0, 60, "stopped"), record("generate", 5, 60)
  assert images_drawn(*runs) == (240, "images", 2.0)


def test_images_that_were_drawn_before_and_deleted_do_not_count():
  """Made whole twice: the first time was for other images."""
  first = record("generate", 0, 60)
  again = record("generate", 10, 20, "stopped"), record("generate", 20, 40)
  assert images_drawn(first, *again) == (240, "images", 4.0)


def test_steps_of_a_training_are_those_of_its_curves():
  curve = {"task": "pretrain", "label": "a", "seeds": 2, "steps": [1.0, 300.0]}
  curves = [
    curve | {"metric": "loss"},
    curve | {"metric": "lr", "steps": [100.0]},
    curve | {"metric": "loss", "label": "b", "seeds": 1},
    curve | {"metric": "loss", "task": "tune"},
  ]
  states = {"pretrain": {"state": "complete", "files": {}}}
  record_ = record("pretrain", 0, 100)
  (row,) = measured(record_, states=states, curves=curves)["tasks"]
  assert (row["amount"], row["unit"], row["rate"]) == (900, "steps", 9.0)


def test_the_page_has_a_table_of_costs(tmp_path):
  make_images(tmp_path / "generate")  # counts each file as a row
  make_scores(tmp_path / "score")
  make_pretrained(tmp_path / "pretrain")  # 80 steps
  keep(
    tmp_path,
    record("generate", 0, 240),
    record("score", 5, 8),
    record("pretrain", 6, 32),
    record("report", 9, 1),
  )
  html, results = write(tmp_path, make_config(price_per_device_hour=2.5))
  rows = Page(html).table("What each task took")
  # One run of each, all on the same devices: this needs no columns.
  head = [*("task", "time", "share (%)", "done", "a second")]
  assert rows[0] == [*head, "device-hours", "price"]
  assert rows[1] == [
    *("generate", "4 min 0 s", "85.7", "1 images", "0.004 images"),
    *("0.533", "1.33"),
  ]
  assert rows[3][1:5] == ["32 s", "11.4", "80 steps", "2.5 steps"]
  text = " ".join(Page(html).text)
  assert "took 4 min 40 s and 0.622 device-hours on 8 x TPU v4" in text
  assert "At 2.5 for a device-hour that is 1.56." in text
  assert results["cost"]["price"] == pytest.approx(2.5 * 8 * 280 / 3600)
  assert 'aria-label="Share of each task in the time' in html


def test_without_a_price_there_is_no_price(tmp_path):
  keep(tmp_path, record("tune", 0, 60))
  html, results = write(tmp_path)
  (row,) = Page(html).table("What each task took")[1:]
  assert len(row) == 6 and results["cost"]["price"] is None


def test_several_runs_and_devices_have_columns(tmp_path):
  keep(
    tmp_path,
    record("generate", 0, 60, "stopped"),
    record("generate", 2, 60),
    record("tune", 4, 60, devices=1, device="cpu"),
  )
  html, _ = write(tmp_path)
  head, generate, tune = Page(html).table("What each task took")
  assert (head[1], head[6]) == ("runs", "devices")
  assert (generate[1], generate[6]) == ("2", "8 x TPU v4")
  assert (tune[1], tune[6]) == ("1", "1 x cpu")


def test_a_killed_run_stands_in_the_words(tmp_path):
  keep(tmp_path, record("tune", 0, None, None), record("tune", 1, 60))
  html, _ = write(tmp_path)
  assert "not known: 1 of the runs of tasks" in "".join(Page(html).text)


def test_a_workdir_without_records_has_no_costs(tmp_path):
  html, results = write(tmp_path)
  assert 'id="cost"' not in html and results["cost"]["tasks"] == []


def test_the_page_is_written_again_for_a_new_run(tmp_path):
  make_workdir(tmp_path, ["prompts"])
  write(tmp_path)
  keep(tmp_path, record("prompts", 0, 60))
  html, _ = write(tmp_path)
  assert 'id="cost"' in html


@pytest.mark.parametrize("price", [-1, "2", True, float("nan")])
def test_a_bad_price_is_refused(tmp_path, price):
  config = ml_collections.ConfigDict()
  config.report = dict(price_per_device_hour=price)
  with pytest.raises(UserError, match="price_per_device_hour"):
    report.check(config, str(tmp_path))


def test_times_are_written_as_one_says_them():
  assert cost.duration(0.44) == "0.4 s"
  assert cost.duration(59.6) == "1 min 0 s"
  assert cost.duration(185) == "3 min 5 s"
  assert cost.duration(7 * 3600 + 130) == "7 h 2 min"


# --- exports ----------------------------------------------------------------


def make_export(workdir, name, files, *, images=24, **spec):
  folder = workdir / "export" / name
  artifacts.begin(folder, {"format": name} | spec)
  for file, size in files.items():
    (folder / file).write_bytes(bytes(size))
  artifacts.finish(
    folder, {"format": name} | spec, dict.fromkeys(files, 1), images=images
  )


def test_exports_are_listed_with_their_sizes(tmp_path):
  shards = {f"train-{i}.tar": 1_500_000 for i in range(2)}
  make_export(tmp_path, "webdataset", shards, split="train", selection="abc")
  make_export(
    tmp_path, "parquet", {"a.parquet": 10}, split="all", selection=None
  )
  make_export(
    tmp_path, "coco", {"train.json": 10}, images={"train": 3, "test": 2}
  )
  (tmp_path / "export" / "voc").mkdir()  # not finished
  html, results = write(tmp_path)
  coco, parquet, webdataset = Page(html).table("Folders of the workdir")[1:]
  assert webdataset == [
    *("export/webdataset", "WebDataset: tar files", "kept", "train"),
    *("24", "2", "3"),
  ]
  assert parquet[2:5] == ["all drawn", "all", "24"]
  assert coco[2:5] == ["scenes", "test, train", "5"]
  assert results["exports"][2]["bytes"] == 3_000_000


def test_the_page_is_written_again_for_a_new_export(tmp_path):
  make_workdir(tmp_path, ["prompts"])
  html, _ = write(tmp_path)
  assert 'id="export"' not in html
  make_export(tmp_path, "parquet", {"a": 1}, split="train", selection=None)
  html, _ = write(tmp_path)
  assert 'id="export"' in html


def test_what_the_tasks_left_stands_in_the_run(tmp_path):
  html, _ = write(make_workdir(tmp_path, ["prompts", "tune"]))
  rows = Page(html).table("Tasks")
  assert rows[0] == ["task", "state", "files", "rows", "size (MB)", "digest"]
  assert [row[0] for row in rows[1:]] == ["prompts", "tune"]
  assert set(MAKERS) > {"prompts", "tune"}
