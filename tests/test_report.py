"""The page shows what the artifacts hold, whole or not, and nothing else."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import ml_collections
import numpy as np
import pytest
from PIL import Image

from synthjax import artifacts
from synthjax.data import dataset_info, shards
from synthjax.errors import UserError
from synthjax.report import axes, measured, plots, tables
from synthjax.tasks import report

NAMES = ["land animal", "bird species", "<script>alert('x')</script> & \"co\""]
STRATEGIES = ("basic", "enhanced")
PER_CLASS = 4  # images of each class and strategy
ARMS = ("B CE", "LE+CF SCE")
SEEDS = (0, 1, 2)


def make_config(**fields):
  config = ml_collections.ConfigDict()
  config.tasks, config.seed, config.space = ("report",), 0, "tiny"
  config.report = dict(samples_per_class=2, title="A run", **fields)
  return config


def finish(folder, files):
  """Writes the files of an artifact, name -> bytes, str, rows or an object."""
  artifacts.begin(folder, {"task": folder.name})
  for name, content in files.items():
    if isinstance(content, list):
      content = "".join(json.dumps(row) + "\n" for row in content)
    elif isinstance(content, dict):
      content = json.dumps(content)
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(content)
  rows = {path.name: 1 for path in folder.iterdir() if path.name != "spec.json"}
  artifacts.finish(folder, {"task": folder.name}, rows, seconds=1.5)


def image_rows():
  """Returns the rows of `generate` without images, and p_own of each."""
  rng = np.random.default_rng(0)
  return [
    {
      "id": f"{strategy}-{label}-{i}-s0-0",
      "label": label,
      "strategy": strategy,
      "prompt": f"a drawing of {name}, no. {i}",
      "seed": 7,
      "p_own": float(rng.uniform()),
    }
    for strategy in STRATEGIES
    for label, name in enumerate(NAMES)
    for i in range(PER_CLASS)
  ]


def picture(i, size=32):
  rng = np.random.default_rng(i)
  return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_images(folder, size=32):
  artifacts.begin(folder, {"task": folder.name})
  rows = image_rows()
  examples = ({**row, "image": picture(i, size)} for i, row in enumerate(rows))
  shards.write_shard(folder, 0, 1, examples)
  dataset_info.write_dataset_info(
    folder, [len(rows)], dict(enumerate(NAMES)), description="A test."
  )
  finish(folder, {})


def make_prompts(folder):
  rows = [
    {
      "id": f"{strategy}-{label}-{i}",
      "label": label,
      "class_name": name,
      "text": f"a drawing of {name}, no. {i}",
      "strategy": strategy,
    }
    for strategy in STRATEGIES
    for label, name in enumerate(NAMES)
    for i in range(PER_CLASS)
  ]
  finish(folder, {"prompts.jsonl": rows})


def make_scores(folder):
  rows = image_rows()
  file = io.BytesIO()
  np.savez(
    file,
    ids=np.array([row["id"] for row in rows]),
    p_own=np.array([row["p_own"] for row in rows], np.float32),
  )
  finish(folder, {"scores-00000-of-00001.npz": file.getvalue()})


def make_selection(folder):
  rows = image_rows()
  for row in rows:
    row["kept"] = row["p_own"] > 1 / 3
    row["reason"] = "kept" if row["kept"] else "below 1/N"
  finish(folder, {"selection.jsonl": rows})


def accuracy_of(arm, seed):
  return {"test": 0.5 + 0.1 * ARMS.index(arm) + 0.01 * seed, "validation": 0.6}


def make_tuned(folder, **changes):
  rows = [
    {
      "arm": arm,
      "seed": seed,
      "num_images": 24,
      "accuracy": accuracy_of(arm, seed),
    }
    for arm in ARMS
    for seed in SEEDS
  ]
  summary = [
    {
      "arm": arm,
      "split": split,
      "mean": 0.51 + 0.1 * i if split == "test" else 0.6 + 0.1 * i,
      "std": 0.01,
      "stderr": 0.01 / 3**0.5,
      "n": 3,
      "gain": 0.0876 + 0.1 * i,
      "gain_stderr": 0.0058,
    }
    for i, arm in enumerate(ARMS)
    for split in ("test", "validation")
  ]
  results = {
    "space": "tiny",
    "classes": NAMES,
    "zero_shot": {"validation": 0.45, "test": 0.4224},
    "rows": rows,
    "summary": summary,
    "confusion": {
      "test": {
        "zero_shot": [[5, 3, 2], [4, 6, 0], [1, 8, 1]],
        "LE+CF SCE": [[24, 3, 3], [0, 30, 0], [6, 12, 12]],
      }
    },
  } | changes
  file = io.BytesIO()
  np.savez(
    file,
    **{
      f"{arm}, seed {seed}": 2.0 / np.arange(1, 301) + seed
      for arm in ARMS
      for seed in SEEDS
    },
  )
  finish(folder, {"results.json": results, "curves.npz": file.getvalue()})


def make_pretrained(folder):
  losses = [{"step": 10 * i, "loss": 2.0 / i, "lr": 0.1} for i in range(1, 9)]
  finish(folder, {"backbone-s0_metrics.jsonl": losses})


def make_transfer(folder):
  rows = [
    {"init": init, "shots": 16, "seed": seed, "accuracy": base + 0.01 * seed}
    for init, base in (("random", 0.3), ("pretrained", 0.4567))
    for seed in SEEDS
  ]
  finish(folder, {"results.json": {"rows": rows, "summary": []}})


MAKERS = {
  "prompts": make_prompts,
  "generate": make_images,
  "score": make_scores,
  "select": make_selection,
  "tune": make_tuned,
  "pretrain": make_pretrained,
  "transfer": make_transfer,
}


def make_workdir(path, tasks=MAKERS):
  for task in tasks:
    MAKERS[task](path / task)
  return path


def write(workdir, config=None):
  """Runs the task; returns the text of the page and the results."""
  config = config or make_config()
  report.check(config, str(workdir))
  report.run(config, str(workdir))
  folder = workdir / "report"
  assert set(artifacts.load(folder)["files"]) == {"report.html", "results.json"}
  artifacts.verify(folder)
  results = json.loads((folder / "results.json").read_text())
  return (folder / "report.html").read_text("utf-8"), results


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("workdir"))


@pytest.fixture(scope="module")
def written(workdir):
  return write(workdir)


# --- reading the page -------------------------------------------------------

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
  """Collects tags, texts and tables, and notices tags that do not match."""

  def __init__(self, html):
    super().__init__()
    self.open, self.tags, self.text, self.tables = [], [], [], []
    self.feed(html)
    self.close()
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)
    if tag == "table":
      self.tables.append({"caption": "", "rows": []})
    elif tag == "tr":
      self.tables[-1]["rows"].append([])
    elif tag in ("td", "th"):
      self.tables[-1]["rows"][-1].append("")

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, f"stray </{tag}>"

  def handle_data(self, data):
    if self.open and self.open[-1] not in ("style", "script"):
      self.text.append(data)
    if "td" in self.open or "th" in self.open:
      self.tables[-1]["rows"][-1][-1] += data
    elif "caption" in self.open:
      self.tables[-1]["caption"] += data

  def of(self, tag, kind=None):
    return [
      attrs
      for name, attrs in self.tags
      if name == tag and (not kind or kind in attrs.get("class", "").split())
    ]

  def table(self, caption):
    (found,) = [t for t in self.tables if t["caption"].startswith(caption)]
    return found["rows"]


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
  assert rows[2][4:] == ["0.58", "1.00", "3", "15.1"]
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


def test_transfer_is_paired_by_seed(written):
  html, results = written
  page = Page(html)
  rows = page.table("Accuracy after finetuning")
  assert rows[2][:4] == ["pretrained", "16 per class", "test", "3"]
  assert rows[2][4:] == ["46.67", "1.00", "44.2\u00a0to\u00a049.2"]
  (row,) = page.table("Difference, paired by seed")[1:]
  assert row[:5] == [
    "pretrained − random",
    "16 per class",
    "test",
    "3",
    "+15.7",
  ]
  (paired,) = results["transferred"]["paired"]
  assert paired["mean"] == pytest.approx(0.1567)
  assert paired["stderr"] == pytest.approx(0, abs=1e-9)


def test_pairs_that_a_run_asked_for_are_told_besides_those_to_random():
  accuracy = {"random": (0.1, 0.2), "few": (0.2, 0.4), "many": (0.5, 0.5)}
  found = measured.transfer(
    {
      "rows": [
        {"init": init, "shots": 4, "seed": seed, "accuracy": x}
        for init, values in accuracy.items()
        for seed, x in enumerate(values)
      ],
      "differences": [
        {"init": "few", "reference": "random"},
        {"init": "many", "reference": "few"},
      ],
    }
  )["paired"]
  assert {(r["init"], r["reference"]): r["mean"] for r in found} == {
    ("few", "random"): pytest.approx(0.15),
    ("many", "random"): pytest.approx(0.35),
    ("many", "few"): pytest.approx(0.2),
  }


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


def test_numbers_that_are_missing_do_not_break_the_page(tmp_path):
  nan = float("nan")
  make_tuned(
    tmp_path / "tune",
    zero_shot={"test": nan},
    rows=[{"arm": "B CE", "seed": 0, "accuracy": {"test": nan}}, {"arm": "C"}],
    summary=[{"arm": "B CE", "split": "test", "mean": nan}, {"arm": "C"}],
    confusion={"test": {"zero_shot": [[0, 0, 0], [1, 2, 3], [nan, 0, 1]]}},
  )
  html, results = write(tmp_path)
  assert Page(html).table("Accuracy on test")[1:3] == [
    ["zero-shot", "–", "", "", "", "", "", ""],
    ["B CE", "–", "–", "–", "–", "–", "–", "–"],
  ]
  assert results["tune"]["zero_shot"]["test"] is None


def test_accuracies_are_summarised_where_the_task_has_not(tmp_path):
  make_tuned(tmp_path / "tune", summary=[])
  _, results = write(tmp_path)
  (test,) = [e for e in results["accuracy"] if e["split"] == "test"]
  arm = test["arms"][0]
  assert arm["mean"] == pytest.approx(0.51) and arm["n"] == 3
  assert arm["gain"] == pytest.approx(0.51 - 0.4224)
  assert arm["gain_stderr"] == pytest.approx(0.01 / 3**0.5)


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
  from synthjax.report import pictures

  make_images(tmp_path / "generate")
  monkeypatch.setattr(pictures, "_MAX_BYTES", 20_000)  # five
  html, _ = write(tmp_path)
  shown = [t["data-class"] for t in Page(html).of("button", "thumb")]
  assert len(shown) == 5 and set(shown) == set(NAMES)
  assert "7 more were chosen and left out" in html


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
  with pytest.raises(artifacts.SpecMismatch, match="title"):
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


# --- damage -----------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize(
  "file",
  [
    "prompts/prompts.jsonl",
    "select/selection.jsonl",
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


# --- charts and numbers -----------------------------------------------------


@pytest.mark.parametrize(
  ("low", "high"), [(0, 1), (-3.2, 7.9), (41.0, 41.3), (5, 5), (0, 0), (0, 1e9)]
)
def test_ticks_are_round_and_reach_around_the_values(low, high):
  ticks = axes.nice_ticks(low, high)
  assert ticks[0] <= low <= high <= ticks[-1]
  assert 2 <= len(ticks) <= 7
  steps = np.diff(ticks)
  np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_a_dot_lies_where_its_value_is():
  svg = plots.dots(
    [plots.Dot("a", 20.0, 5.0), plots.Dot("b", 30.0, None)],
    xlabel="accuracy (%)",
    label="test",
    reference=10.0,
  )
  centres = [float(x) for x in re.findall(r'c0 fill" cx="([\d.]+)"', svg)]
  (reference,) = re.findall(r'class="reference" d="M([\d.]+) ', svg)
  # Equal steps of value are equal steps of place.
  assert centres[1] - centres[0] == pytest.approx(
    centres[0] - float(reference), abs=0.2
  )
  assert "accuracy (%)" in svg


def test_charts_of_nothing_are_left_out():
  dot = plots.Dot("a", None, None)
  assert not plots.dots([dot], xlabel="x", label="a", reference=None)
  assert not plots.bars([("a", None)], xlabel="x", label="a")
  assert not plots.lines([("a", [], [])], xlabel="x", ylabel="y", label="a")
  assert not plots.figure("", "caption")


def test_numbers_read_well():
  assert tables.percent(0.12345) == (0.12345, "12.3")
  assert tables.points(-0.05).text == "−5.0"
  assert tables.points(-0.0).text == "+0.0"
  assert tables.count(12345.0).text == "12\u202f345"
  for write_number in (tables.percent, tables.points, tables.count):
    for nothing in (None, float("nan"), float("inf"), "3"):
      assert write_number(nothing) == (None, "–")
