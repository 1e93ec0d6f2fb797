"""Sets of stored features that classifiers learn from and are tested on."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data import few_shot, real, retrieval, scores, selection, views
from synthjax.data.rows import Example
from synthjax.errors import UserError

Features = tuple[np.ndarray, np.ndarray]  # float32 [n, d], labels int [n]
EncodeImages = Callable[[Sequence[np.ndarray]], np.ndarray]


def encode_real(
  block: Mapping[str, Any], space: Any, encoder: Any, folder: epath.PathLike
) -> tuple[Features, dict[str, int]]:
  """Opens and encodes real images, or reads what was encoded before.

  Args:
    block: of plain data, see `real.open_real`.
    space: the label space.
    encoder: an `encoders.Encoder`.
    folder: of the files of features.

  Returns:
    Features and labels, and the rows of each file that holds them.
  """
  features, labels, files = scores.encode_source(
    real.open_real(block, space),
    encoder.encode_images,
    identity=json.dumps(encoder.identity, sort_keys=True),
    folder=folder,
  )
  return (features, labels), files


def limit_per_class(
  found: scores.Scores,
  rows: np.ndarray,
  *,
  images_per_class: int | None,
  seed: int,
  class_names: Sequence[str],
) -> np.ndarray:
  """Keeps as many rows of each class, chosen by chance.

  The first 100 of a class are among its first 200 of the same seed.

  Args:
    found: scores of n images.
    rows: int [m], to choose from.
    images_per_class: None keeps all.
    seed: of the choice, which depends on seed and ids alone.
    class_names: by label.

  Returns:
    Rows, int, in the order that they had.

  Raises:
    UserError: listing every class with fewer rows.
  """
  if images_per_class is None:
    return rows
  own = [rows[found.labels[rows] == label] for label in range(len(class_names))]
  if few := {
    name: len(each)
    for name, each in zip(class_names, own, strict=True)
    if len(each) < images_per_class
  }:
    listed = ", ".join(f"{k!r} has {n}" for k, n in list(few.items())[:10])
    raise UserError(
      f"images_per_class={images_per_class} images of each class are asked "
      f"for, but of {len(few)} there are fewer: {listed}. Ask for at most "
      f"{min(few.values())}, or raise generate.images_per_class or "
      "select.max_per_class."
    )
  chance = functools.partial(selection.chance_of, seed)
  kept = [sorted(e, key=lambda i: chance(found.ids[i])) for e in own]
  return np.sort(np.concatenate([each[:images_per_class] for each in kept]))


class Few(NamedTuple):
  """The real images of a few-shot run, and their features."""

  source: Sequence[Example]  # of the pool
  pool: Features
  validation: Features | None
  num_classes: int
  sampler: str = "nested"  # of the shots, a key of few_shot.SAMPLERS


def draw_shots(few: Few, shots: int, seed: int) -> Features:
  """Returns the features and labels of the shots of a seed."""
  rows = _rows(few, shots, seed)
  return few.pool[0][rows], few.pool[1][rows]


def lend_validation(few: Few, shots: int, seed: int) -> Features | None:
  """Returns the validation images that CoOp's protocol lends to so many."""
  if few.validation is None:
    return None
  features, labels = few.validation
  if few.sampler == "coop":  # one stream of random numbers draws both
    _, rows = few_shot.draw_splits(
      few.sampler,
      few.pool[1],
      labels,
      num_classes=few.num_classes,
      shots=shots,
      seed=seed,
    )
    return features[rows], labels[rows]
  least = int(np.bincount(labels, minlength=few.num_classes).min())
  rows = few_shot.draw(
    labels,
    num_classes=few.num_classes,
    shots=min(shots, few_shot.MAX_VALIDATION_SHOTS, least),
    seed=seed,
  )
  return features[rows], labels[rows]


def encode_views(
  few: Few,
  encode_images: EncodeImages,
  shots: int,
  seed: int,
  *,
  num_views: int,
) -> np.ndarray:
  """Encodes other views of the shots of a seed: float32 [num_views, n, d]."""
  rows = _rows(few, shots, seed)
  images = [
    views.shot_view(few.source[int(row)], seed=(seed, int(row), number))
    for number in range(num_views)
    for row in rows
  ]
  return encode_images(images).reshape(num_views, len(rows), -1)


def retrieve(
  few: Few, classes: np.ndarray, per_class: int, best_class_only: bool
) -> Features:
  """Finds images of the pool by texts [k, d]; its labels are not read."""
  features = few.pool[0]
  found = retrieval.retrieve(
    features, classes, per_class=per_class, best_class_only=best_class_only
  )
  return features[found.rows], found.labels


def _rows(few: Few, shots: int, seed: int) -> np.ndarray:
  return few_shot.draw_by(
    few.sampler,
    few.pool[1],
    num_classes=few.num_classes,
    shots=shots,
    seed=seed,
  )
