"""The page shows methods over shots, and what tuning the encoder was worth."""

import re

import numpy as np
import pytest
from made_up_run import (
  SPECIES,
  TUNED,
  few_shot_results,
  make_config,
  make_encoder,
  make_few_shot,
  write,
)
from report_page import TO, Page

from synthjax.evals import arms
from synthjax.report import interval_charts, paper_comparison
from synthjax.report.interval_charts import Curve, Point
from synthjax.report.sections import paper


def test_methods_are_set_over_shots_with_intervals(tmp_path):
  make_few_shot(tmp_path / "few_shot")
  html, results = write(tmp_path)
  rows = Page(html).table("Accuracy on test by shots")
  assert rows[0] == ["method", "1 shot", "4 shots", "16 shots"]
  assert rows[1] == ["zero-shot", "42.00", "42.00", "42.00"]
  # std 0.01 of three seeds: ± 4.303 * 1 / sqrt(3) = ± 2.48 points.
  assert rows[2][:2] == ["CT w. Syn (RG)", f"50.00 47.5{TO}52.5"]
  assert rows[3][1:] == [
    f"40.00 37.5{TO}42.5",
    f"56.00 53.5{TO}58.5",
    f"72.00 69.5{TO}74.5",
  ]
  (entry,) = results["few_shot_accuracy"]
  point = entry["methods"][1]["points"][2]
  assert (point["shots"], point["n"]) == (16, 3)
  half = 4.302653 * 0.01 / 3**0.5
  np.testing.assert_allclose(
    [point["low"], point["high"]], [0.72 - half, 0.72 + half], rtol=1e-6
  )
  assert results["few_shot"]["space"] == "tiny"
  assert "confusion" not in results["few_shot"]


def test_a_method_has_one_colour_on_all_of_a_page(tmp_path):
  make_few_shot(tmp_path / "few_shot")
  _, results = write(tmp_path)
  colours = interval_charts.method_colours(results, ["CoOp", "CT w. init"])
  assert colours == {"CT w. Syn (RG)": 0, "CT w. init": 1, "CoOp": 2}
  # The paper calls our first method "CT w. Syn".
  compared = paper_comparison.compare(
    "figure1", results, space="tiny", encoder=None
  )
  charts = paper._charts(compared, results)
  for name, colour in (("CT w. Syn", "c0"), ("CT w. init", "c1")):
    drawn = re.findall(rf'class="(c\d) [^"]*" d="[^"]*"><title>{name}<', charts)
    assert drawn and {*drawn} == {colour}, name


def test_the_best_of_each_column_is_marked(tmp_path):
  make_few_shot(tmp_path / "few_shot")
  html, _ = write(tmp_path)
  table = re.search(
    r"<caption>Accuracy on test by shots.*?</table>", html, re.S
  )
  marked = re.findall(r"<strong>([\d.]+)</strong>", table[0])
  assert marked == ["50.00", "60.00", "72.00"]


def test_zero_shot_is_marked_where_nothing_is_better(tmp_path):
  make_few_shot(tmp_path / "few_shot", ["CT w. init"], (1, 4))
  html, _ = write(tmp_path)
  table = re.search(
    r"<caption>Accuracy on test by shots.*?</table>", html, re.S
  )
  assert re.findall(r"<strong>([\d.]+)</strong>", table[0]) == [
    "42.00",
    "56.00",
  ]


def test_a_run_of_few_shot_alone_has_tiles_and_confusions(tmp_path):
  make_few_shot(tmp_path / "few_shot")
  html, results = write(tmp_path)
  text = " ".join(Page(html).text)
  words = "CT w. Syn (RG), 16 shots, the first method of the config"
  assert words in text
  assert [entry["arm"] for entry in results["confusion"]] == [
    "zero_shot",
    "CT w. init (16 shots)",
  ]
  assert [entry["name"] for entry in results["classes"]] == SPECIES


def test_one_seed_has_no_interval_and_what_was_not_run_says_so(tmp_path):
  found = few_shot_results()
  rows = [
    row
    for row in found["rows"]
    if row["seed"] == 0 and (row["method"], row["shots"]) != ("CT w. init", 4)
  ]
  make_few_shot(
    tmp_path / "few_shot",
    rows=rows,
    summary=arms.summarize(rows, found["zero_shot"]),
  )
  html, _ = write(tmp_path)
  rows = Page(html).table("Accuracy on test by shots")
  assert rows[2][1] == "49.00 1 seed"
  assert rows[3][2] == "not run"


@pytest.mark.parametrize(
  "changes",
  [
    {"rows": [], "summary": []},
    {"zero_shot": {"test": float("nan")}},
    {"zero_shot": {}, "rows": [], "summary": [], "confusion": {}},
    {"space": None, "classes": None, "confusion": None},
  ],
)
def test_results_with_holes_do_not_break_the_page(tmp_path, changes):
  make_few_shot(tmp_path / "few_shot", **changes)
  config = make_config(paper=("figure1", "table5", "table7"))
  html, _ = write(tmp_path, config)
  assert "nan" not in "".join(Page(html).text).lower().split()


def test_arms_of_the_encoder_have_their_share(tmp_path):
  make_encoder(tmp_path / "tune_encoder")
  html, results = write(tmp_path)
  rows = Page(html).table("Accuracy on test by the share")
  assert rows[1][:4] == ["zero-shot", "0", "", "42.00"]
  assert rows[3] == [
    "to attnpool",
    "38.6",
    "frozen",
    "54.00",
    f"51.5{TO}56.5",
    "1.00",
    "+12.00",
    "3",
  ]
  assert rows[4][1:3] == ["100", "frozen"]
  (entry,) = results["encoder_accuracy"]
  assert [arm["share_tuned"] for arm in entry["arms"]][:3] == [
    0.00027,
    0.386,
    1,
  ]
  assert 'aria-label="Accuracy over the share of tuned parameters"' in html


def test_two_shares_make_no_chart(tmp_path):
  make_encoder(tmp_path / "tune_encoder", TUNED[:2])
  html, _ = write(tmp_path)
  assert "over the share of tuned" not in html


def chart(curves, **options):
  options = {
    "x_ticks": (1, 2, 4, 8, 16),
    "place": interval_charts.log2,
  } | options
  return interval_charts.curves(
    curves, xlabel="shots", ylabel="accuracy (%)", label="test", **options
  )


def test_shots_that_double_stand_at_equal_steps():
  points = [Point(x, 50.0 + x, 49.0 + x, 51.0 + x) for x in (1, 2, 4, 8, 16)]
  svg = chart([Curve("a", points, 0)], reference=40.0)
  centres = [float(x) for x in re.findall(r'fill" cx="([\d.]+)"', svg)]
  np.testing.assert_allclose(np.diff(centres), np.diff(centres)[0], atol=0.2)
  assert svg.count(' bar"') == 5 and svg.count('class="reference"') == 1


def test_an_interval_ends_where_no_accuracy_lies():
  svg = chart([Curve("a", [Point(1, 90.0, 30.0, 150.0)], 0)], x_ticks=(1,))
  (top,) = re.findall(r' bar" d="M[\d.]+ [\d.]+V([\d.]+)"', svg)
  assert float(top) == 12  # px: the upper edge, 100 %
  assert ">100</text>" in svg and "120" not in svg


def test_curves_stand_side_by_side_when_asked():
  both = [
    Curve(name, [Point(1, 50.0), Point(2, 60.0)], i)
    for i, name in enumerate("ab")
  ]
  centres = lambda svg: [float(x) for x in re.findall(r' cx="([\d.]+)"', svg)]
  together = centres(chart(both, x_ticks=(1, 2)))
  apart = centres(chart(both, x_ticks=(1, 2), apart=10))
  assert together[:2] == together[2:]
  np.testing.assert_allclose(np.subtract(apart[2:], apart[:2]), 10, atol=0.11)
  assert not chart([Curve("a", [], 0)])
