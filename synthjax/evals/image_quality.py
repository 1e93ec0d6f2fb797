"""Measures of an image set's quality, from its features.

Fréchet and kernel distance, precision, recall, density, coverage, diversity.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.evals import diversity, neighbours


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
    of the class), `prompt_clip_score`, `top1` (the share that is nearest to the
    text of its class), and `by_class`, a dict of lists.
  """
  within = diversity.within_classes(features, labels, len(class_texts))
  counts = np.bincount(labels, minlength=len(class_texts)).tolist()
  score = lambda images, texts: (
    diversity.clip_score(images, texts) if len(images) else None
  )
  of_classes = class_texts / np.linalg.norm(class_texts, axis=-1, keepdims=True)
  nearest = (features @ of_classes.T).argmax(-1)
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
    "top1": float(np.mean(nearest == labels)) if len(features) else None,
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
      ("frechet", frechet_distance),
      ("kernel", kernel_distance),
    ):
      figures[name] = distance(real, generated)
  if fewest > k:
    figures |= compare_manifolds(real, generated, k=k)._asdict()
  return figures


def _mean(values: list[float | None]) -> float | None:
  values = [x for x in values if x is not None]
  return float(np.mean(values)) if values else None


# --- how two sets of features cover each other -------------------------------
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


# --- Fréchet distance (Heusel et al. 2017) -----------------------------------

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
  # Rounding may leave a little below 0 if both are the same.
  return float(max(apart + total, 0.0))


def _root(cov: np.ndarray) -> np.ndarray:
  """Returns R [d, rank] with R R^T = cov."""
  values, vectors = np.linalg.eigh(cov)
  positive = values > values[-1] * len(cov) * np.finfo(np.float64).eps
  return vectors[:, positive] * np.sqrt(values[positive])


# --- kernel distance (KID, Binkowski et al. 2018) ----------------------------
# It is the squared maximum mean discrepancy for k(x, y) = (x.y / d + 1)^3. As
# the 1 cancels out of it, k - 1 is summed, which keeps float32's digits where
# x.y / d is small; and rows of zeros, which fill blocks up, add nothing.

_SIDE = 4096  # rows and columns of a block


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the unbiased estimate over all pairs of two sets.

  It may be a little below 0. Blocks of products are float32, and their sums
  are added in float64; memory does not grow with the square of n.

  Args:
    x: [n, d] features, n at least 2.
    y: [m, d] features, m at least 2.
  """
  side = min(_SIDE, max(len(x), len(y)))
  of_x, of_y = _blocks(x, side), _blocks(y, side)
  within_x = _within(of_x) - _diagonal(x)
  within_y = _within(of_y) - _diagonal(y)
  across = _total([_sum(a, b) for a in of_x for b in of_y])
  n, m = len(x), len(y)
  return (
    within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / n / m
  )


def kernel_distance_of_subsets(
  x: np.ndarray,
  y: np.ndarray,
  *,
  num_subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 2020,
) -> tuple[float, float]:
  """Returns mean and standard deviation over random subsets, as is published.

  Args:
    x: [n, d] features.
    y: [m, d] features.
    num_subsets: that are drawn.
    subset_size: rows of either set; all there are where they are fewer.
    seed: of NumPy's old generator: with torch-fidelity's default of 2020 the
      subsets are its own.
  """
  size = min(subset_size, len(x), len(y))
  rng, sums, diagonals = np.random.RandomState(seed), [], []
  for _ in range(num_subsets):
    a = np.asarray(x[rng.choice(len(x), size, replace=False)], np.float32)
    b = np.asarray(y[rng.choice(len(y), size, replace=False)], np.float32)
    sums.append(_sums_of_subset(a, b))
    diagonals.append(_diagonal(a) + _diagonal(b))
  sums = np.asarray(sums, np.float64).sum(-1)  # [num_subsets, 3]
  within = sums[:, 0] + sums[:, 1] - np.asarray(diagonals)
  distances = within / (size * (size - 1)) - 2 * sums[:, 2] / size**2
  return float(distances.mean()), float(distances.std())


@jax.jit
def _sum(x: jax.Array, y: jax.Array) -> jax.Array:
  """Sums k - 1 over the columns of a block: [n]."""
  product = jnp.matmul(x, y.T, precision="highest") / x.shape[1]
  return (product * (3 + product * (3 + product))).sum(1)


@jax.jit
def _sums_of_subset(x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.stack([_sum(x, x), _sum(y, y), _sum(x, y)])  # [3, n]


def _within(blocks: list[jax.Array]) -> float:
  """Sums over all pairs of a set; each pair of blocks is computed once."""
  same = _total([_sum(block, block) for block in blocks])
  others = [_sum(a, b) for i, a in enumerate(blocks) for b in blocks[i + 1 :]]
  return same + 2 * _total(others)


def _diagonal(x: np.ndarray) -> float:
  """Sums k - 1 over the pairs of a row with itself."""
  square = functools.partial(np.einsum, "nd,nd->n", dtype=np.float64)
  product = square(x, x) / x.shape[1]
  return float((product * (3 + product * (3 + product))).sum())


def _total(sums: list[jax.Array]) -> float:
  return float(sum(np.asarray(rows, np.float64).sum() for rows in sums))


def _blocks(x: np.ndarray, side: int) -> list[jax.Array]:
  """Cuts [n, d] into float32 blocks [side, d], filled up with zeros."""
  blocks = []
  for first in range(0, len(x), side):
    block = np.asarray(x[first : first + side], np.float32)
    blocks.append(jnp.asarray(np.pad(block, ((0, side - len(block)), (0, 0)))))
  return blocks
