"""The Fréchet distance of two sets of features (Heusel et al. 2017)."""

import numpy as np

_ROWS = 8192  # made float64 at a time
# The least ratio of eigenvalues whose roots have 10 digits.
_SAFE = 1e-6


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the Fréchet distance of Gaussians fitted to two sets.

  Args:
    x: [n, d] features, n at least 2.
    y: [m, d] features, m at least 2; which is which does not matter.
  """
  return distance_of_moments(*moments(x), *moments(y))


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean [d] and unbiased covariance [d, d], both in float64.

  Args:
    x: [n, d] of any float type, of which a few thousand rows at a time are
      copied.
  """
  if len(x) < 2:
    raise ValueError(f"A covariance needs 2 or more rows, found {len(x)}.")
  mean = x.mean(0, dtype=np.float64)
  products = np.zeros((x.shape[1], x.shape[1]))
  for first in range(0, len(x), _ROWS):
    centred = x[first : first + _ROWS] - mean
    products += centred.T @ centred
  return mean, products / (len(x) - 1)


def distance_of_moments(
  mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray
) -> float:
  """Returns |mean_x - mean_y|^2 + tr(A + B - 2 (A B)^(1/2)).

  The eigenvalues of A B are the squared singular values of A^(1/2) B^(1/2), so
  the last trace is the sum of those. The root of a product, which references
  take, is complex where a covariance is singular, as with fewer images than
  features; and a root doubles the digits that rounding costs.

  Args:
    mean_x: [d].
    cov_x: A, [d, d].
    mean_y: [d].
    cov_y: B, [d, d].
  """
  try:  # with A = L L^T they are the eigenvalues of L^T B L, too
    root = np.linalg.cholesky(cov_x)
    values = np.linalg.eigvalsh(root.T @ cov_y @ root)
    # Small ones are noise, which a root would make large.
    exact = values[0] > values[-1] * _SAFE
  except np.linalg.LinAlgError:
    exact = False
  if exact:
    singular = np.sqrt(values)
  else:
    singular = np.linalg.svd(_root(cov_x).T @ _root(cov_y), compute_uv=False)
  apart = np.square(mean_x - mean_y).sum()
  total = np.trace(cov_x) + np.trace(cov_y) - 2 * singular.sum()
  # Rounding leaves a little below 0 where both are the same.
  return float(max(apart + total, 0.0))


def _root(cov: np.ndarray) -> np.ndarray:
  """Returns R [d, rank] with R R^T = cov."""
  values, vectors = np.linalg.eigh(cov)
  there = values > values[-1] * len(cov) * np.finfo(np.float64).eps
  return vectors[:, there] * np.sqrt(values[there])
