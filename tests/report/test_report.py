"""The page shows what the artifacts hold, whole or not, and nothing else."""

import base64
import io
import re

import ml_collections
import numpy as np
import pytest
from made_up_run import (
  NAMES,
  PER_CLASS,
  STRATEGIES,
  finish,
  image_rows,
  make_config,
  make_workdir,
  picture,
  write,
)
from PIL import Image
from report_page import Page

from synthjax.report import sections
from synthjax.report.sections import filter, images
from synthjax.runtime import specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import report


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("workdir"))


@pytest.fixture(scope="module")
def written(workdir):
  return write(workdir)


def test_the_page_is_well_formed_and_asks_for_nothing(written):
  html, _ = written
  page = Page(html)
  assert html.startswith("<!DOCTYPE html>")
  assert len(html.encode()) < 5_000_000
  for tag, attrs in page.tags:
    for name in ("src", "href"):
      value = attrs.get(name, "#")
      assert value.startswith(("#", "data:image/")), f"<{tag} {name}={value}>"
  assert not page.of("link") and "url(" not in html and "@import" not in html
  ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
  assert len(ids) == len(set(ids))
  targets = {a["href"][1:] for a in page.of("a")}
  assert targets <= set(ids)
  assert {"accuracy", "classes", "images", "filter", "curves"} <= targets
  assert "nan" not in "".join(page.text).lower().split()


def test_the_policy_allows_the_script_that_is_there(written):
  import hashlib

  html, _ = written
  script = re.search(r"<script>(.*?)</script>", html, re.S)[1]
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = Page(html).of("meta")[1]["content"]
  assert "default-src 'none'" in policy
  assert f"script-src 'sha256-{digest}'" in policy


def test_numbers_are_those_of_the_tasks(written):
  html, results = written
  page = Page(html)
  assert results["tune"]["zero_shot"]["test"] == 0.4224
  rows = page.table("Accuracy on test")
  assert rows[1][:3] == ["zero-shot", "42.24", ""]
  # 51 ± t(2) * 0.577, where t(2) is 4.303.
  interval = "48.5\u00a0to\u00a053.5"
  assert rows[2][:4] == ["B CE", "51.00", interval, "+8.76"]
  assert rows[2][4:] == ["0.58", "1.00", "3", "15.2"]
  assert rows[3][:2] + rows[3][3:6] == [
    *("LE+CF SCE", "61.00"),
    *("+18.76", "0.58", "1.00"),
  ]
  assert page.table("Accuracy on validation")[3][1] == "70.00"
  (test, _) = sorted(results["accuracy"], key=lambda e: e["split"])
  assert test["arms"][0]["values"] == [0.5, 0.51, 0.52]
  # The arm that stands on top is the best on validation.
  tiles = " ".join(page.text)
  assert "LE+CF SCE on test, the best on validation" in tiles


def test_each_class_has_its_gain_and_its_share_of_the_filter(written):
  html, results = written
  rows = Page(html).table("Each class")
  assert [row[0] for row in rows[1:]] == NAMES
  kept = [row for row in image_rows() if row["p_own"] > 1 / 3]
  for label, row in enumerate(rows[1:]):
    own = sum(r["label"] == label for r in kept)
    assert row[4:6] == [str(len(STRATEGIES) * PER_CLASS), str(own)]
  # 5 of 10 before, 24 of 30 after; 6 and 30; 1 and 12.
  assert [row[1:4] for row in rows[1:]] == [
    ["50.0", "80.0", "+30.0"],
    ["60.0", "100.0", "+40.0"],
    ["10.0", "40.0", "+30.0"],
  ]
  assert results["selection"]["kept"] == len(kept)
  assert sum(results["selection"]["histogram"]["kept"]) == len(kept)
  wrong = Page(html).table("Most frequent mistakes, zero-shot")
  assert wrong[1] == [NAMES[2], NAMES[1], "8", "80.0"]
  caption = "Most frequent mistakes, LE+CF SCE on test, mean of 3 seeds"
  assert Page(html).table(caption)[1] == [NAMES[2], NAMES[1], "4.0", "40.0"]


def test_a_kept_image_of_a_low_score_says_that_it_fills_up():
  picture = images.Picture(
    *("a-0-0-s0-0", 0, "a", "a cat", 0, 0.001, True, "filled", "image/png"), b""
  )
  shown = images.thumbs([picture], "cat")
  assert "<span>✓ fills up</span>" in shown and "0.00<" not in shown
  assert 'data-filter="kept: fills up a class of too few"' in shown
  picture = picture._replace(p_own=0.9, reason="kept")
  assert "✓ 0.90" in images.thumbs([picture], "cat")


@pytest.mark.parametrize(
  ("reasons", "words"),
  [
    ({"kept": 30, "below": 70}, "30 % kept by the filter"),
    (
      {"kept": 10, "filled": 20, "below": 70},
      "30 % kept, 67 % of them to fill up classes of too few",
    ),
  ],
)
def test_images_that_fill_up_classes_do_not_count_as_passed(reasons, words):
  found = {"images": 100, "kept": 30, "reasons": reasons}
  shown = [
    f"{t.number} {t.unit} {t.words}" for t in filter.tiles({"selection": found})
  ]
  assert shown[1] == words


def test_transfer_is_paired_by_seed(written):
  html, results = written
  page = Page(html)
  rows = page.table("Accuracy after finetuning")
  assert rows[2][:3] == ["pretrained", "16 per class", "3"]
  assert rows[2][3:] == ["46.67", "1.00", "44.2\u00a0to\u00a049.2"]
  (row,) = page.table("Difference, paired by seed")[1:]
  assert row[:4] == ["pretrained − random", "16 per class", "3", "+15.7"]
  (paired,) = results["transfer"]["differences"]
  assert paired["mean"] == pytest.approx(0.1567)
  assert paired["stderr"] == pytest.approx(0, abs=1e-9)


def test_curves_are_means_over_seeds(written):
  html, results = written
  curves = {(c["label"], c["metric"]): c for c in results["curves"]}
  curve = curves["B CE", "loss"]
  assert (curve["seeds"], curve["first"]) == (3, 3.0)
  assert curve["last"] == pytest.approx(2 / 300 + 1)
  assert len(curve["steps"]) == 200 and curve["steps"][-1] == 300
  assert curves["backbone", "loss"]["values"][1] == 1.0
  assert 'aria-label="loss of pretrain over its steps"' in html


def test_images_are_shown_with_what_is_known_of_them(written):
  html, _ = written
  page = Page(html)
  thumbs = page.of("button", "thumb")
  rows = {row["id"]: row for row in image_rows()}
  kept = {i for i, row in rows.items() if row["p_own"] > 1 / 3}
  of = lambda ids, label: sum(rows[i]["label"] == label for i in ids)
  # Two of each class and strategy; then two kept and two dropped of a class.
  expected = len(NAMES) * len(STRATEGIES) * 2 + sum(
    min(2, of(ids, label))
    for ids in (kept, rows.keys() - kept)
    for label in range(len(NAMES))
  )
  images = [i for i in page.of("img") if i.get("class") != "large"]
  assert len(thumbs) == len(images) == expected
  order = list(rows)
  for thumb, image in zip(thumbs, images, strict=True):
    row = rows[thumb["data-id"]]
    mime, code = image["src"].removeprefix("data:").split(";base64,")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
    assert mime == "image/png"
    np.testing.assert_array_equal(shown, picture(order.index(row["id"])))
    assert (
      thumb["data-prompt"] == row["prompt"]
      and row["prompt"] in (thumb["title"])
    )
    assert thumb["data-seed"] == "7"
    assert thumb["data-p_own"] == f"{row['p_own']:.4f}"
    assert thumb["data-class"] == image["alt"] == NAMES[row["label"]]
    verdict = "kept" if row["id"] in kept else "dropped"
    assert verdict in thumb["class"] and verdict in thumb["data-filter"]


def test_names_are_never_taken_for_html(written):
  html, _ = written
  page = Page(html)
  assert len(page.of("script")) == 1
  assert html.count("<script") == 1
  text = "".join(page.text)
  for name in NAMES:
    assert name in text


# --- tasks and sections -----------------------------------------------------


def test_modules_of_sections_have_a_place_of_their_own():
  modules = sections.modules()
  places = [module.PLACE for module in modules]
  assert places == sorted({*places})
  assert all(module.TITLE and callable(module.render) for module in modules)


def test_a_task_of_ones_own_is_listed_with_its_results(tmp_path):
  finish(tmp_path / "count_leaves", {"results.json": {"leaves": 3}})
  html, results = write(tmp_path)
  (row,) = Page(html).table("Tasks")[1:]
  assert row[:2] == ["count_leaves", "complete"]
  assert results["count_leaves"] == {"leaves": 3}


# --- writing it again -------------------------------------------------------


def test_a_second_run_changes_nothing(tmp_path):
  make_workdir(tmp_path, ["prompts"])
  write(tmp_path)
  stat = lambda: (tmp_path / "report" / "report.html").stat().st_mtime_ns
  before = stat()
  write(tmp_path)
  assert stat() == before


def test_a_task_that_was_added_appears(tmp_path):
  make_workdir(tmp_path, ["prompts"])
  write(tmp_path)
  make_workdir(tmp_path, ["tune"])
  html, results = write(tmp_path)
  assert results["tasks"]["tune"]["state"] == "complete"
  assert Page(html).table("Accuracy on test")


def test_another_title_is_refused(tmp_path):
  write(tmp_path)
  config = make_config()
  config.report.title = "Another"
  with pytest.raises(specifications.SpecMismatch, match="title"):
    write(tmp_path, config)


def test_a_config_without_the_block_will_do(tmp_path):
  config = make_config()
  del config.report
  html, _ = write(tmp_path, config)
  assert Page(html).of("h1")


@pytest.mark.parametrize("samples", [-1, 2.5, True])
def test_a_bad_number_of_samples_is_refused(tmp_path, samples):
  config = ml_collections.ConfigDict({"report": {"samples_per_class": samples}})
  with pytest.raises(UserError, match="samples_per_class"):
    report.check(config, str(tmp_path))


def test_a_misspelt_field_is_refused(tmp_path):
  config = make_config(sample_per_class=3)
  with pytest.raises(UserError, match="did you mean 'samples_per_class'"):
    report.check(config, str(tmp_path))
