"""The filter by real images, counted by hand."""

import numpy as np
import pytest

from synthjax.data.generated import filters, scores
from synthjax.runtime.errors import UserError

NAMES = ("cat", "dog")
SHOTS = np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 1]])  # two of cat, one of dog
SHOT_LABELS = np.array([0, 0, 1])


def features_of(rows, labels):
  n = len(rows)
  return scores.Scores(
    np.array([f"rg2-{label}-0-s0-{i}" for i, label in enumerate(labels)]),
    np.array(labels, np.int32),
    np.array(rows, np.float16),
    np.zeros((n, 2), np.float16),
    np.zeros(n, np.float32),
  )


def by_real(found, max_per_class, **options):
  return filters.select_by_real(
    found,
    SHOTS,
    SHOT_LABELS,
    class_names=NAMES,
    max_per_class=max_per_class,
    seed=0,
    **options,
  )


def test_the_nearest_real_image_decides_and_not_the_mean():
  """The first is at an even angle to both cats, and nearer to one of them."""
  found = features_of(
    [[0, 5, 4], [1, 0, 4], [0, 1, 2], [0, 3, 1]], [0, 0, 1, 1]
  )
  chosen = by_real(found, 1)
  other = filters.OTHER
  assert chosen.reasons.tolist() == ["kept", other, "kept", other]


def test_a_margin_lets_near_misses_pass():
  # Cosines of 0.6 to its own class and of 0.8 to the other.
  found = features_of([[3, 0, 4], [0, 0, 1]], [0, 1])
  assert by_real(found, 1, margin=0.19).reasons[0] == "filled"
  assert by_real(found, 1, margin=0.21).reasons[0] == "kept"


def test_the_least_wrong_fill_up():
  found = features_of(
    [[1, 0, 9], [1, 0, 2], [1, 0, 5], [0, 0, 1]], [0, 0, 0, 1]
  )
  chosen = by_real(found, 2)
  assert chosen.kept.tolist() == [False, True, True, True]


def test_what_lacks_images_is_named_and_counted_by_class_and_seed():
  found = features_of([[1, 0, 0]], [0])
  with pytest.raises(UserError, match=r"no image of 'dog' \(rg2, seed 0\)\. W"):
    by_real(found, 1)
  names = tuple(f"class {i}" for i in range(13))
  found = found._replace(probs=None)
  with pytest.raises(UserError, match=r"'class 10' .* and 2 more\. Were"):
    filters.select(found, class_names=names, max_per_class=1, seed=0)


def test_a_number_or_a_share_must_be_given():
  found = features_of([[1, 0, 0]], [0])
  with pytest.raises(UserError, match="Give max_per_class, or share"):
    filters.select(found, class_names=NAMES, seed=0)


def test_a_class_without_a_real_image_is_named():
  found = features_of([[1, 0, 0], [0, 0, 1]], [0, 1])
  with pytest.raises(UserError, match="1 have none: dog"):
    filters.select_by_real(
      found,
      SHOTS[:2],
      SHOT_LABELS[:2],
      class_names=NAMES,
      max_per_class=1,
      seed=0,
    )
