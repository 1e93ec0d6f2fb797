"""Classifier tuning on few real images and many generated ones.

The recipe of Section 3.2 and Appendix C.5.2, and that of the released code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

import numpy as np

from synthjax.adapt import linear_head
from synthjax.adapt.linear_head import Head, Rows
from synthjax.config.schema import Count, Positive, Share, one_of
from synthjax.models.clip.projection import Projection

Features = tuple[np.ndarray, np.ndarray]  # [n, d] float32, labels [n] int

# What classifier tuning sees, and in which order (Appendix C.5.2): "mix" adds
# the loss of a batch of real images to that of a batch of generated ones, in
# each step; "syn_real" and "real_syn" are one after the other, each with its
# own schedule; "real" and "synthetic" leave one out.
ORDERS = ("real", "synthetic", "mix", "syn_real", "real_syn")
# Batches of generated and of real images. The released code asks for the
# paper's, but with a frozen encoder its loaders take another field: 128.
BATCH_SIZES = {"paper": (512, 32), "released": (128, 128)}
# "released" also has the schedule that the released code has in effect, see
# `released_progress`, and begins the real images anew in each epoch. The code
# shows this for "mix" alone; that it is so for the other orders is our reading.
Protocol = Annotated[str, one_of(BATCH_SIZES)]


@dataclass(frozen=True, kw_only=True)
class Tuning(linear_head.Recipe):
  """How generated and real images tune a classifier."""

  lr: Positive = 1e-3  # of each phase; the paper: 1e-3 for "mix", else 2e-3
  protocol: Protocol | None = None  # None: that of the problem
  num_epochs: Count = 30  # counted on the generated images where they are mixed
  batch_size: Count | None = None  # of generated images; None: the protocol's
  soft_weight: Share = 0.5  # of the teacher's targets for generated images
  label_smoothing: Share | None = None  # of the hard loss of all images


class Problem(NamedTuple):
  """Everything a method may learn from."""

  zero_shot: Head
  logit_scale: float  # the factor on cosines, already exp
  shots: Features  # of the real images
  views: np.ndarray | None  # [passes, n, d] of the augmented shots
  synthetic: Features | None  # of the generated images
  validation: Features | None  # chooses between strengths
  prompts: Callable[[int], tuple] | None  # `Encoder.embed_prompts`, of context
  seed: int  # of orders and first values
  # per_class and best_class_only -> real images that the texts of the classes
  # find, with these for labels; see `feature_sets.retrieve`.
  retrieve: Callable[[int, bool], Features] | None = None
  protocol: Protocol = "paper"  # of a `Tuning` that names none
  # A number -> [number, n, d]: so many fresh crops of each shot; see `coop`.
  crops: Callable[[int], np.ndarray] | None = None
  # The last layer of the encoder, for methods that tune it: they are given
  # `views`, `crops` and `synthetic` of features before it.
  projection: Projection | None = None


def tuned(
  problem: Problem,
  tuning: Tuning,
  *,
  order: str,
  real_batch_size: int | None = None,
  validation: Features | None = None,
) -> linear_head.Tuned:
  """Tunes the zero-shot classifier.

  Args:
    problem: to learn from.
    tuning: the recipe.
    order: one of ORDERS.
    real_batch_size: of real images, which are learned by plain cross entropy;
      None is that of the protocol.
    validation: classified after each epoch of the last phase.
  """
  protocol = tuning.protocol or problem.protocol
  released, sizes = protocol == "released", BATCH_SIZES[protocol]
  batch_size = tuning.batch_size or sizes[0]
  real_batch_size = real_batch_size or sizes[1]
  seed, num_epochs = problem.seed, tuning.num_epochs
  rows_of = partial(Rows, label_smoothing=tuning.label_smoothing)

  def alone(data, size, weight):
    features, labels = data
    size = min(size, len(labels))
    index = linear_head.epochs_index(
      len(labels), batch_size=size, num_epochs=num_epochs, seed=seed
    )
    along = None
    if released:
      along = released_progress(
        len(labels), batch_size=size, num_epochs=num_epochs
      )
    return [rows_of(features, labels, index, weight)], along

  def mixed():
    (generated,), along = synthetic()
    features, labels = problem.shots
    size, num_steps = min(real_batch_size, len(labels)), len(generated.index)
    cycle = partial(linear_head.cycled_index, len(labels), batch_size=size)
    if released:
      steps = num_steps // num_epochs
      epochs = [
        cycle(num_steps=steps, seed=(seed, i)) for i in range(num_epochs)
      ]
      index = np.concatenate(epochs)
    else:
      index = cycle(num_steps=num_steps, seed=seed)
    return [rows_of(features, labels, index, 0.0), generated], along

  synthetic = lambda: alone(problem.synthetic, batch_size, tuning.soft_weight)
  real = lambda: alone(problem.shots, real_batch_size, 0.0)
  phases = {
    "mix": [mixed],
    "real": [real],
    "synthetic": [synthetic],
    "syn_real": [synthetic, real],
    "real_syn": [real, synthetic],
  }[order]
  head = problem.zero_shot
  for i, phase in enumerate(phases, start=1):
    sets, along = phase()
    result = linear_head.tune(
      sets,
      head,
      tuning,
      teacher=problem.zero_shot,
      num_epochs=num_epochs,
      progress=along,
      validation=validation if i == len(phases) else None,
    )
    head = result.head
  return result


def released_progress(
  num_examples: int,
  *,
  batch_size: int,
  num_epochs: int,
  planned_batch_size: int = 512,
) -> np.ndarray:
  """Returns how far along its cosine the released few-shot code is.

  Its schedule counts on batches of 512, but its loader draws smaller ones. So
  each epoch has more steps than planned, and the next one starts where it was
  planned to: a saw-tooth, whose last steps pass the end of the cosine.

  Args:
    num_examples: of the rows that count the epochs.
    batch_size: drawn.
    num_epochs: at least 1.
    planned_batch_size: that the schedule counts on.

  Returns:
    [num_epochs * batches] float64, for `linear_head.tune`.
  """
  steps = np.arange(-(-num_examples // batch_size))
  planned = -(-num_examples // planned_batch_size)
  position = steps + planned * np.arange(num_epochs)[:, None]
  return position.reshape(-1) / (planned * num_epochs)
