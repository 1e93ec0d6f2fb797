"""Power laws of accuracy over images: known laws, intervals, stopping."""

import numpy as np
import pytest
from scipy import optimize

from synthjax.evals import scaling
from synthjax.evals.scaling import PowerLaw, Scaling

SIZES = (5, 10, 20, 40, 80)


@pytest.mark.parametrize(
  "law", [(0.8, 0.9, 0.5), (0.4, 0.3, 0.1), (1.0, 2.0, 0.9), (0.6, 5.0, 2.0)]
)
def test_a_known_law_is_found(law):
  found = scaling.fit(SIZES, PowerLaw(*law)(SIZES))
  np.testing.assert_allclose(found, law, rtol=0.02)
  np.testing.assert_allclose(found(1000), PowerLaw(*law)(1000), atol=1e-3)


def test_no_other_law_is_nearer():
  """Than the best of another solver, for noisy accuracies."""
  draws = np.random.default_rng(0)
  y = PowerLaw(0.7, 0.8, 0.6)(SIZES) + 0.01 * draws.normal(size=5)
  error = lambda law: np.square(PowerLaw(*law)(SIZES) - y).sum()
  other, _ = optimize.curve_fit(
    lambda n, *law: PowerLaw(*law)(n), SIZES, y, p0=(0.5, 0.5, 0.5)
  )
  assert error(scaling.fit(SIZES, y)) < error(other) * (1 + 1e-3)


def test_each_row_has_a_law_of_its_own():
  laws = PowerLaw(*np.array([[0.8, 0.6], [0.9, 0.4], [0.5, 0.7]]))
  curves = np.stack([PowerLaw(*np.transpose(laws)[i])(SIZES) for i in (0, 1)])
  np.testing.assert_allclose(scaling.fit(SIZES, curves), laws, rtol=0.02)


def test_an_accuracy_neither_falls_nor_exceeds_1():
  falling = scaling.fit(SIZES, [0.5, 0.5, 0.4, 0.4, 0.4])
  assert falling.b == 0 and falling(1e6) == pytest.approx(0.44)
  steep = scaling.fit(SIZES, [0.1, 0.3, 0.5, 0.7, 0.9])  # log-linear
  assert steep.a <= 1 and steep(1e9) <= 1 and steep.b > 0


def test_seeds_that_differ_by_a_constant_agree_on_the_gain():
  law = PowerLaw(0.7, 0.9, 0.5)
  seeds = law(SIZES) + np.array([[-0.02], [0.0], [0.02]])
  found = scaling.forecast(SIZES, seeds, 160)
  want = law(160) - law(80)
  np.testing.assert_allclose(
    [found.gain, found.low, found.high], want, rtol=0.01
  )
  np.testing.assert_allclose(found.accuracy, law(160), rtol=1e-3)


def test_the_interval_has_the_gains_of_seeds_that_disagree():
  laws = PowerLaw(0.7, 0.9, 0.5), PowerLaw(0.5, 2.0, 1.0)
  found = scaling.forecast(SIZES, np.stack([law(SIZES) for law in laws]), 160)
  gains = sorted(law(160) - law(80) for law in laws)
  # Of two seeds, a quarter of the draws are twice the one, or twice the other.
  np.testing.assert_allclose([found.low, found.high], gains, rtol=0.02)
  assert found.low < found.gain < found.high


@pytest.mark.parametrize("sizes", [(5, 10), (5, 10, 10)])
def test_fewer_than_three_sizes_are_refused(sizes):
  with pytest.raises(ValueError, match="needs 3 different numbers"):
    scaling.forecast(sizes, np.ones((2, len(sizes))), 20)


def test_one_seed_has_no_interval():
  with pytest.raises(ValueError, match="found 1 seed"):
    scaling.forecast(SIZES, np.ones((1, 5)), 160)


@pytest.mark.parametrize(
  ("gains", "verdict"),
  [
    ((0.001, 0.009), "stop"),
    ((0.01, 0.03), "go on"),
    ((-0.01, 0.03), "unsure"),
  ],
)
def test_more_are_drawn_where_the_whole_interval_is_worth_it(gains, verdict):
  found = scaling.Forecast(PowerLaw(1, 1, 1), 160, 0.5, 0.01, *gains)
  assert scaling.verdict(found, 0.01) == verdict


def test_a_run_has_a_line_for_each_curve():
  law = PowerLaw(0.7, 0.9, 0.5)
  sizes = {f"{n} a class": n for n in SIZES}
  rows = [
    {"arm": arm, "seed": s, "accuracy": {"validation": law(n) + s / 100}}
    for arm, n in sizes.items()
    for s in (0, 1)
  ]
  [curve] = scaling.curves(
    rows, {"LE": sizes}, Scaling(up_to=160), split="validation"
  )
  assert curve["sizes"] == [*SIZES] and curve["verdict"] == "go on"
  np.testing.assert_allclose(curve["mean"], law(SIZES) + 0.005)
  assert scaling.describe(curve, 0.01) == (
    "LE: 160 images a class would have 63.4%, +2.9 points over 80 (+2.9 to "
    "+2.9); worth it from 1.0: go on"
  )
