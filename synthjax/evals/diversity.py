"""How different the images of a set are, and how well they show their texts."""

import functools

import numpy as np

from synthjax.evals import neighbours

_unit = functools.partial(neighbours.unit, dtype=np.float64)
_ROWS = 8192  # made float64 at a time


def vendi_score(x: np.ndarray) -> float:
  """Returns the effective number of different rows (Friedman & Dieng 2023).

  It is exp of the entropy of the eigenvalues of K / n, where K holds cosines:
  1 where all rows are the same, n where all are orthogonal. K has the
  eigenvalues of the d x d matrix of products, too.

  Args:
    x: [n, d] features, of any length.
  """
  products = np.zeros((min(x.shape),) * 2)
  if x.shape[0] < x.shape[1]:
    rows = _unit(x)
    products = rows @ rows.T
  else:
    for first in range(0, len(x), _ROWS):
      rows = _unit(x[first : first + _ROWS])
      products += rows.T @ rows
  values = np.linalg.eigvalsh(products) / len(x)
  # What rounding made of 0 counts for nothing.
  values = values[values > np.finfo(np.float64).eps]
  return float(np.exp(-(values * np.log(values)).sum()))


def mean_cosine_distance(x: np.ndarray) -> float:
  """Returns the mean of 1 - cosine over all pairs of different rows.

  Args:
    x: [n, d] features, n at least 2.
  """
  n, total = len(x), np.zeros(x.shape[1])
  for first in range(0, n, _ROWS):
    total += _unit(x[first : first + _ROWS]).sum(0)
  # The sum over all pairs is the squared length of the sum.
  return float(1 - (total @ total - n) / (n * (n - 1)))


def within_classes(
  x: np.ndarray, labels: np.ndarray, num_classes: int
) -> dict[str, list[float | None]]:
  """Returns both measures for each class.

  Args:
    x: [n, d] features.
    labels: [n] in 0..num_classes-1.
    num_classes: k.

  Returns:
    "vendi" and "distance", of k entries; None for a class of less than 2 rows.
  """
  classes = [x[labels == label] for label in range(num_classes)]
  by_class = lambda measure: [
    measure(rows) if len(rows) > 1 else None for rows in classes
  ]
  return {
    "vendi": by_class(vendi_score),
    "distance": by_class(mean_cosine_distance),
  }


def clip_score(images: np.ndarray, texts: np.ndarray) -> float:
  """Returns 100 times the mean cosine of images and their texts.

  As Hessel et al. 2021 (there 2.5 times), a cosine below 0 counts as 0.

  Args:
    images: [n, d] features of CLIP.
    texts: [n, d] features of the text of each.
  """
  total = 0.0
  for first in range(0, len(images), _ROWS):
    rows = slice(first, first + _ROWS)
    cosines = (_unit(images[rows]) * _unit(texts[rows])).sum(-1)
    total += np.maximum(cosines, 0).sum()
  return float(100 * total / len(images))
