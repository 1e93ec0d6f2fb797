"""Charts and numbers of the report."""

import re

import numpy as np
import pytest

from synthjax.report import charts, markup


@pytest.mark.parametrize(
  ("low", "high"), [(0, 1), (-3.2, 7.9), (41.0, 41.3), (5, 5), (0, 0), (0, 1e9)]
)
def test_ticks_are_round_and_reach_around_the_values(low, high):
  ticks = charts.nice_ticks(low, high)
  assert ticks[0] <= low <= high <= ticks[-1]
  assert 2 <= len(ticks) <= 7
  steps = np.diff(ticks)
  np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_a_dot_lies_where_its_value_is():
  svg = charts.dots(
    [charts.Dot("a", 20.0, 5.0), charts.Dot("b", 30.0, None)],
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
  dot = charts.Dot("a", None, None)
  assert not charts.dots([dot], xlabel="x", label="a", reference=None)
  assert not charts.bars([("a", None)], xlabel="x", label="a")
  assert not charts.lines([("a", [], [])], xlabel="x", ylabel="y", label="a")
  assert not charts.figure("", "caption")


def test_numbers_read_well():
  assert markup.percent(0.12345) == (0.12345, "12.3")
  assert markup.points(-0.05).text == "−5.0"
  assert markup.points(-0.0).text == "+0.0"
  assert markup.count(12345.0).text == "12\u202f345"
  for write_number in (
    markup.percent,
    markup.points,
    markup.count,
  ):
    for nothing in (None, float("nan"), float("inf"), "3"):
      assert write_number(nothing) == (None, "–")


def test_a_ratio_to_an_error_that_is_only_rounding_is_none():
  """Three equal accuracies have a deviation of about 1e-17."""
  assert markup.ratio(0.25, 1.2e-17) is None
  assert markup.ratio(0.0, 0.0) is None and markup.ratio(None, 1.0) is None
  assert markup.ratio(0.25, 0.1) == 2.5
