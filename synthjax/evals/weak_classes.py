"""Finds the classes that a generator draws badly, from its first images.

The encoder classifies each image. A class whose images are hardly ever
classified as that class needs another description, and needs it before a
thousand more are drawn. A few images are weak evidence, so a class is reported
only when the upper end of an interval is low, over all classes at once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from synthjax.runtime.errors import UserError

CONFIDENCE = 0.95  # that not one class is reported without cause
MIN_IMAGES = 5  # of a class, before it is reported
TIMES_CHANCE = 2.0
SHARE_OF_OTHERS = 0.5
MAX_LISTED = 10


class Weak(NamedTuple):
  """A class that seems to be drawn badly."""

  label: int
  name: str
  count: int  # images seen
  score: float  # share of them that is classified as the class
  upper: float  # end of the interval of the score
  others: float  # mean score of the other classes
  advice: str


def weak_classes(
  labels: np.ndarray,
  probs: np.ndarray,
  names: Sequence[str],
  *,
  confidence: float = CONFIDENCE,
) -> list[Weak]:
  """Returns the classes whose first images do not show them, worst first.

  A class is weak if the upper end of the interval of its score is below half of
  the mean of the other classes, or not above twice chance. The score is the
  share of images whose likeliest class is theirs, the interval Wilson's (1927),
  one-sided. As many classes are looked at, each has a K-th of the risk
  (Bonferroni).

  Args:
    labels: [n] ints, the class that each image was drawn for.
    probs: [n, K] class probabilities.
    names: of the K classes.
    confidence: that, of classes all drawn well, none is reported.

  Raises:
    UserError: about sizes or labels that do not fit together.
  """
  labels, probs = np.asarray(labels), np.asarray(probs, np.float64)
  _check(labels, probs, names)
  risk = (1 - confidence) / len(names)
  hits = probs.argmax(1) == labels
  scores = {
    label: float(hits[labels == label].mean()) for label in np.unique(labels)
  }
  weak = []
  for label, score in scores.items():
    of_class = labels == label
    count = int(of_class.sum())
    others = [other for key, other in scores.items() if key != label]
    if count < MIN_IMAGES or not others:
      continue
    upper = wilson_upper(int(hits[of_class].sum()), count, risk)
    level = float(np.mean(others))
    if upper < max(SHARE_OF_OTHERS * level, _near_chance(len(names))):
      advice, name = _advice(int(label), probs[of_class], names), names[label]
      weak.append(Weak(int(label), name, count, score, upper, level, advice))
  return sorted(weak, key=lambda row: (row.score, row.label))


def verdict(labels: np.ndarray, probs: np.ndarray, names: Sequence[str]) -> str:
  """Returns the message to a user about the first images.

  It lists weak classes, which are weak in comparison with others. If there are
  none, it says how many images are classified as their class, and whether that
  is no more than by chance.

  Args:
    labels: [n] ints, the class that each image was drawn for.
    probs: [n, K] class probabilities.
    names: of the K classes.
  """
  if weak := weak_classes(labels, probs, names):
    return message(weak)
  hits, count = int((probs.argmax(1) == labels).sum()), len(labels)
  chance = 1 / len(names)
  summary = (
    f"{hits / count:.0%} of the first {count} images are taken for their class "
    f"(by chance, {chance:.0%})"
  )
  if wilson_upper(hits, count, 1 - CONFIDENCE) < _near_chance(len(names)):
    return (
      f"{summary}: the generator draws none of these classes, or the encoder "
      "knows none. Stop here and give them a `description`, a `sense` or "
      "`related` words, or take other models."
    )
  return f"generate: {summary}; no class stands out as drawn badly."


def message(weak: Sequence[Weak]) -> str:
  """Returns the message about weak classes; "" if there are none."""
  if not weak:
    return ""
  lines = [
    f"{row.name}: {row.score:.0%} of {row.count} images (others "
    f"{row.others:.0%}); {row.advice}"
    for row in weak[:MAX_LISTED]
  ]
  if len(weak) > MAX_LISTED:
    lines.append(f"and {len(weak) - MAX_LISTED} more")
  listed = "\n  ".join(lines)
  subject = "1 class is" if len(weak) == 1 else f"{len(weak)} classes are"
  return (
    f"The first images say that {subject} drawn badly, or that the encoder "
    f"does not know them:\n  {listed}\nStop here and change the label space, "
    "or go on and leave it to the filter to drop bad images."
  )


def wilson_upper(hits: int, count: int, risk: float) -> float:
  """Returns the upper end of Wilson's one-sided interval of a share."""
  z, share = stats.norm.isf(risk), hits / count
  middle = share + z**2 / (2 * count)
  half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  return min((middle + half) / (1 + z**2 / count), 1.0)


def _near_chance(num_classes: int) -> float:
  # With two or three classes, twice chance is nearly everything.
  chance = 1 / num_classes
  return min(TIMES_CHANCE * chance, (1 + chance) / 2)


def _advice(label: int, probs: np.ndarray, names: Sequence[str]) -> str:
  """Says what the images of a class are taken for, and what may help.

  Args:
    label: of the class.
    probs: [n, K], of its images.
    names: of all classes.
  """
  remedy = "give it a `description`, a `sense` or `related` words"
  taken = np.bincount(probs.argmax(1), minlength=len(names))
  taken[label] = 0
  most = int(taken.argmax())
  if 2 * taken[most] > len(probs):
    return (
      f"{taken[most]} of them are taken for {names[most]!r}: {remedy} that "
      "distinguish the two, or make them one class"
    )
  return f"they are taken for many things: {remedy}"


def _check(labels: np.ndarray, probs: np.ndarray, names: Sequence[str]) -> None:
  if labels.ndim != 1 or probs.shape != (len(labels), len(names)):
    raise UserError(
      f"Labels {labels.shape} and probabilities {probs.shape} of {len(names)} "
      "classes do not fit: needed are [n] and [n, K]."
    )
  if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
    raise UserError(
      f"Labels lie from {labels.min()} to {labels.max()}; {len(names)} classes "
      f"have 0 to {len(names) - 1}."
    )
  if len(probs) and not (probs.min() >= 0 and probs.max() <= 1):
    raise UserError("Probabilities must lie from 0 to 1, and be numbers.")
