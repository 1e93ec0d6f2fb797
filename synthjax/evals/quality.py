"""All figures of the quality of an image set, from its features."""

from typing import Any

import numpy as np

from synthjax.evals import diversity, frechet, kernel, manifold


def measure(
  features: np.ndarray,
  labels: np.ndarray,
  class_texts: np.ndarray,
  prompt_texts: np.ndarray | None = None,
) -> dict[str, Any]:
  """Measures a set by itself.

  Args:
    features: [n, d] of images, as the encoder gives them.
    labels: [n] in 0..k-1.
    class_texts: [k, d] features of the text of each class.
    prompt_texts: [n, d] features of the prompt of each image, if it had one.

  Returns:
    `images`, `vendi` (of the whole set), `class_vendi` and `class_distance`
    (means over the classes of 2 or more images), `clip_score` (with the text
    of the class), `prompt_clip_score`, and `by_class`, a dict of lists.
  """
  within = diversity.within_classes(features, labels, len(class_texts))
  mean = lambda values: _mean([x for x in values if x is not None])
  counts = np.bincount(labels, minlength=len(class_texts)).tolist()
  scores = [
    diversity.clip_score(own, np.broadcast_to(text, own.shape))
    if len(own := features[labels == label])
    else None
    for label, text in enumerate(class_texts)
  ]
  prompted = None
  if prompt_texts is not None and len(features):
    prompted = diversity.clip_score(features, prompt_texts)
  return {
    "images": len(features),
    "vendi": diversity.vendi_score(features) if len(features) else None,
    "class_vendi": mean(within["vendi"]),
    "class_distance": mean(within["distance"]),
    "clip_score": diversity.clip_score(features, class_texts[labels])
    if len(features)
    else None,
    "prompt_clip_score": prompted,
    "by_class": within | {"images": counts, "clip_score": scores},
  }


def compare(
  generated: np.ndarray, real: np.ndarray, *, k: int
) -> dict[str, float | None]:
  """Measures how far a set is from real images.

  Args:
    generated: [n, d] features.
    real: [m, d] features of the same encoder.
    k: of the balls of precision, recall, density and coverage.

  Returns:
    `frechet`, `kernel` and the fields of `manifold.Manifold`; None where there
    are too few images.
  """
  few = min(len(generated), len(real))
  balls = dict.fromkeys(manifold.Manifold._fields)
  if few > k:
    balls = manifold.compare(real, generated, k=k)._asdict()
  return {
    "frechet": frechet.frechet_distance(real, generated) if few > 1 else None,
    "kernel": kernel.kernel_distance(real, generated) if few > 1 else None,
    **balls,
  }


def _mean(values: list[float]) -> float | None:
  return float(np.mean(values)) if values else None
