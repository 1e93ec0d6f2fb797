"""Sets of stored features that classifiers learn from and are tested on."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.adapt import linear_head
from synthjax.data.generated import filters, scores
from synthjax.data.pipeline import few_shot, host_augment
from synthjax.data.pipeline.rows import Example
from synthjax.data.real import real_images
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError

Features = tuple[np.ndarray, np.ndarray]  # float32 [n, d], labels int [n]
_HELD = 256  # views that wait to be encoded
EncodeImages = Callable[[Sequence[np.ndarray]], np.ndarray]


def encode_real(
  block: Mapping[str, Any], space: Any, encoder: Any, folder: epath.PathLike
) -> tuple[Features, dict[str, int]]:
  """Opens and encodes real images, or reads what was encoded before.

  Args:
    block: of plain data, see `real_images.open_real`.
    space: the label space.
    encoder: an `encoders.Encoder` or `ImageEncoder`.
    folder: of the files of features.

  Returns:
    Features and labels, and the rows of each file that holds them.
  """
  return encode_rows(real_images.open_real(block, space), encoder, folder)


def encode_rows(
  source: Sequence[Example],
  encoder: Any,
  folder: epath.PathLike,
  *,
  kind: str = "real",
) -> tuple[Features, dict[str, int]]:
  """Encodes images that are open; `kind` begins the names of the files."""
  features, labels, files = scores.encode_source(
    source,
    encoder.encode_images,
    identity=json.dumps(encoder.identity, sort_keys=True),
    folder=folder,
    fit=encoder.fit,
    kind=kind,
  )
  return (features, labels), files


class Scored(NamedTuple):
  """What `score` and `select` leave of the generated images of a workdir."""

  images: scores.Scores
  kept: np.ndarray | None  # [n] bool, what `select` has kept, if asked for
  filter: dict[str, int]  # max_per_class and seed of `select`, if asked for
  zero_shot: linear_head.Head  # of the texts of their classes


def specification(
  name: str,
  block: Mapping[str, Any],
  workdir: epath.PathLike,
  encoder: Any,
  space: Any,
  inputs: Sequence[str],
) -> dict[str, Any]:
  """Returns what decides the result of a task that learns from features.

  Args:
    name: of the task.
    block: its block of the config, with those of the real images.
    workdir: of the inputs.
    encoder: an `encoders.Encoder`.
    space: the label space.
    inputs: the tasks whose artifacts it reads.
  """
  splits = real_images.splits_of(block)
  return {
    name: block,
    "encoder": encoder.identity,
    "real": {split: real_images.identify(x) for split, x in splits.items()},
    "inputs": {
      task: artifacts.digest(epath.Path(workdir) / task, repairable=True)
      for task in inputs
    },
    "classes": space.class_names,
  } | real_images.identify_files(splits, space)


def check_scores(workdir: epath.PathLike, encoder: Any, space: Any) -> None:
  """Checks that the scores of a workdir are by this encoder and label space.

  Raises:
    UserError: as `scores.check_inputs`.
  """
  scores.check_inputs(
    epath.Path(workdir) / "score",
    encoder=encoder.identity,
    classes=space.class_names,
    templates=space.templates,
    texts=spaces.identify_texts(space),
  )


def read_scored(workdir: epath.PathLike, *, filtered: bool) -> Scored:
  """Reads the scores of a workdir, and what `select` has kept if `filtered`."""
  workdir = epath.Path(workdir)
  images, kept, options = scores.read(workdir / "score"), None, {}
  if filtered:
    kept = filters.read_kept(workdir / "select", workdir / "score", images.ids)
    spec = artifacts.load(workdir / "select")["spec"]
    options = spec["select"] | {"seed": spec["seed"]}
  texts = scores.read_texts(workdir / "score")
  head = linear_head.init_head(texts.text_features, texts.logit_scale)
  return Scored(images, kept, options, head)


def zero_shot_head(encoder: Any, space: Any) -> linear_head.Head:
  """Builds the zero-shot classifier of a label space by an `Encoder`."""
  texts = scores.encode_classes(
    encoder.encode_texts, encoder.logit_scale, space
  )
  return linear_head.init_head(texts.text_features, texts.logit_scale)


def limit_per_class(
  images: scores.Scores,
  rows: np.ndarray,
  *,
  images_per_class: int | None,
  seed: int,
  class_names: Sequence[str],
  merit: np.ndarray | None = None,
) -> np.ndarray:
  """Keeps as many rows of each class, chosen by chance or merit.

  The first 100 of a class are among its first 200 of the same seed.

  Args:
    images: of n images.
    rows: int [m], to choose from.
    images_per_class: None keeps all.
    seed: of the choice, which depends on seed and ids alone.
    class_names: by label.
    merit: [m]; rows of the largest are kept, None chooses by chance.

  Returns:
    Rows, int, in the order that they had.

  Raises:
    UserError: listing every class with fewer rows.
  """
  if images_per_class is None:
    return rows
  rows_of = [rows[images.labels[rows] == i] for i in range(len(class_names))]
  if too_few := {
    name: len(class_rows)
    for name, class_rows in zip(class_names, rows_of, strict=True)
    if len(class_rows) < images_per_class
  }:
    listed = ", ".join(f"{k!r} has {n}" for k, n in [*too_few.items()][:10])
    raise UserError(
      f"images_per_class={images_per_class} images of each class are asked "
      f"for, but {len(too_few)} classes have fewer: {listed}. Ask for at most "
      f"{min(too_few.values())}, or raise generate.images_per_class or "
      "select.max_per_class."
    )
  merit = np.zeros(len(rows)) if merit is None else merit
  merit_of = dict(zip(rows.tolist(), merit.tolist(), strict=True))
  chance = functools.partial(filters.chance_of, seed)
  order = lambda row: (-merit_of[row], chance(images.ids[row]))
  kept = [sorted(x, key=order)[:images_per_class] for x in rows_of]
  return np.sort(np.concatenate(kept))


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
  scale: tuple[float, float] = (0.5, 1.0),
  fit: Callable[[np.ndarray], Any] = np.asarray,
) -> np.ndarray:
  """Encodes other views of the shots of a seed: float32 [num_views, n, d].

  Args:
    few: the pool.
    encode_images: of an encoder.
    shots: of each class.
    seed: of the shots and of their views.
    num_views: of each shot.
    scale: smallest and largest share of the area that a view has.
    fit: of the encoder; _HELD views are held.
  """
  rows, features = _rows(few, shots, seed).tolist(), []
  at_once = max(_HELD // num_views, 1)
  for first in range(0, len(rows), at_once):
    views = []
    for row in rows[first : first + at_once]:
      shot = few.source[row]
      for number in range(num_views):
        view = host_augment.shot_view(
          shot, seed=(seed, row, number), scale=scale
        )
        views.append(fit(view))
    features.append(encode_images(views))
  of_shots = np.concatenate(features).reshape(len(rows), num_views, -1)
  return np.ascontiguousarray(of_shots.swapaxes(0, 1))


def retrieve(
  few: Few, classes: np.ndarray, per_class: int, best_class_only: bool
) -> Features:
  """Finds images of the pool by texts [k, d]; its labels are not read."""
  features = few.pool[0]
  nearest = nearest_rows(
    features, classes, per_class=per_class, best_class_only=best_class_only
  )
  return features[nearest.rows], nearest.labels


def _rows(few: Few, shots: int, seed: int) -> np.ndarray:
  return few_shot.draw_by(
    few.sampler,
    few.pool[1],
    num_classes=few.num_classes,
    shots=shots,
    seed=seed,
  )


# --- retrieval of real images by text -----------------------------------------
# What generated images have to beat: the same CLIP, used to search a pool of
# real images without labels.


class Retrieved(NamedTuple):
  """Rows of the pool, by class and falling cosine."""

  rows: np.ndarray  # [m] int64, in the pool
  labels: np.ndarray  # [m] int64
  cosines: np.ndarray  # [m] float32


def nearest_rows(
  pool: np.ndarray,
  classes: np.ndarray,
  *,
  per_class: int,
  best_class_only: bool = False,
  chunk: int = 16_384,
) -> Retrieved:
  """Finds the rows of the pool with the largest cosine to each class.

  The lower of two rows with equal cosines comes first. Memory is that of one
  chunk, so that the pool may be a memory map of many millions of rows.

  Args:
    pool: [n, d] image features, of any length and float type.
    classes: [k, d] text features of the classes, of any length.
    per_class: rows to find for each class; fewer where there are no more.
    best_class_only: a row is offered to the class of its largest cosine alone
      (of equal ones, the first); otherwise several classes may find it.
    chunk: rows of the pool at a time.

  Raises:
    UserError: for sizes that disagree, or features without a direction.
  """
  units = _units(classes, "class", 0)  # [k, d]
  if pool.ndim != 2 or units.shape[1] != pool.shape[1] or per_class < 1:
    raise UserError(
      f"Found a pool of shape {pool.shape}, classes of shape {classes.shape} "
      f"and per_class={per_class}; needed [n, d], [k, d] and at least 1: are "
      "both from the same encoder?"
    )
  rows = np.empty((len(units), 0), np.int64)
  cosines = np.empty((len(units), 0), np.float32)
  for start in range(0, len(pool), chunk):
    # [k, chunk]
    similarity = units @ _units(pool[start : start + chunk], "pool", start).T
    if best_class_only:
      elsewhere = np.arange(len(units))[:, None] != similarity.argmax(0)
      similarity[elsewhere] = -np.inf
    nearest, values = _largest(similarity, per_class)
    # Lower rows stand first, so that a stable order keeps them there.
    rows = np.concatenate([rows, start + nearest], axis=1)
    cosines = np.concatenate([cosines, values], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :per_class]
    rows = np.take_along_axis(rows, order, axis=1)
    cosines = np.take_along_axis(cosines, order, axis=1)
  labels = np.broadcast_to(np.arange(len(units))[:, None], rows.shape)
  offered = cosines > -np.inf
  return Retrieved(rows[offered], labels[offered], cosines[offered])


def _largest(values, num):
  """Returns columns [k, num] of the largest of [k, n], and the values.

  A partition alone would pick any of the equal values at its border.
  """
  num = min(num, values.shape[1])
  border = -np.partition(-values, num - 1, axis=1)[:, num - 1]
  columns = np.empty((len(values), num), np.int64)
  for out, row, least in zip(columns, values, border, strict=True):
    near = np.flatnonzero(row >= least)
    out[:] = near[np.argsort(-row[near], kind="stable")[:num]]
  return columns, np.take_along_axis(values, columns, axis=1)


def _units(features, kind, start):
  """Scales rows to length 1 in float32, or says which have no direction."""
  features = np.asarray(features, np.float32)
  length = np.linalg.norm(features, axis=-1, keepdims=True)
  wrong = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
  if len(wrong):
    raise UserError(
      f"The {kind} features have {len(wrong)} rows that are zero or not "
      f"finite, such as row {start + wrong[0]}: encode these anew, or leave "
      "them out."
    )
  return features / length
