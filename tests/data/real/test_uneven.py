"""What uneven classes lack, and what stops a run before it draws."""

import collections

import numpy as np
import pytest
from PIL import Image

from synthjax.data.real.uneven import TopUp
from synthjax.embedded import world
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError


def amounts(folder, counts, per_class=None, share=0.4, names=None):
  """Returns the amounts for a folder with so many photographs of each class."""
  image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
  for name, count in counts.items():
    (folder / name).mkdir()
    for i in range(count):
      image.save(folder / name / f"{i}.png")
  space = spaces.load_space(names or [*counts])
  pool = dict(kind="folder", path=str(folder))
  return TopUp(pool=pool, share=share).amounts(space, per_class)


def test_each_class_is_drawn_up_to_the_largest(tmp_path):
  # 0, 6 and 4 lack, of which two fifths are to be kept.
  assert amounts(tmp_path, {"cat": 7, "dog": 1, "cow": 3}) == [0, 15, 10]


def test_each_class_is_drawn_up_to_a_number(tmp_path):
  assert amounts(tmp_path, {"cat": 4, "dog": 1}, 3, share=0.75) == [0, 3]


@pytest.mark.parametrize(
  ("counts", "more", "words"),
  [
    ({"cat": 2, "dog": 2}, {}, "each class of .* has 2 images. Ask for more"),
    ({"cat": 3, "dog": 2}, {"per_class": 2}, "has 2 images or more. Ask"),
    ({"cat": 2}, {"names": ["cat", "dog"]}, "has no image of dog. Take"),
    ({"cat": 2, "dgo": 1}, {"names": ["cat", "dog"]}, "nearest is 'dog'"),
    ({"cat": 2, "dog": 0}, {}, "dog: holds no image"),
  ],
)
def test_what_cannot_be_topped_up_is_said(tmp_path, counts, more, words):
  with pytest.raises(UserError, match=words):
    amounts(tmp_path, counts, **more)


def test_every_second_class_of_the_embedded_set_can_be_rare():
  space = spaces.load_space("emoji16")
  full = world.open_split("real_pool", space=space)
  rare = world.open_split("real_pool", 8, space=space)
  counts, before = (collections.Counter(x.labels) for x in (rare, full))
  assert all(counts[i] == (8 if i % 2 else before[i]) for i in range(16))
  kept = dict(zip(full.rows, full.labels, strict=True))
  assert all(
    kept[row] == label
    for row, label in zip(rare.rows, rare.labels, strict=True)
  )
  # By chance, and not the first drawings alone, which are of one style.
  assert len({style for style, *_ in rare.rows}) == 5
