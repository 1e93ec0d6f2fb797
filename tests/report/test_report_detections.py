"""Detectors on the page: their numbers, classes, drawings and the paper's."""

import base64
import io
import json
import re

import numpy as np
import pytest
from made_up_run import make_config, write
from PIL import Image
from report.test_report_few_shot import TO
from report_page import Page

from synthjax.evals import accuracy
from synthjax.report import paper
from synthjax.report.paper_comparison import NAMES
from synthjax.report.sections import detection_drawings
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError

SYN, MOCO = "IN-1K Syn, 1.2M", "MoCo IN-1K Syn, 1.2M"
STARTS = {"random": 0.50, SYN: 0.60, MOCO: 0.65}  # AP50 of the first seed
CLASSES = ["cat", "dog", "<b>sofa</b>"]  # the last has no objects
SEEDS = (0, 1, 2)
SIZE = (75, 100)  # height and width
CAT, DOG = [10, 10, 40, 50], [50, 20, 90, 60]
TRUTH = [
  {"box": CAT, "label": "cat", "difficult": False},
  {"box": DOG, "label": "dog", "difficult": True},
]
FOUND = [
  {"box": CAT, "label": "cat", "score": 0.7},
  {"box": [11, 10, 41, 50], "label": "cat", "score": 0.95},
  {"box": DOG, "label": "dog", "score": 0.6},
  {"box": DOG, "label": "cat", "score": 0.2},
]


def rows():
  return [
    {
      "init": init,
      "seed": seed,
      "AP50": start + 0.01 * seed,
      "AP": start / 2,
      "AP75": start / 2 + 0.02 * seed,
      "per_class": {"cat": start, "dog": start + 0.03 * seed, CLASSES[2]: None},
    }
    for init, start in STARTS.items()
    for seed in SEEDS
  ]


def results(**changes):
  of = lambda init: [r["AP50"] for r in rows() if r["init"] == init]
  return {
    "space": "voc",
    "classes": CLASSES,
    "rows": rows(),
    "summary": [
      {"init": i, "metric": "AP50", "values": of(i)}
      | accuracy.summarize(of(i))._asdict()
      for i in STARTS
    ],
    "differences": [
      {"init": i, "reference": "random", "metric": "AP50"}
      | accuracy.paired_difference(of(i), of("random"))._asdict()
      for i in (SYN, MOCO)
    ],
  } | changes


def scene(seed=0, size=SIZE):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def png(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return file.getvalue()


def make_detect(
  folder, examples=2, found=FOUND, size=SIZE, encode=png, **changes
):
  """Writes what `detect` leaves; all first weights see the same images."""
  files = {"results.json": json.dumps(results(**changes)).encode()}
  for init in STARTS:
    for index in range(examples):
      content = {"size": size, "detections": found, "truth": TRUTH}
      stem = f"examples/{init}-{index}"
      files[f"{stem}.json"] = json.dumps(content).encode()
      files[f"{stem}.png"] = encode(scene(index, size))
  artifacts.begin(folder, {"task": "detect"})
  (folder / "examples").mkdir()
  for name, content in files.items():
    (folder / name).write_bytes(content)
  artifacts.finish(folder, {"task": "detect"}, dict.fromkeys(files, 1))


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
  assert found["detect"]["rows"] == rows()
  assert 'aria-label="AP50 for each of the first weights' in written[0]


def test_differences_are_those_that_the_task_paired(written):
  table = written[1].table("Difference in average precision")
  assert table[1][:5] == [f"{SYN} − random", "AP50", "3", "+10.00", "0.00"]
  assert table[2][3] == "+15.00"


def test_each_class_has_its_precision_and_its_difference(written):
  _, page, found = written
  table = page.table("AP50 of each class")
  assert table[0] == ["class", "random", SYN, MOCO]
  assert table[2] == ["dog", "53.0", "63.0 +10.0", "68.0 +15.0"]
  # Names are never taken for HTML; a class without objects is said.
  assert table[3] == ["<b>sofa</b>", "–", "–", "–"]
  text = "".join(page.text)
  assert "Without objects, and left out of the means: <b>sofa</b>." in text
  by_class = {
    row["class"]: row["ap50"] for row in found["detected"]["per_class"]
  }
  assert by_class["dog"][SYN] == pytest.approx(0.63)


def test_detectors_alone_have_their_numbers_on_top(written):
  """The last first weights of the config: never the best on the test images."""
  html, page, _ = written
  tiles = html[html.index('class="tiles"') : html.index("</header>")]
  assert "66.0" in tiles and f"AP50 of {MOCO}" in tiles
  assert "+15.0" in tiles and "AP50 against random ± standard error" in tiles


def test_one_seed_and_missing_numbers_do_not_break_the_page(tmp_path):
  nan = float("nan")
  few = [
    {"init": "random", "seed": 0, "AP50": 0.5, "per_class": {"cat": nan}},
    {"init": "other", "seed": 0, "AP50": nan, "AP": 0.2},
    {"init": "odd"},
  ]
  _, page, found = one(tmp_path, rows=few, differences=[{"init": "other"}])
  table = page.table("Average precision (%)")
  assert table[1:] == [
    ["random", "1", "50.00 1 seed", "–", "–"],
    ["other", "1", "–", "20.00 1 seed", "–"],
  ]
  assert found["detected"]["differences"] == []


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
  chosen = detection_drawings.choose(tmp_path, states)
  assert sorted({example.index for example in chosen}) == [1, 2, 3, 4]
  states = {"detect": {"state": "missing"}}
  assert detection_drawings.choose(tmp_path, states) == []


def test_boxes_that_are_not_whole_are_left_out(tmp_path):
  found = [{"box": [1, 2, 3], "label": "cat"}, "cat", {"box": CAT}]
  html, page, _ = one(tmp_path, examples=1, found=found)
  assert "0 of 1 objects found, 0 wrong; 1 more below" in "".join(page.text)
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
  (grid,) = paper.read("table11").grids
  assert NAMES["table11"][1].keys() == {
    f"{row}, {column}" for row, column in grid.values
  }
