"""The page of a run of which much is missing or damaged."""

import base64
import io
import re

import numpy as np
import pytest
from made_up_run import (
  MAKERS,
  NAMES,
  STRATEGIES,
  finish,
  image_rows,
  make_config,
  make_images,
  make_selection,
  make_tuned,
  make_workdir,
  write,
)
from PIL import Image
from report_page import Page

from synthjax.data.generated import shards
from synthjax.report import checked_files
from synthjax.report.sections import images
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError

# --- what is missing --------------------------------------------------------


def asking(*tasks):
  config = make_config()
  config.tasks = (*tasks, "report")
  return config


def test_an_empty_workdir_gives_a_page_that_says_so(tmp_path):
  html, results = write(tmp_path, asking("prompts", "tune"))
  page = Page(html)
  text = " ".join(page.text)
  assert "Left out, as not complete: prompts (not run), tune (not run)." in text
  assert not page.of("img") and not page.of("dialog")
  assert results["tasks"]["tune"] == {"state": "missing"}


@pytest.mark.parametrize("task", MAKERS)
def test_one_task_alone_is_shown(tmp_path, task):
  html, results = write(make_workdir(tmp_path, [task]))
  page = Page(html)
  assert f"{task} (not" not in "".join(page.text)
  assert results["tasks"][task]["digest"] == artifacts.digest(tmp_path / task)


def test_a_selection_of_an_older_version_is_shown_alike(tmp_path):
  pages = []
  for older in (False, True):
    workdir = make_workdir(tmp_path / str(older), ["prompts", "generate"])
    make_selection(workdir / "select", older=older)
    html, results = write(workdir)
    album = re.findall(r"<img[^>]*>", html)
    pages.append((album, results["selection"]))
  assert pages[0] == pages[1] and pages[0][0]
  rows = image_rows()
  kept = [row for row in rows if row["p_own"] > 1 / 3]
  assert pages[0][1]["kept"] == len(kept)
  assert pages[0][1]["reasons"] == {
    "kept": len(kept),
    "below 1/N": len(rows) - len(kept),
  }
  of_first = [row["p_own"] for row in rows if row["label"] == 0]
  assert pages[0][1]["by_class"][0]["mean_p_own"] == pytest.approx(
    sum(of_first) / len(of_first)
  )


@pytest.mark.parametrize("task", MAKERS)
def test_any_task_may_be_missing(tmp_path, task):
  tasks = [other for other in MAKERS if other != task]
  html, _ = write(make_workdir(tmp_path, tasks), asking(*MAKERS))
  text = "".join(Page(html).text)
  assert f"Left out, as not complete: {task} (not run)." in text


def test_a_task_that_is_not_finished_is_left_out(tmp_path):
  make_workdir(tmp_path, ["prompts", "tune"])
  (tmp_path / "tune" / "manifest.json").unlink()
  html, results = write(tmp_path)
  assert "tune (not finished)" in "".join(Page(html).text)
  assert "tune" not in results


def test_scores_are_shown_without_a_selection(tmp_path):
  html, _ = write(make_workdir(tmp_path, ["generate", "score"]))
  rows = {row["id"]: row for row in image_rows()}
  thumbs = Page(html).of("button", "thumb")
  assert len(thumbs) == len(NAMES) * len(STRATEGIES) * 2
  for thumb in thumbs:
    p_own = float(thumb["data-p_own"])
    assert p_own == pytest.approx(rows[thumb["data-id"]]["p_own"], abs=1e-4)
    assert thumb["data-filter"] == "not filtered"


def make_parts(workdir, size):
  """Makes images, and their scores in parts of so many rows."""
  make_workdir(workdir, ["generate"])
  index = shards.read_index(workdir / "generate", len(image_rows()))
  p_own = {row["id"]: row["p_own"] for row in image_rows()}
  folder, spec, rows = workdir / "score", {"task": "score"}, {}
  artifacts.begin(folder, spec)
  for part, start in enumerate(range(0, len(index["id"]), size)):
    name = f"scores-{part:05d}-of-00012.npz"
    ids = index["id"][start : start + size].astype(str)
    np.savez(
      folder / name,
      ids=ids,
      p_own=np.array([p_own[key] for key in ids], np.float32),
      features=np.zeros((len(ids), 64)),
    )
    rows[name] = len(ids)
  artifacts.finish(folder, spec, rows)
  return {name: folder / name for name in rows}


@pytest.mark.faults
def test_parts_of_scores_are_read_as_far_as_they_are_shown(tmp_path):
  parts = make_parts(tmp_path, size=2)
  run = checked_files.open_run(tmp_path, ())
  rows = {row["id"]: row for row in image_rows()}
  album = images.pictures(run, 1)["album"]
  shown = [p for group in album.samples.values() for p in group]
  assert len(shown) == len(NAMES) * len(STRATEGIES)
  for picture in shown:
    assert picture.p_own == pytest.approx(rows[picture.id]["p_own"])

  assert len(shown) < len(parts)  # so that some part is not needed
  for name, path in parts.items():
    content = path.read_bytes()
    ids = np.load(path)["ids"]
    path.write_bytes(b"")
    if any(picture.id in ids for picture in shown):
      with pytest.raises(UserError, match=name):
        images.pictures(run, 1)
    else:
      assert images.pictures(run, 1)["album"] == album
    path.write_bytes(content)


def test_numbers_that_are_missing_do_not_break_the_page(tmp_path):
  nan = float("nan")
  make_tuned(
    tmp_path / "tune",
    zero_shot={"test": nan},
    rows=[{"arm": "B CE", "seed": 0, "accuracy": {"test": nan}}],
    summary=[
      dict.fromkeys(("mean", "std", "stderr", "n", "gain", "gain_stderr"), nan)
      | {"arm": "B CE", "split": "test"}
    ],
    confusion={"test": {"zero_shot": [[0, 0, 0], [1, 2, 3], [nan, 0, 1]]}},
  )
  html, results = write(tmp_path)
  assert Page(html).table("Accuracy on test")[1:3] == [
    ["zero-shot", "–", "", "", "", "", "", ""],
    ["B CE", "–", "–", "–", "–", "–", "–", "–"],
  ]
  assert results["tune"]["zero_shot"]["test"] is None


def test_uneven_classes_and_those_without_an_image_are_said(tmp_path):
  make_tuned(
    tmp_path / "tune",
    confusion={"test": {"zero_shot": [[3, 1, 0], [0, 0, 0], [1, 0, 1]]}},
  )
  html, _ = write(tmp_path)
  # 3 of 4 and 1 of 2 are right: 4 of 6, and the mean of 75 % and 50 %.
  assert f"Classes have 2 to 4 images, none of {NAMES[1]}." in html
  assert "The mean of the accuracies of 2 classes is 62.5 %." in html
  even = {"test": {"zero_shot": [[3, 1, 0], [0, 4, 0], [1, 0, 3]]}}
  make_tuned(tmp_path / "tune", confusion=even)
  assert "Classes have" not in write(tmp_path)[0]


def test_large_images_are_shrunk(tmp_path):
  make_images(tmp_path / "generate", size=256)
  html, _ = write(tmp_path)
  image = Page(html).of("img")[0]["src"]
  mime, code = image.removeprefix("data:").split(";base64,")
  assert mime == "image/jpeg"
  assert Image.open(io.BytesIO(base64.b64decode(code))).size == (128, 128)


def test_too_many_images_are_left_out_of_all_classes_alike(
  tmp_path, monkeypatch
):
  make_images(tmp_path / "generate")
  monkeypatch.setattr(images, "_MAX_BYTES", 20_000)  # five
  html, _ = write(tmp_path)
  shown = [t["data-class"] for t in Page(html).of("button", "thumb")]
  assert len(shown) == 5 and set(shown) == set(NAMES)
  assert "7 more were chosen and left out" in html


# --- damage -----------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize(
  "file",
  [
    "prompts/prompts.jsonl",
    "select/selection.parquet",
    "tune/results.json",
    "tune/curves.npz",
    "transfer/results.json",
    "pretrain/backbone-s0_metrics.jsonl",
    "score/scores-00000-of-00001.npz",
  ],
)
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_file_is_named(tmp_path, file, how):
  tasks = [file.split("/")[0]] + ["generate"] * file.startswith("score")
  path = make_workdir(tmp_path, tasks) / file
  content = path.read_bytes()
  if how == "cut":
    path.write_bytes(content[: len(content) // 2])
  elif how == "changed":
    path.write_bytes(content.replace(b"0", b"1", 1))
  else:
    path.unlink()
  with pytest.raises(UserError, match=re.escape(str(path))):
    write(tmp_path)
  assert not (tmp_path / "report" / "report.html").exists()


@pytest.mark.faults
@pytest.mark.parametrize("content", ["[1, 2]", "{", "\xff"])
def test_results_that_are_no_object_are_named(tmp_path, content):
  finish(tmp_path / "tune", {"results.json": content.encode("latin1")})
  with pytest.raises(UserError, match=r"tune/results\.json"):
    write(tmp_path)
