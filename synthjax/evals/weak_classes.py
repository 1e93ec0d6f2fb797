"""Which classes a generator draws badly, told from its first images.

The encoder says of each image which class it shows. A class whose images are
hardly ever taken for it needs another description, and needs it before a
thousand more are drawn. A few images say little, so a class is told of only
when the upper end of an interval is low, over all classes at once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from synthjax.runtime.errors import UserError

CONFIDENCE = 0.95  # that not one class is told of without cause
MIN_IMAGES = 5  # of a class, before anything is said of it
TIMES_CHANCE = 2.0
SHARE_OF_OTHERS = 0.5
MAX_LISTED = 10


class Weak(NamedTuple):
  """A class that is drawn badly, as far as can be told."""

  label: int
  name: str
  count: int  # images seen
  score: float  # share of them that is taken for the class, or their mean
  upper: float  # end of the interval of the score
  others: float  # score of the other classes
  advice: str


def weak_classes(
  labels: np.ndarray,
  probs: np.ndarray,
  names: Sequence[str],
  *,
  confidence: float = CONFIDENCE,
) -> list[Weak]:
  """Returns the classes whose first images do not show them, worst first.

  A class is told of if the upper end of the interval of its score is below
  half of the mean of the other classes, or not above twice chance. With all
  probabilities, the score is the share of images whose likeliest class is
  theirs, with Wilson's interval (1927); with those of the own class alone, it
  is their mean, with an interval by Student's t. Both are one-sided, and as
  many classes are looked at, each at a K-th of the risk (Bonferroni).

  Args:
    labels: [n] ints, what each image was asked to show.
    probs: [n, K] class probabilities, or [n] those of the image's own class.
    names: of the K classes.
    confidence: that, of classes all drawn well, none is told of.

  Raises:
    UserError: about sizes or labels that do not fit together.
  """
  labels, probs = np.asarray(labels), np.asarray(probs, np.float64)
  _check(labels, probs, names)
  risk = (1 - confidence) / len(names)
  hits = probs.argmax(1) == labels if probs.ndim == 2 else None
  scores = probs if hits is None else hits.astype(float)
  near_chance = _near_chance(len(names))
  means = {label: scores[labels == label].mean() for label in np.unique(labels)}
  found = []
  for label, mean in means.items():
    own = labels == label
    count = int(own.sum())
    others = [each for other, each in means.items() if other != label]
    if count < MIN_IMAGES or not others:
      continue
    if hits is None:
      upper = t_upper(scores[own], risk)
    else:
      upper = wilson_upper(int(hits[own].sum()), count, risk)
    level = float(np.mean(others))
    if upper < max(SHARE_OF_OTHERS * level, near_chance):
      advice = _advice(int(label), probs[own], names)
      name, score = names[label], float(mean)
      found.append(Weak(int(label), name, count, score, upper, level, advice))
  return sorted(found, key=lambda each: (each.score, each.label))


def verdict(labels: np.ndarray, probs: np.ndarray, names: Sequence[str]) -> str:
  """Returns what to show a user about the first images.

  Weak classes are found among others that are drawn well. Where none is, they
  all are: images that are taken for their class as often as by chance are told
  of, and otherwise how often they are.

  Args:
    labels: [n] ints, what each image was asked to show.
    probs: [n, K] class probabilities.
    names: of the K classes.
  """
  if weak := weak_classes(labels, probs, names):
    return message(weak)
  hits, count = int((probs.argmax(1) == labels).sum()), len(labels)
  chance = 1 / len(names)
  said = (
    f"{hits / count:.0%} of the first {count} images are taken for their class "
    f"(by chance, {chance:.0%})"
  )
  if wilson_upper(hits, count, 1 - CONFIDENCE) < _near_chance(len(names)):
    return (
      f"{said}: the generator draws none of these classes, or the encoder "
      "knows none. Stop here and give them a `description`, a `sense` or "
      "`related` words, or take other models."
    )
  return f"generate: {said}; no class stands out as drawn badly."


def message(weak: Sequence[Weak]) -> str:
  """Returns what to show a user about weak classes; "" if there are none."""
  if not weak:
    return ""
  lines = [
    f"{each.name}: {each.score:.0%} of {each.count} images (others "
    f"{each.others:.0%}); {each.advice}"
    for each in weak[:MAX_LISTED]
  ]
  if len(weak) > MAX_LISTED:
    lines.append(f"and {len(weak) - MAX_LISTED} more")
  listed = "\n  ".join(lines)
  what = "1 class is" if len(weak) == 1 else f"{len(weak)} classes are"
  return (
    f"The first images say that {what} drawn badly, or that the encoder does "
    f"not know them:\n  {listed}\nStop here and mend the label space, or go on "
    "and let the filter drop what it can."
  )


def wilson_upper(hits: int, count: int, risk: float) -> float:
  """Returns the upper end of Wilson's one-sided interval of a share."""
  z, share = stats.norm.isf(risk), hits / count
  middle = share + z**2 / (2 * count)
  half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  return min((middle + half) / (1 + z**2 / count), 1.0)


def t_upper(scores: np.ndarray, risk: float) -> float:
  """Returns the upper end of a one-sided interval of the mean of scores [n].

  The scores lie in [0, 1]. Equal ones have no spread, and say no more than
  their number: the deviation is taken to be that of one more, of 1/2.
  """
  count = len(scores)
  spread = np.append(scores, 0.5).std(ddof=1)
  half = stats.t.isf(risk, count - 1) * spread / math.sqrt(count)
  return float(min(scores.mean() + half, 1.0))


def _near_chance(num_classes: int) -> float:
  # Of two or three classes, twice chance is nearly everything.
  chance = 1 / num_classes
  return min(TIMES_CHANCE * chance, (1 + chance) / 2)


def _advice(label: int, probs: np.ndarray, names: Sequence[str]) -> str:
  """Says what the images are taken for, and what may help.

  Args:
    label: of the class.
    probs: [n, K] or [n], of its images.
    names: of all classes.
  """
  mend = "give it a `description`, a `sense` or `related` words"
  if probs.ndim == 1:
    return mend
  taken = np.bincount(probs.argmax(1), minlength=len(names))
  taken[label] = 0
  most = int(taken.argmax())
  if 2 * taken[most] > len(probs):
    return (
      f"{taken[most]} of them are taken for {names[most]!r}: {mend} that tell "
      "the two apart, or make them one class"
    )
  return f"they are taken for many things: {mend}"


def _check(labels: np.ndarray, probs: np.ndarray, names: Sequence[str]) -> None:
  sizes = {(len(labels),), (len(labels), len(names))}
  if labels.ndim != 1 or probs.shape not in sizes:
    raise UserError(
      f"Labels {labels.shape} and probabilities {probs.shape} of {len(names)} "
      "classes do not fit: needed are [n], and [n, K] or [n]."
    )
  if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
    raise UserError(
      f"Labels lie from {labels.min()} to {labels.max()}; {len(names)} classes "
      f"have 0 to {len(names) - 1}."
    )
  if len(probs) and not (probs.min() >= 0 and probs.max() <= 1):
    raise UserError("Probabilities must lie from 0 to 1, and be numbers.")
