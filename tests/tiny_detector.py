"""A detector that is small enough for tests, and images for it."""

from functools import partial

import numpy as np

from synthjax.detection.faster_rcnn import make_detector
from synthjax.detection.regions import Options

SMALL = Options(
  sizes=(16, 32),
  ratios=(0.5, 1, 2),
  num_anchors=32,
  max_positive_anchors=16,
  pre_top=200,
  post_top=40,
  test_pre_top=200,
  test_post_top=40,
  num_rois=24,
  max_foreground=8,
  max_detections=10,
)
make_small = partial(
  make_detector,
  "resnet_tiny",
  num_classes=2,
  stem="imagenet",
  num_anchors=6,
  sampling=2,
)


def two_images():
  """Returns a batch: a red and a blue rectangle, and a blue one."""
  image = np.random.default_rng(0).integers(90, 110, (2, 64, 64, 3), np.uint8)
  image[0, 8:40, 4:36] = [200, 30, 30]
  image[0, 44:60, 40:56] = [30, 30, 200]
  image[1, 10:26, 20:52] = [30, 30, 200]
  image[1, 48:] = 0
  boxes = np.zeros((2, 3, 4), np.float32)
  boxes[0, :2] = [[4, 8, 36, 40], [40, 44, 56, 60]]
  boxes[1, :1] = [[20, 10, 52, 26]]
  return {
    "image": image,
    "size": np.array([[64, 64], [48, 64]], np.int32),
    "boxes": boxes,
    "labels": np.array([[0, 1, 0], [1, 0, 0]], np.int32),
    "valid": np.array([[1, 1, 0], [1, 0, 0]], bool),
  }
