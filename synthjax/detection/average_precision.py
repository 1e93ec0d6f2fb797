"""Average precision of detections, as PASCAL VOC measures it.

The protocol is that of VOC's development kit (Everingham et al. 2010, section
4.2) as Detectron2 runs it: ten IoU thresholds instead of one, and boxes that
have gone through VOC's text files, which round them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from synthjax.detection.voc_files import Detections, as_inclusive, as_written

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # of IoU


class Truth(NamedTuple):
  """The objects in an image."""

  boxes: np.ndarray  # [g, 4] px, as in Detections
  labels: np.ndarray  # [g] int
  difficult: np.ndarray  # [g] bool: neither missed nor found


class Measured(NamedTuple):
  """Average precisions, shares in 0..1."""

  AP: float  # mean over the classes and the thresholds .50:.05:.95
  AP50: float
  AP75: float
  per_class: np.ndarray  # [k, 10], a column a threshold; NaN without objects
  num_objects: np.ndarray  # [k] int, those that are not difficult


def average_precision(
  detections: Sequence[Detections],
  truth: Sequence[Truth],
  num_classes: int,
  *,
  interpolation: str = "11-point",
) -> Measured:
  """Measures detections in all images of a test set.

  In the order of the scores each detection looks at the object of its class and
  image that it overlaps most. Above the threshold (strictly) it is right if it
  is the first to find that object, ignored if the object is difficult, and
  wrong otherwise; so duplicates are wrong. Equal scores, of which rounding to
  three decimals makes many, keep the order of images and of detections.

  Args:
    detections: one entry an image.
    truth: of the same images.
    num_classes: k; labels are 0..k-1.
    interpolation: "11-point" (VOC 2007) or "area" (VOC 2010 and later).

  Returns:
    The average precisions. A class without objects, or with difficult ones
    alone, is NaN and left out of the means.

  Raises:
    ValueError: for entries that do not fit, and if there are no objects.
  """
  average = INTERPOLATIONS[interpolation]
  check(detections, truth, num_classes)
  detected, image_of_detection = _join(detections)
  objects, image_of_object = _join(truth)
  boxes, scores = as_written(detected.boxes, detected.scores)

  order = np.lexsort((-scores, detected.labels))  # stable
  labels = detected.labels[order]
  iou, match = _best_matches(
    boxes[order],
    labels * len(truth) + image_of_detection[order],
    as_inclusive(objects.boxes),
    objects.labels * len(truth) + image_of_object,
  )
  num_objects = np.bincount(
    objects.labels[~objects.difficult], minlength=num_classes
  )
  if not num_objects.any():
    raise ValueError(
      f"found no object in {len(truth)} images that is not difficult: there is "
      "nothing to measure by. Are the labels those of the test set?"
    )
  bounds = np.searchsorted(labels, np.arange(num_classes + 1))
  per_class = np.full((num_classes, len(THRESHOLDS)), np.nan)
  for column, threshold in enumerate(THRESHOLDS):
    right, wrong = _verdicts(iou, match, objects.difficult, threshold)
    for label in np.flatnonzero(num_objects):
      rows = slice(bounds[label], bounds[label + 1])
      per_class[label, column] = average(
        *_precision_and_recall(right[rows], wrong[rows], num_objects[label])
      )
  measured = per_class[num_objects > 0]
  at = lambda threshold: float(measured[:, THRESHOLDS.index(threshold)].mean())
  return Measured(
    float(measured.mean()), at(0.5), at(0.75), per_class, num_objects
  )


def verdicts(
  detections: Detections, truth: Truth, threshold: float = 0.5
) -> list[str]:
  """Judges each detection of one image.

  Returns:
    [d] of "right", "wrong" and "ignored", by the rules of `average_precision`.
  """
  boxes, scores = as_written(detections.boxes, detections.scores)
  order = np.argsort(-scores, kind="stable")
  labels = np.asarray(detections.labels)
  iou, match = _best_matches(
    boxes[order],
    labels[order],
    as_inclusive(truth.boxes),
    np.asarray(truth.labels),
  )
  difficult = np.asarray(truth.difficult, bool)
  right, wrong = _verdicts(iou, match, difficult, threshold)
  names = np.full(len(order), "ignored")
  names[order] = np.select([right, wrong], ["right", "wrong"], "ignored")
  return names.tolist()


# --- matching ---------------------------------------------------------------


def _best_matches(
  boxes: np.ndarray,
  keys: np.ndarray,
  objects: np.ndarray,
  object_keys: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Finds for each box [d, 4] the object [g, 4] of its key that it covers best.

  Returns:
    The IoU [d], 0 where there is no object of the key, and the object [d] int;
    the first of equal ones counts.
  """
  by_key = np.argsort(object_keys, kind="stable")
  sorted_keys = object_keys[by_key]
  start = np.searchsorted(sorted_keys, keys, "left")
  count = np.searchsorted(sorted_keys, keys, "right") - start
  best, match = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
  # All boxes look at the first object of their key, then at the second, ...
  for rank in range(count.max(initial=0)):
    rows = np.flatnonzero(count > rank)
    other = by_key[start[rows] + rank]
    iou = _iou(boxes[rows], objects[other])
    better = iou > best[rows]
    best[rows[better]], match[rows[better]] = iou[better], other[better]
  return best, match


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns the IoU [n] of pairs of boxes [n, 4] in inclusive pixels."""
  area = lambda box: (box[:, 2] - box[:, 0] + 1) * (box[:, 3] - box[:, 1] + 1)
  low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
  common = np.maximum(high - low + 1, 0).prod(1)
  union = area(a) + area(b) - common
  return np.divide(common, union, out=np.zeros(len(a)), where=union > 0)


def _verdicts(
  iou: np.ndarray, match: np.ndarray, difficult: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
  """Returns which detections [d], sorted by score, are right and wrong."""
  rows = np.flatnonzero(iou > threshold)
  hard = difficult[match[rows]]
  _, first = np.unique(match[rows[~hard]], return_index=True)
  right, wrong = np.zeros((2, len(iou)), bool)
  right[rows[~hard][first]] = True
  wrong[:] = ~right
  wrong[rows[hard]] = False
  return right, wrong


# --- from verdicts to one number --------------------------------------------


def _precision_and_recall(
  right: np.ndarray, wrong: np.ndarray, num_objects: int
) -> tuple[np.ndarray, np.ndarray]:
  hits, misses = np.cumsum(right), np.cumsum(wrong)
  # Where all so far were ignored, there is no precision: 0, as in the kit.
  return hits / np.maximum(hits + misses, 1), hits / num_objects


def _eleven_point(precision: np.ndarray, recall: np.ndarray) -> float:
  """Averages the best precision at recalls of 0, .1, ..., 1 and more."""
  best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
  # arange's 0.30000000000000004 and the like are those of the reference: three
  # objects of ten do not reach it.
  at = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1), "left")
  return float(best[at].mean())


def _area(precision: np.ndarray, recall: np.ndarray) -> float:
  """Returns the area below the precision, made monotonous."""
  best = np.maximum.accumulate(precision[::-1])[::-1]
  return float(np.sum(np.diff(recall, prepend=0.0) * best))


INTERPOLATIONS: dict[str, Callable[..., float]] = {
  "11-point": _eleven_point,
  "area": _area,
}


# --- input ------------------------------------------------------------------


def _join(images: Sequence[NamedTuple]) -> tuple[NamedTuple, np.ndarray]:
  """Joins the fields of all images; returns them and the image [n] of each."""
  dtypes = {"labels": np.int64, "difficult": bool}
  shapes = {"boxes": (-1, 4)}

  def join(name):
    dtype, shape = dtypes.get(name, np.float64), shapes.get(name, (-1,))
    columns = [np.asarray(getattr(one, name), dtype) for one in images]
    return np.concatenate([column.reshape(shape) for column in columns])

  joined = type(images[0])(*map(join, images[0]._fields))
  sizes = [len(np.asarray(one.labels)) for one in images]
  return joined, np.repeat(np.arange(len(images)), sizes)


def check(
  detections: Sequence[Detections], truth: Sequence[Truth], num_classes: int
) -> None:
  """Checks the sizes of each image, the labels, and that all is finite."""
  if len(detections) != len(truth) or not len(truth):
    raise ValueError(
      f"found detections of {len(detections)} images and the truth of "
      f"{len(truth)}; needed one entry of both for each image."
    )
  problems = []
  for i, pair in enumerate(zip(detections, truth, strict=True)):
    for one in pair:
      kind, n = type(one).__name__, len(np.asarray(one.labels))
      for name in one._fields:
        values = np.asarray(getattr(one, name))
        size = 4 * n if name == "boxes" else n
        if values.size != size:
          problems.append(
            f"image {i}: {kind}.{name} has the shape {values.shape}, but there "
            f"are {n} labels"
          )
        elif values.size and not np.isfinite(values.astype(np.float64)).all():
          problems.append(f"image {i}: {kind}.{name} is not finite")
      labels = np.asarray(one.labels)
      outside = labels[(labels < 0) | (labels >= num_classes)]
      if outside.size:
        problems.append(
          f"image {i}: {kind}.labels {outside[:5].tolist()} are outside of "
          f"0..{num_classes - 1}"
        )
  if problems:
    more = len(problems) - 10
    lines = problems[:10] + ([f"... and {more} more"] if more > 0 else [])
    raise ValueError("Cannot measure:\n  " + "\n  ".join(lines))
