"""Detectors on the page: their numbers, classes, drawings and the paper's."""

import base64
import io
import json
import re

import numpy as np
import pytest
from made_up_run import (
  CAT,
  MOCO,
  SIZE,
  STARTS,
  SYN,
  detect_results,
  make_config,
  make_detect,
  png,
  write,
)
from PIL import Image
from report_page import TO, Page

from synthjax.report import paper_comparison
from synthjax.report.checked_files import Run
from synthjax.report.sections import detection
from synthjax.runtime.errors import UserError


def one(tmp_path, **options):
  make_detect(tmp_path / "detect", **options)
  html, found = write(tmp_path)
  return html, Page(html), found


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  return one(tmp_path_factory.mktemp("detectors"))


# --- numbers ----------------------------------------------------------------


def test_precisions_are_means_with_intervals(written):
  _, page, found = written
  table = page.table("Average precision (%)")
  assert table[0] == ["first weights", "seeds", "AP50", "AP", "AP75"]
  # 0.60, 0.61 and 0.62: 61 ± 4.303 * 1 / sqrt(3).
  assert table[2] == [
    SYN,
    "3",
    f"61.00 58.5{TO}63.5",
    f"30.00 30.0{TO}30.0",
    f"32.00 27.0{TO}37.0",
  ]
  assert found["detect"]["rows"] == detect_results()["rows"]
  assert 'aria-label="AP50 for each of the first weights' in written[0]


def test_differences_are_those_that_the_task_paired(written):
  table = written[1].table("Difference in average precision")
  assert table[1][:5] == [f"{SYN} − random", "AP50", "3", "+10.00", "0.00"]
  ap50 = [row for row in table if row[1] == "AP50"]
  assert [row[3] for row in ap50] == ["+10.00", "+15.00"]


def test_each_class_has_its_precision_and_its_difference(written):
  _, page, found = written
  table = page.table("AP50 of each class")
  assert table[0] == ["class", "random", SYN, MOCO]
  assert table[2] == ["dog", "53.0", "63.0 +10.0", "68.0 +15.0"]
  # Names are never taken for HTML; a class without objects is said.
  assert table[3] == ["<b>sofa</b>", "–", "–", "–"]
  text = "".join(page.text)
  assert "Without objects, and left out of the means: <b>sofa</b>." in text
  by_class = detection.per_class(found["detect"], SYN)
  assert by_class == pytest.approx(
    {"cat": 0.60, "dog": 0.63, "<b>sofa</b>": None}
  )


def test_detectors_alone_have_their_numbers_on_top(written):
  """The last first weights of the config: never the best on the test images."""
  html, page, _ = written
  tiles = html[html.index('class="tiles"') : html.index("</header>")]
  assert "66.0" in tiles and f"AP50 of {MOCO}" in tiles
  assert "+15.0" in tiles and "AP50 against random ± standard error" in tiles


def test_one_seed_and_missing_numbers_do_not_break_the_page(tmp_path):
  found = detect_results(seeds=(0,))
  for entry in (found["rows"][0], found["summary"][0]):
    entry |= dict.fromkeys(("AP50", "mean"), float("nan"))
  found["rows"][1]["per_class"]["cat"] = float("nan")
  _, page, _ = one(tmp_path, **found)
  table = page.table("Average precision (%)")
  assert table[1:3] == [
    ["random", "1", "– 1 seed", "25.00 1 seed", "25.00 1 seed"],
    [SYN, "1", "60.00 1 seed", "30.00 1 seed", "30.00 1 seed"],
  ]
  assert page.table("AP50 of each class")[1] == [
    "cat",
    "50.0",
    "–",
    "65.0 +15.0",
  ]


def test_without_detectors_there_is_no_section(tmp_path):
  html, _ = write(tmp_path)
  assert 'id="detection"' not in html and 'id="zoom"' not in html


# --- drawings ---------------------------------------------------------------


def drawings(html):
  return re.findall(r'<svg class="boxes.*?</svg>', html, re.S)


def test_the_same_images_stand_side_by_side(written):
  html, page, _ = written
  shown = drawings(html)
  assert len(shown) == len(page.of("button", "zoom")) == 2 * len(STARTS)
  assert [svg.split('aria-label="')[1].split(" found")[0] for svg in shown] == [
    *STARTS,
    *STARTS,
  ]
  # Each image is in the page once; the others link to it.
  images, links = page.of("image"), page.of("use")
  assert len(images) == 2 and len(links) == 4
  assert {link["href"][1:] for link in links} == {i["id"] for i in images}
  mime, code = images[0]["href"].removeprefix("data:").split(";base64,")
  assert mime == "image/jpeg"
  shown = Image.open(io.BytesIO(base64.b64decode(code)))
  assert shown.size == SIZE[::-1]


def test_boxes_are_where_they_are_and_say_if_they_are_right(written):
  html, page, _ = written
  (svg, *_) = drawings(html)
  # Three of four: one is not sure enough. The surest is drawn last.
  assert re.findall(r"<title>(.*?)</title>", svg) == [
    "dog 0.60 (ignored)",
    "cat 0.70 (wrong)",
    "cat 0.95 (right)",
  ]
  assert re.findall(r'class="(c\d) line"', svg) == ["c2", "c1", "c0"]
  assert [*re.findall(r">([✓✗○] .*?)</text>", svg)] == [
    "✓ cat 0.95",
    "✗ cat 0.70",
    "○ dog 0.60",
  ]
  # 360 units are 100 px.
  (cat, dog) = re.findall(r'class="truth" d="(.*?)"', svg)
  assert cat == "M36.0 36.0H144.0V180.0H36.0Z"
  assert dog == "M180.0 72.0H324.0V216.0H180.0Z"
  assert 'viewBox="0 0 360.0 270.0"' in svg
  assert "dog, difficult</text>" in svg
  label = svg.split('aria-label="')[1].split('"')[0]
  assert label.endswith("Objects: cat, dog (difficult).")
  caption = "random: 1 of 1 objects found, 1 wrong; 1 more below 0.3"
  assert caption in "".join(page.text)
  table = page.table("Detections: left")
  assert table[1] == ["0", "random", "cat", "0.950", "right", "11, 10, 41, 50"]


def test_names_beside_boxes_do_not_cover_one_another(tmp_path):
  """Four boxes in the same place, and one that leaves the image."""
  box = {"box": CAT, "label": "cat", "score": 0.5}
  out = {"box": [80, -5, 130, 90], "label": "cat", "score": 0.5}
  html, _, _ = one(tmp_path, examples=1, found=[box] * 4 + [out])
  tags = re.findall(
    r'fill" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawings(html)[0]
  )
  places = np.array(tags, float)
  assert len(places) == 5
  assert len({x for x, *_ in tags[:4]}) == 1
  heights = np.sort(places[:4, 1])
  assert (np.diff(heights) >= 15).all()
  assert (places >= 0).all() and places[4, 0] + places[4, 2] <= 360


def test_small_images_stay_squares_and_large_ones_are_shrunk(tmp_path):
  make_detect(tmp_path / "small" / "detect", examples=1, size=(32, 32))
  html, _ = write(tmp_path / "small")
  assert 'class="boxes pixels"' in html and "data:image/png" in html
  make_detect(tmp_path / "large" / "detect", examples=1, size=(600, 800))
  page = Page(write(tmp_path / "large")[0])
  (image,) = page.of("image")
  code = image["href"].split(",")[1]
  size = Image.open(io.BytesIO(base64.b64decode(code))).size
  assert size == (480, 360)
  assert (image["width"], image["height"]) == ("800", "600")


def test_the_images_that_most_have_are_chosen(tmp_path):
  folder = tmp_path / "detect"
  make_detect(folder, examples=6)
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["files"].pop("examples/random-0.json")
  states = {"detect": {"state": "complete", "files": manifest["files"]}}
  chosen = detection.pictures(Run(tmp_path, states), 8)["examples"]
  assert sorted({example.index for example in chosen}) == [1, 2, 3, 4]
  states = {"detect": {"state": "missing"}}
  assert not detection.pictures(Run(tmp_path, states), 8)["examples"]


def test_a_detector_may_find_nothing(tmp_path):
  html, page, _ = one(tmp_path, examples=1, found=[])
  assert "0 of 1 objects found, 0 wrong" in "".join(page.text)
  assert "found nothing" in drawings(html)[0]


@pytest.mark.faults
@pytest.mark.parametrize(
  "name", ["results.json", "examples/random-0.json", "examples/random-1.png"]
)
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_file_is_named(tmp_path, name, how):
  make_detect(tmp_path / "detect")
  path = tmp_path / "detect" / name
  if how == "cut":
    path.write_bytes(path.read_bytes()[:-9])
  else:
    path.unlink()
  with pytest.raises(UserError, match=re.escape(str(path))):
    write(tmp_path)


@pytest.mark.faults
def test_an_image_that_is_none_is_named(tmp_path):
  make_detect(tmp_path / "detect", encode=lambda image: png(image)[:200])
  words = r"1.2M-0\.png cannot be used .* no whole image.* task 'detect' again"
  with pytest.raises(UserError, match=words):
    write(tmp_path)


# --- beside the paper's -----------------------------------------------------


def beside(tmp_path, **changes):
  make_detect(tmp_path / "detect", examples=0, **changes)
  config = make_config(paper=("table10", "table11"))
  html, found = write(tmp_path, config)
  cells = {
    of["key"]: {(c["row"], c["column"]): c for c in of["cells"]}
    for of in found["paper"]
  }
  return Page(html), found["paper"], cells


def test_they_stand_beside_the_papers_each_in_its_table(tmp_path):
  page, found, cells = beside(tmp_path)
  assert [of["remark"] for of in found] == ["", ""]
  arms = {
    key: {at: c["arm"] for at, c in of.items() if c["arm"]}
    for key, of in cells.items()
  }
  assert arms == {
    "table10": {("random", "0"): "random", ("IN-1K Syn", "1.2M"): SYN},
    "table11": {("random", "0"): "random", ("IN-1K Syn", "1.2M"): MOCO},
  }
  cell = cells["table10"]["IN-1K Syn", "1.2M"]
  assert cell["ours"]["mean"] == pytest.approx(0.61)
  # Without pre-training there is a number for 0 images alone.
  assert cell["difference"]["mean"] == pytest.approx(0.10)
  assert cell["paper_difference"]["PASCAL VOC"] == pytest.approx(0.1292)
  (row,) = [r for r in page.table("Table 10") if r[1] == f"ours, voc ({SYN})"]
  assert row[3] == f"61.00 58.5{TO}63.5 +10.00 (+10.0{TO}+10.0)"


def test_other_images_than_voc_are_marked(tmp_path):
  _, found, _ = beside(tmp_path, space="scenes")
  for of in found:
    assert of["ours"] == "scenes" and of["remark"].startswith("other data")


def test_the_names_of_table_11_are_all_of_its_rows():
  table = paper_comparison.read("table11")
  (grid,) = table.grids
  assert table.arms.keys() == {
    f"{row}, {column}" for row, column in grid.values
  }
