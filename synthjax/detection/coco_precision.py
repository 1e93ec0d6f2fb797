"""Average precision of detections as COCO measures it, by COCO's own code.

It differs from VOC's: boxes are not rounded, a match may have an IoU at the
threshold, each detection takes the best free object, and the precision is read
at 101 recalls. No task reports it.
"""

import contextlib
import io
from collections.abc import Sequence

import numpy as np

from synthjax.detection.average_precision import Truth, check
from synthjax.detection.voc_files import Detections
from synthjax.runtime.errors import UserError

_STATS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def average_precision(
  detections: Sequence[Detections],
  truth: Sequence[Truth],
  num_classes: int,
) -> dict[str, float]:
  """Measures detections in all images of a test set.

  Args:
    detections: one entry an image; the best 100 of each image count.
    truth: of the same images. Difficult objects are COCO's crowds: they are
      not missed, and what lies within them is ignored.
    num_classes: k; labels are 0..k-1.

  Returns:
    AP, AP50, AP75, AP_small, AP_medium and AP_large, shares in 0..1; NaN where
    there are no objects of the size.

  Raises:
    UserError: if pycocotools is not installed.
    ValueError: for entries that do not fit.
  """
  try:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
  except ImportError as error:
    raise UserError(
      "COCO's average precision needs pycocotools, which is not installed: "
      "pip install pycocotools. VOC's own measure does without."
    ) from error
  check(detections, truth, num_classes)
  ground = COCO()
  ground.dataset = {
    "images": [{"id": i} for i in range(len(truth))],
    "categories": [{"id": label} for label in range(num_classes)],
    "annotations": [
      entry | {"id": number, "area": entry["bbox"][2] * entry["bbox"][3]}
      # From 1: pycocotools takes the id 0 for "no match".
      for number, entry in enumerate(_annotations(truth), start=1)
    ],
  }
  with contextlib.redirect_stdout(io.StringIO()):
    ground.createIndex()
    # pycocotools cannot read an empty list.
    loaded = ground.loadRes(_results(detections) or _nothing(num_classes))
    run = COCOeval(ground, loaded, "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
  values = [float(x) for x in run.stats[: len(_STATS)]]
  return {
    name: np.nan if value < 0 else value  # -1 says that there are none
    for name, value in zip(_STATS, values, strict=True)
  }


def _annotations(truth: Sequence[Truth]) -> list[dict]:
  return [
    {
      "image_id": i,
      "category_id": int(label),
      "bbox": _corner_and_size(box),
      "iscrowd": int(difficult),
    }
    for i, one in enumerate(truth)
    for box, label, difficult in zip(*one, strict=True)
  ]


def _results(detections: Sequence[Detections]) -> list[dict]:
  return [
    {
      "image_id": i,
      "category_id": int(label),
      "bbox": _corner_and_size(box),
      "score": float(score),
    }
    for i, one in enumerate(detections)
    for box, score, label in zip(*one, strict=True)
  ]


def _nothing(num_classes: int) -> list[dict]:
  """Returns a detection outside of the image, on no object."""
  return [
    {
      "image_id": 0,
      "category_id": num_classes - 1,
      "bbox": [-2.0, -2.0, 1.0, 1.0],
      "score": 0.0,
    }
  ]


def _corner_and_size(box: np.ndarray) -> list[float]:
  left, top, right, low = map(float, box)
  return [left, top, right - left, low - top]
