"""Tests of accuracies and their summaries, on cases counted by hand."""

import math

import numpy as np
import pytest

from synthjax.evals import accuracy as classify

LABELS = np.array([0, 0, 0, 1, 1, 3])
PREDICTIONS = np.array([0, 1, 0, 1, 0, 3])


def test_top1_counts_the_largest_logit():
  logits = np.array([[2, 1, 0], [0, 1, 2], [1, 3, 2], [1, 1, 0]])
  assert classify.top1(logits, np.array([0, 2, 2, 0])) == 3 / 4
  assert classify.top1(logits, np.array([0, 2, 2, 1])) == 2 / 4  # a tie


def test_the_confusion_matrix_counts_predictions_of_each_label():
  want = [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
  counts = classify.confusion_matrix(LABELS, PREDICTIONS, 4)
  np.testing.assert_array_equal(counts, want)


def test_a_class_without_rows_has_no_accuracy():
  counts = classify.confusion_matrix(LABELS, PREDICTIONS, 4)
  accuracy = classify.per_class_accuracy(counts)
  np.testing.assert_array_equal(accuracy, [2 / 3, 1 / 2, np.nan, 1])


def test_a_summary_of_three_seeds():
  """The quantile t(2) of 97.5 % is 4.302653 in the tables."""
  got = classify.summarize([0.5, 0.6, 0.7])
  stderr = 0.1 / math.sqrt(3)
  half = 4.302653 * stderr
  want = (3, 0.6, 0.1, stderr, 0.6 - half, 0.6 + half)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  narrow = classify.summarize([0.5, 0.6, 0.7], confidence=0.8)
  assert narrow.high == pytest.approx(0.6 + 1.885618 * stderr)


@pytest.mark.parametrize("n, t", [(2, 12.706), (3, 4.303), (10, 2.262)])
def test_an_interval_has_the_quantiles_of_the_tables(n, t):
  low, high = classify.interval(0.6, 0.01, n)
  np.testing.assert_allclose(
    (low, high), (0.6 - 0.01 * t, 0.6 + 0.01 * t), 1e-4
  )
  with pytest.raises(ValueError, match="n=1"):
    classify.interval(0.6, 0.01, 1)


def test_an_interval_holds_the_mean_as_often_as_it_says():
  rng = np.random.default_rng(0)
  intervals = [classify.summarize(rng.normal(3, 2, 4)) for _ in range(2000)]
  share = np.mean([s.low < 3 < s.high for s in intervals])
  assert abs(share - 0.95) < 0.015


def test_one_seed_has_no_spread():
  assert classify.summarize([0.5]) == (1, 0.5, None, None, None, None)


def test_what_pairs_share_cancels():
  difference = classify.paired_difference([0.9, 0.5, 0.2], [0.8, 0.4, 0.1])
  assert difference.mean == pytest.approx(0.1)
  assert difference.stderr == pytest.approx(0, abs=1e-12)
  # Differences 0.2, 0: mean 0.1, std 0.1414, stderr 0.1.
  difference = classify.paired_difference([0.9, 0.4], [0.7, 0.4])
  assert difference.mean == pytest.approx(0.1)
  assert difference.stderr == pytest.approx(0.1)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: classify.summarize([]), "at least one"),
    (lambda: classify.summarize([0.5, math.nan]), "finite"),
    (lambda: classify.paired_difference([1, 2], [1]), "2 values and 1"),
    (lambda: classify.confusion_matrix([0, 4], [0, 1], 3), r"\[4\].*0 to 2"),
    (lambda: classify.confusion_matrix([0, -1], [0, 1], 3), r"\[-1\]"),
    (lambda: classify.top1(np.zeros((2, 3)), np.zeros(3, int)), "per row"),
  ],
)
def test_wrong_inputs_say_what_is_wrong(call, message):
  with pytest.raises(ValueError, match=message):
    call()
