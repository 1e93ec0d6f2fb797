"""How unsure a classifier is of images: the learner chooses what to learn.

What it is sure of teaches little more (Hemmat et al. 2025, "Deliberate
Practice", keep images of high entropy). What it is unsure of may also be wrong:
the CLIP filter comes first.
"""

import numpy as np
from scipy import special


def entropy(logits: np.ndarray) -> np.ndarray:
  """Returns the entropy [n] of the probabilities of logits [n, k], in nats."""
  return special.entr(_probs(logits)).sum(-1)


def margin(logits: np.ndarray) -> np.ndarray:
  """Returns minus the lead [n] of the first class over the second: -1 to 0."""
  second, first = np.sort(_probs(logits), -1)[:, -2:].T
  return second - first


def _probs(logits: np.ndarray) -> np.ndarray:
  return special.softmax(np.asarray(logits, np.float64), -1)


# Larger where it is less sure.
MEASURES = {"entropy": entropy, "margin": margin}
