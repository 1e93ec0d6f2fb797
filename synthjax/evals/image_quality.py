"""All figures of the quality of an image set, from its features."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.evals import diversity, feature_distances, neighbours


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
  counts = np.bincount(labels, minlength=len(class_texts)).tolist()
  score = lambda images, texts: (
    diversity.clip_score(images, texts) if len(images) else None
  )
  scores = [
    score(rows, np.broadcast_to(text, rows.shape))
    for label, text in enumerate(class_texts)
    for rows in [features[labels == label]]
  ]
  return {
    "images": len(features),
    "vendi": diversity.vendi_score(features) if len(features) else None,
    "class_vendi": _mean(within["vendi"]),
    "class_distance": _mean(within["distance"]),
    "clip_score": score(features, class_texts[labels]),
    "prompt_clip_score": None
    if prompt_texts is None
    else score(features, prompt_texts),
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
    `frechet`, `kernel` and the fields of `Manifold`; None for too few images.
  """
  fewest = min(len(generated), len(real))
  figures = dict.fromkeys(("frechet", "kernel", *Manifold._fields))
  if fewest > 1:
    for name, distance in (
      ("frechet", feature_distances.frechet_distance),
      ("kernel", feature_distances.kernel_distance),
    ):
      figures[name] = distance(real, generated)
  if fewest > k:
    figures |= compare_manifolds(real, generated, k=k)._asdict()
  return figures


def _mean(values: list[float | None]) -> float | None:
  values = [x for x in values if x is not None]
  return float(np.mean(values)) if values else None


# --- how two sets of features cover each other, by balls around their rows
# Precision and recall of Kynkäänniemi et al. 2019, Section 2; density and
# coverage of Naeem et al. 2020, Section 3. The ball of a row reaches to its
# k-th nearest row of its own set, and its rim is outside, as in the code of
# Naeem et al.


class Manifold(NamedTuple):
  """All in 0..1 but density, which may be above 1."""

  precision: float  # generated rows that lie in the ball of a real one
  recall: float  # real rows that lie in the ball of a generated one
  density: float  # of real balls that a generated row lies in, over k
  coverage: float  # real rows whose ball has a generated one


def compare_manifolds(
  real: np.ndarray, generated: np.ndarray, *, k: int = 5
) -> Manifold:
  """Compares generated features with real ones.

  Args:
    real: [n, d], n above k.
    generated: [m, d], m above k.
    k: of the k-th nearest neighbour; 3 for precision and recall, 5 for density
      and coverage in the papers.
  """
  centre = real.mean(0, dtype=np.float64).astype(np.float32)
  real = neighbours.centred(real, centre)
  generated = neighbours.centred(generated, centre)
  real_radii = neighbours.nearest(real, k=k)[0][:, -1]
  radii = neighbours.nearest(generated, k=k)[0][:, -1]
  columns, inside = jnp.asarray(generated), 0
  side = neighbours.rows_of_block(len(real), len(generated))
  recalled, covered = [], []
  for first in range(0, len(real), side):
    block = neighbours.fill_up(real[first : first + side], side)
    # Filling has no ball. As all distances are at least 0, none is below it.
    rim = np.pad(real_radii[first : first + side], (0, side))[:side]
    counts, of_recall, of_coverage = _count(block, rim, columns, radii)
    inside += np.asarray(counts)
    recalled.append(of_recall)
    covered.append(of_coverage)
  return Manifold(
    precision=float((inside > 0).mean()),
    recall=float(np.concatenate(recalled)[: len(real)].mean()),
    density=float(inside.mean() / k),
    coverage=float(np.concatenate(covered)[: len(real)].mean()),
  )


@jax.jit
def _count(
  real: jax.Array, real_radii: jax.Array, generated: jax.Array, radii: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Counts real balls around generated rows [m]; recall and coverage [n]."""
  distances = neighbours.squared_distances(real, generated)
  in_real = distances < real_radii[:, None]
  return (
    in_real.sum(0, dtype=jnp.int32),
    (distances < radii).any(1),
    in_real.any(1),
  )
