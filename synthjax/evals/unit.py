"""Vectors of length 1, as cosines compare them."""

import numpy as np


def unit(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
  """Scales the last axis to length 1; zeros stay zeros."""
  x = np.asarray(x, dtype)
  lengths = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.where(lengths > 0, lengths, 1)
