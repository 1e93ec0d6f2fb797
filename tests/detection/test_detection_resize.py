"""Images with boxes, resized and mirrored."""

import numpy as np
import pytest

from synthjax.detection import resize


@pytest.mark.parametrize(
  ("size", "short_side", "want"),
  [
    ((375, 500), 800, (800, 1067)),  # 1066.67
    ((500, 375), 480, (640, 480)),
    ((333, 500), 800, (800, 1201)),  # 1201.2
    ((500, 500), 512, (512, 512)),
    ((100, 500), 800, (267, 1333)),  # 4000 is too long; 266.6
    ((200, 401), 100, (100, 201)),  # 200.5 is rounded up
    ((1, 5000), 480, (1, 1333)),  # 0.27 would be nothing
  ],
)
def test_sizes_are_those_of_detectron2(size, short_side, want):
  assert tuple(resize.resized(size, short_side, 1333)) == want


def test_boxes_follow_their_image():
  """Counted by hand: 10 x 20 pixels become 20 x 40, and are mirrored."""
  image = np.zeros((10, 20, 3), np.uint8)
  image[2:5, 3:9] = 255
  row = {"image": image, "boxes": np.array([[3, 2, 9, 5]], np.float32)}
  twice = resize.resize(row, 20, 100)
  assert twice["boxes"].tolist() == [[6, 4, 18, 10]]
  assert twice["boxes"].dtype == np.float32
  # The middle of the object is as bright as it was, and what is outside dark.
  assert (twice["image"][5:9, 7:17] == 255).all()
  assert twice["image"][4:10, 6:18].min() > 100
  assert twice["image"][:3].max() == 0 == twice["image"][:, 20:].max()
  mirrored = resize.resize(row, 20, 100, flip=True)
  assert mirrored["boxes"].tolist() == [[22, 4, 34, 10]]
  np.testing.assert_array_equal(mirrored["image"], twice["image"][:, ::-1])


def test_each_side_has_a_factor_of_its_own():
  """3 x 4 becomes 2 x 3, as 2.67 is rounded: factors 2/3 and 3/4."""
  boxes = np.array([[0, 0, 4, 3]], np.float32)
  row = {"image": np.zeros((3, 4, 3), np.uint8), "boxes": boxes}
  assert resize.resize(row, 2, 10)["boxes"].tolist() == [[0, 0, 3, 2]]


def test_rows_without_boxes_and_unchanged_sizes_are_accepted():
  row = {"image": np.ones((3, 4, 3), np.uint8), "boxes": np.zeros((0, 4))}
  same = resize.resize(row, 3, 10, flip=True)
  assert same["boxes"].shape == (0, 4) and same["image"] is not None
  np.testing.assert_array_equal(same["image"], row["image"])
