"""Shapes that hold the images of a batch, and what they waste."""

import numpy as np
import pytest
from detection.test_detection_loader import VOC

from synthjax.detection import loader as detection_batches
from synthjax.detection import resize
from synthjax.runtime.errors import UserError


def test_waste_is_counted_by_hand():
  sizes = [(10, 20), (20, 10), (10, 10), (20, 20)]
  # The third fits both of the first two shapes, of which the first comes first.
  found = detection_batches.padding_waste(sizes, [(10, 20), (20, 10), (20, 30)])
  assert found.shapes == 3
  true, padded = 200 + 200 + 100 + 400, 200 + 200 + 200 + 600
  assert found.share == pytest.approx(1 - true / padded)


def test_a_joined_shape_is_the_one_that_costs_least():
  sizes = [(16, 64)] * 3 + [(16, 48)] + [(64, 16)]
  assert detection_batches.choose_buckets(sizes, 3) == (
    (16, 48),
    (16, 64),
    (64, 16),
  )
  # To join the first two pads one image by 16 x 16.
  assert detection_batches.choose_buckets(sizes, 2) == ((16, 64), (64, 16))
  assert detection_batches.choose_buckets(sizes, 1) == ((64, 64),)
  assert detection_batches.choose_buckets([(3, 17)], 5) == ((16, 32),)


def test_few_shapes_hold_voc_with_little_waste():
  """As measured: 6 shapes pad 17 %, where one shape pads 61 %."""
  sizes = [(375, 500)] * 60 + [(333, 500)] * 18
  sizes += [(500, 375)] * 17 + [(500, 333)] * 5
  every = resize.all_resized(np.array(sizes), VOC, 1333)
  assert len(every) == 1100
  waste = [
    detection_batches.padding_waste(
      every, detection_batches.choose_buckets(every, n)
    )
    for n in (1, 6, 12)
  ]
  assert [each.shapes for each in waste] == [1, 6, 12]
  assert waste[0].share > 0.5 and waste[1].share < 0.2 and waste[2].share < 0.1
  tested = resize.resized(np.array(sizes), 800, 1333)
  found = detection_batches.padding_waste(
    tested, detection_batches.choose_buckets(tested, 4)
  )
  assert found.shapes == 4 and found.share < 0.02


def test_shapes_that_hold_not_all_are_refused():
  with pytest.raises(UserError, match="16 x 48 .*none of the shapes 32 x 32"):
    detection_batches.assign([(16, 20), (16, 48)], [(32, 32), (48, 32)])
  with pytest.raises(UserError, match="num_buckets=0"):
    detection_batches.choose_buckets([(16, 20)], 0)
