"""Tests of taking a part of the generated images."""

import collections

import pytest

from synthjax.data.generated import drawn_images
from synthjax.runtime.errors import UserError


def rows(counts=((0, 12), (1, 12), (2, 12)), strategies=("a",), seeds=(0,)):
  """Lists rows as `generate` orders them: strategy, seed, label, prompt."""
  return [
    {"id": f"{strategy}-{label}-{i}-s{seed}-0", "label": label, "prompt": i}
    for strategy in strategies
    for seed in seeds
    for label, count in counts
    for i in range(count)
  ]


def counts_of(source):
  return collections.Counter(row["label"] for row in source)


def test_classes_and_images_are_counted():
  source = rows(strategies=("a", "b"), seeds=(0, 1))
  taken = drawn_images.take(source, num_classes=2, images_per_class=8)
  assert counts_of(taken) == {0: 8, 1: 8}
  # Evenly over strategies and seeds: two of each.
  kinds = collections.Counter(
    (row["id"][0], row["id"].split("-")[3]) for row in taken
  )
  assert set(kinds.values()) == {4} and len(kinds) == 4


def test_images_are_spread_over_prompts_and_nested():
  few, more = (
    drawn_images.take(rows(), num_classes=3, images_per_class=n) for n in (3, 6)
  )
  assert {row["prompt"] for row in few} == {0, 4, 8}
  ids = lambda source: {row["id"] for row in source}
  assert ids(few) < ids(more)


def test_all_images_are_taken_in_their_order_where_no_number_is_given():
  source = rows(counts=((0, 5), (1, 2)))
  assert list(drawn_images.take(source, num_classes=2)) == source


def test_classes_with_too_few_images_are_listed():
  source = rows(counts=((0, 12), (1, 3)))
  with pytest.raises(UserError, match="1 has 3, 2 has 0"):
    drawn_images.take(source, num_classes=3, images_per_class=4)
