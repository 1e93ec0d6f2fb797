"""Classes that are drawn badly, from few images: hand-made cases."""

import numpy as np
import pytest

from synthjax.evals import weak_classes
from synthjax.runtime.errors import UserError

NAMES = ("crane", "stork", "heron", "gull")


def drawn(hits: dict[int, tuple[int, int]], taken_for: int = 1, k: int = 4):
  """Returns labels [n] and probabilities [n, k]: label -> hits of count."""
  labels, rows = [], []
  for label, (good, count) in hits.items():
    for i in range(count):
      labels.append(label)
      shown = label if i < good else (label + taken_for) % k
      rows.append(np.full(k, 0.1 / (k - 1)))
      rows[-1][shown] = 0.9
  return np.array(labels), np.stack(rows)


def weak(hits, **settings):
  labels, probs = drawn(hits, **settings)
  return weak_classes.weak_classes(labels, probs, NAMES)


def test_a_class_that_is_never_recognised_is_reported_with_its_confusion():
  (found,) = weak({0: (0, 25), 1: (22, 25), 2: (25, 25), 3: (24, 25)})
  assert (found.label, found.name, found.count) == (0, "crane", 25)
  assert found.score == 0 and found.others == pytest.approx(71 / 75)
  # Wilson's upper end with no hit is z^2 / (n + z^2), z = 2.2414 at 0.05 / 4.
  z = 2.241403
  assert found.upper == pytest.approx(z**2 / (25 + z**2), abs=1e-6)
  assert "25 of them are taken for 'stork'" in found.advice
  text = weak_classes.message([found])
  assert "crane: 0% of 25 images (others 95%)" in text and "1 class is" in text


def test_few_images_prove_nothing():
  assert not weak({0: (0, 4), 1: (4, 4), 2: (4, 4), 3: (4, 4)})
  # z^2 / (5 + z^2) is just above a half.
  assert not weak({0: (0, 5), 1: (5, 5), 2: (5, 5), 3: (5, 5)})
  assert weak({0: (0, 6), 1: (6, 6), 2: (6, 6), 3: (6, 6)})


def test_a_class_somewhat_below_the_others_is_not_reported():
  assert not weak({0: (60, 100), 1: (95, 100), 2: (95, 100), 3: (95, 100)})


def test_an_encoder_that_knows_no_class_is_at_chance_everywhere():
  found = weak(dict.fromkeys(range(4), (2, 100)))
  assert [each.label for each in found] == [0, 1, 2, 3]
  assert "4 classes are" in weak_classes.message(found)


def test_the_worst_comes_first():
  found = weak({0: (5, 60), 1: (1, 60), 2: (60, 60), 3: (60, 60)})
  assert [each.name for each in found] == ["stork", "crane"]


def test_images_taken_for_many_things_ask_for_more_words():
  labels, probs = drawn({0: (0, 30), 1: (30, 30), 2: (30, 30), 3: (30, 30)})
  probs[:10] = probs[:10][:, [0, 2, 1, 3]]
  probs[10:20] = probs[10:20][:, [0, 3, 2, 1]]
  (found,) = weak_classes.weak_classes(labels, probs, NAMES)
  assert "many things" in found.advice


def test_two_classes_near_chance_are_not_both_reported():
  labels, probs = drawn({0: (30, 30), 1: (28, 30)}, k=2)
  assert not weak_classes.weak_classes(labels, probs, ("cat", "dog"))
  labels, probs = drawn({0: (3, 30), 1: (29, 30)}, k=2)
  (found,) = weak_classes.weak_classes(labels, probs, ("cat", "dog"))
  assert found.name == "cat"


def test_classes_drawn_equally_well_are_seldom_reported():
  """At 95 %, at most one run in twenty tells of a class that is like others."""
  rng, told = np.random.default_rng(1), 0
  labels = np.repeat(np.arange(4), 10)
  for _ in range(200):
    probs = np.full((40, 4), 0.1)
    shown = np.where(rng.random(40) < 0.6, labels, (labels + 1) % 4)
    probs[np.arange(40), shown] = 0.7
    told += bool(weak_classes.weak_classes(labels, probs, NAMES))
  assert told <= 10


def test_classes_without_images_yet_are_left_out():
  labels, probs = drawn({0: (0, 20), 2: (20, 20)})
  (found,) = weak_classes.weak_classes(labels, probs, NAMES)
  assert found.name == "crane" and found.others == 1
  assert not weak_classes.weak_classes(
    labels[:20], probs[:20], NAMES
  )  # no others
  assert not weak_classes.weak_classes(labels[:0], probs[:0], NAMES)


@pytest.mark.parametrize(
  ("labels", "probs", "words"),
  [
    ([0, 1], np.ones((2, 3)), "do not fit"),
    ([0], np.ones((2, 4)), "do not fit"),
    ([0, 1], np.ones(2), "do not fit"),
    ([0, 4], np.ones((2, 4)), "Labels lie from 0 to 4"),
    ([-1, 0], np.ones((2, 4)), "Labels lie from -1"),
    ([0], [[0.5, np.nan, 0, 0]], "0 to 1"),
    ([0], [[0.5, 1.5, 0, 0]], "0 to 1"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(labels, probs, words):
  with pytest.raises(UserError, match=words):
    weak_classes.weak_classes(np.array(labels), np.array(probs), NAMES)


def test_no_weak_class_is_no_message():
  assert weak_classes.message([]) == ""


def test_a_verdict_lists_weak_classes_or_says_that_none_stands_out():
  labels, probs = drawn({0: (0, 25), 1: (25, 25), 2: (25, 25), 3: (25, 25)})
  found = weak_classes.weak_classes(labels, probs, NAMES)
  assert weak_classes.verdict(labels, probs, NAMES) == weak_classes.message(
    found
  )
  labels, probs = drawn({0: (5, 5), 1: (4, 5), 2: (4, 5), 3: (5, 5)})
  text = weak_classes.verdict(labels, probs, NAMES)
  assert "90% of the first 20 images" in text and "by chance, 25%" in text
  assert "no class stands out" in text


def test_a_generator_that_draws_no_class_is_reported():
  """None of them is worse than the others, so that none alone is told."""
  labels, probs = drawn(dict.fromkeys(range(4), (1, 6)))
  assert not weak_classes.weak_classes(labels, probs, NAMES)
  assert "draws none of these classes" in weak_classes.verdict(
    labels, probs, NAMES
  )
