"""The classifier of a run, for any images."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.adapt import linear_head
from synthjax.encoders import Encoder, load_encoder
from synthjax.runtime import hub
from synthjax.runtime.errors import UserError


class Classifier(NamedTuple):
  """A classifier of a run.

  `classify` maps uint8 images, an array [n, h, w, 3] or a list of [h, w, 3] of
  any sizes, to probabilities float32 [n, k]. `fit` reduces an image to what
  `classify` needs of it, so that many photographs need little memory.
  """

  classes: tuple[str, ...]
  classify: Callable[[Sequence[Any]], np.ndarray]
  fit: Callable[[np.ndarray], Any] = np.asarray


def load(workdir: epath.PathLike, *, arm: str | None = None) -> Classifier:
  """Loads a classifier and the encoder that it was tuned with.

  Args:
    workdir: of a run whose task `tune` is complete, or "hf://org/name" of one
      that `synthjax push` has uploaded.
    arm: of config.tune.arms, or "zero_shot"; the first by default. It is the
      mean of its heads, one for each seed.

  Raises:
    UserError: if the run has no classifier or no such arm, or the encoder's
      weights are no longer there or no longer the same.
  """
  if os.fspath(workdir).startswith(hub.SCHEME):
    workdir = hub.snapshot(os.fspath(workdir), _heads)
  path = epath.Path(workdir).expanduser() / "tune" / linear_head.HEADS
  if not path.exists():
    raise UserError(
      f"There is no {path}: the folder of a run is needed, the --workdir whose "
      "task `tune` is done."
    )
  saved = linear_head.load(path, arm=arm)
  encoder = load_encoder(**saved.encoder["config"])
  if encoder.identity != saved.encoder["identity"]:
    raise UserError(
      f"{path} was learned from features of {saved.encoder['identity']}, but "
      f"its encoder is now {encoder.identity}: put the old weights back."
    )

  return of_head(encoder, saved.classes, saved.head)


def _heads(names: Sequence[str]) -> list[str]:
  """Returns the files of a repository that the classifier is in."""
  return [name for name in names if name == f"tune/{linear_head.HEADS}"]


def of_head(
  encoder: Encoder, classes: Sequence[str], head: linear_head.Head
) -> Classifier:
  """Returns the classifier of a head on an encoder.

  Args:
    encoder: that the head was tuned with.
    classes: their k names, by label.
    head: of k classes.

  Raises:
    UserError: if these are not k names.
  """
  if isinstance(classes, str) or len(classes) != len(head.weight):
    raise UserError(
      f"classes={classes!r:.80}: needed the names of the {len(head.weight)} "
      "classes of the head, by label."
    )

  def classify(images: Sequence[np.ndarray]) -> np.ndarray:
    logits = linear_head.logits_fn(head, encoder.encode_images(images))
    return np.asarray(jax.nn.softmax(logits))

  return Classifier(tuple(classes), classify, encoder.fit)
