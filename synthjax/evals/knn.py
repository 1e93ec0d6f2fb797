"""Nearest neighbours: what features are worth before anything is trained."""

import numpy as np


def vote(
  features: np.ndarray,
  labels: np.ndarray,
  queries: np.ndarray,
  *,
  num_classes: int,
  k: int = 20,
  temperature: float = 0.07,
  chunk: int = 1024,
) -> np.ndarray:
  """Lets the nearest neighbours of each query vote (Wu et al. 2018, §3.4).

  A neighbour counts exp(cosine / temperature) for its class.

  Args:
    features: [m, d] of the images whose labels are known.
    labels: [m] int in 0..num_classes-1.
    queries: [n, d] of the images to recognise.
    num_classes: of the votes.
    k: neighbours that vote, all m where there are fewer; of equally near ones
      it does not matter which.
    temperature: the authors' 0.07; a small one listens to the nearest alone.
    chunk: queries that are compared at a time, [chunk, m] float32.

  Returns:
    [n, num_classes] float64: each class's share of the votes, which sum to 1.

  Raises:
    ValueError: for shapes that do not fit, or labels of no class.
  """
  features, queries = _unit(features), _unit(queries)
  labels = np.asarray(labels)
  if (
    features.ndim != 2
    or queries.shape[1:] != features.shape[1:]
    or labels.shape != features.shape[:1]
    or not len(labels)
  ):
    raise ValueError(
      f"found features {features.shape}, labels {labels.shape} and queries "
      f"{queries.shape}; needed [m, d], [m] and [n, d], with m at least 1."
    )
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(
      f"found labels from {labels.min()} to {labels.max()}, but there are "
      f"{num_classes} classes, from 0 to {num_classes - 1}."
    )
  if k < 1 or temperature <= 0:
    raise ValueError(
      f"found k={k} and temperature={temperature}; both must be above 0."
    )
  k = min(k, len(labels))
  votes = np.zeros((len(queries), num_classes))
  for start in range(0, len(queries), chunk):
    cosines = queries[start : start + chunk] @ features.T  # [c, m]
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    cosines = np.take_along_axis(cosines, nearest, 1).astype(np.float64)
    # Relative to the nearest, as a small temperature would overflow.
    weights = np.exp((cosines - cosines.max(1, keepdims=True)) / temperature)
    weights /= weights.sum(1, keepdims=True)
    rows = np.arange(start, start + len(cosines))[:, None]
    np.add.at(votes, (rows, labels[nearest]), weights)
  return votes


def _unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float32)
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.maximum(norm, 1e-12)
