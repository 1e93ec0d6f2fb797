"""The figures of a dataset card by further encoders, which know no texts."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from synthjax.data import scores as stored
from synthjax.data.rows import Source
from synthjax.evals import diversity
from synthjax.evals import quality as measures
from synthjax.report.card_figures import Drawn, Real


class ImageEncoder(Protocol):
  """What is needed of an encoder of images."""

  encode_images: Callable[[Sequence[np.ndarray]], np.ndarray]
  identity: Mapping[str, Any]


def measure(
  drawn: Drawn,
  real: Real | None,
  encoder: ImageEncoder,
  *,
  neighbours: int,
  folder: epath.PathLike,
) -> tuple[dict[str, Any], dict[str, int]]:
  """Measures the images that are compared, and the real ones.

  Features are stored as they are computed, and not computed again.

  Args:
    drawn: the generated images.
    real: those to compare with, if there are any.
    encoder: of both.
    neighbours: k of precision, recall, density and coverage.
    folder: of the files of features.

  Returns:
    The figures of "all", "kept" and "real" images, as plain data; and the rows
    of each file.
  """

  def features_of(source, rows, kind):
    chosen = Source(len(rows), lambda i: source[int(rows[i])])
    features, _, files = stored.encode_source(
      chosen,
      encoder.encode_images,
      identity=json.dumps(encoder.identity, sort_keys=True),
      folder=folder,
      kind=kind,
    )
    return features, files

  features, files = features_of(drawn.source, drawn.chosen, "drawn")
  of_real = None
  if real:
    of_real, more = features_of(real.source, real.rows, "real")
    files |= more
  parts = {"all": np.full(len(features), True)}
  if drawn.kept is not None:
    parts["kept"] = drawn.kept[drawn.chosen]
  sets = {
    name: {"figures": _figures(features[part], of_real, neighbours)}
    for name, part in parts.items()
  }
  if real:
    sets["real"] = {"figures": _figures(of_real, None, neighbours)}
  return sets, files


def _figures(
  features: np.ndarray, real: np.ndarray | None, neighbours: int
) -> dict[str, float | int | None]:
  found = {"images": len(features), "vendi": None}
  if len(features):
    found["vendi"] = diversity.vendi_score(features)
  if real is not None:
    found |= measures.compare(features, real, k=neighbours)
  return found
