"""Stored features of several augmentation passes over the same few images.

A frozen encoder sees each image a few times, each time cropped and mirrored
otherwise; training then draws one of the passes where a data loader would
augment anew.
"""

import numpy as np

from synthjax.train.classifier import epochs_index


def flatten_passes(
  features: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Lays the passes one after another, as `passes_index` counts rows.

  Args:
    features: [passes, n, d].
    labels: [n] int, the same in every pass.

  Returns:
    Features [passes * n, d] and labels [passes * n].

  Raises:
    ValueError: if the shapes are others.
  """
  if features.ndim != 3 or labels.shape != features.shape[1:2]:
    raise ValueError(
      f"found features {features.shape} and labels {labels.shape}; needed "
      "[passes, n, d] and [n]: add an axis for a single pass, features[None]."
    )
  flat = features.reshape(-1, features.shape[-1])
  return flat, np.tile(labels, len(features))


def passes_index(
  num_passes: int,
  num_examples: int,
  *,
  batch_size: int,
  num_epochs: int,
  seed: int,
) -> np.ndarray:
  """Draws the rows of each step: each image once an epoch, in a random pass.

  Args:
    num_passes: of augmentation.
    num_examples: n, of images.
    batch_size: of all batches but the last of an epoch, which keeps the rest.
    num_epochs: at least 1.
    seed: of the orders and of the passes.

  Returns:
    [num_epochs * batches, batch_size] int32, rows of `flatten_passes`, filled
    up with -1.
  """
  index = epochs_index(
    num_examples, batch_size=batch_size, num_epochs=num_epochs, seed=seed
  )
  rng = np.random.default_rng((seed, 1))  # not the numbers of the orders
  chosen = rng.integers(num_passes, size=index.shape, dtype=np.int32)
  return np.where(index < 0, -1, index + num_examples * chosen)
