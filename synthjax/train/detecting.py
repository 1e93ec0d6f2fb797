"""Detections in all images of a set, over all devices and processes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from synthjax.train import mesh as meshes

_ABOUT = ("index", "size", "original_size")


def detect_all(
  predict: Callable[[Any, Mapping], Mapping[str, jax.Array]],
  variables: Mapping[str, Any],
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  tell: Callable[[int], Any] = lambda count: None,
) -> dict[int, dict[str, np.ndarray]]:
  """Returns what is found in each image, by its number, best first.

  Args:
    predict: of `detection.predictor`.
    variables: of its model.
    batches: of `data.detection_batches.eval_batches`: this process's share of
      each global batch.
    tell: called with the number of images that have been done since.

  Returns:
    Dicts of boxes [d, 4] in pixels of the resized image, scores [d] and labels
    [d]; size [2] and original_size [2] of the image.
  """
  mesh, found = meshes.make_mesh(), {}
  variables = jax.device_put(dict(variables), meshes.copied(mesh))
  for batch in batches:
    batch = meshes.to_global(mesh, dict(batch))
    inputs = {name: batch[name] for name in ("image", "size")}
    outputs = dict(predict(variables, inputs))
    rows = jax.tree.map(_whole, outputs | {n: batch[n] for n in _ABOUT})
    tell(int((rows["index"] >= 0).sum()))
    for i, number in enumerate(rows["index"].tolist()):
      if number < 0:  # it fills the batch up
        continue
      there = rows["valid"][i]
      found[number] = {
        **{n: rows[n][i][there] for n in ("boxes", "scores", "labels")},
        **{n: rows[n][i] for n in ("size", "original_size")},
      }
  return dict(sorted(found.items()))


def _whole(x: jax.Array) -> np.ndarray:
  """Returns all of an array that several processes may share."""
  if x.is_fully_addressable:
    return np.asarray(x)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(x, tiled=True))
