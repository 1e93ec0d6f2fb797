"""The nearest rows of one set of features to those of another, in blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_ELEMENTS = 2**25  # of a block of distances, 128 MiB as float32
_GROUP = 64  # columns of which the nearest is found first


def nearest(
  x: np.ndarray, y: np.ndarray | None = None, *, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the k nearest rows of y to each row of x.

  Args:
    x: [n, d] features.
    y: [m, d] features, m at least k; None looks in x for others than the row
      itself, which then has more than k rows.
    k: how many.

  Returns:
    Squared Euclidean distances float32 [n, k], smallest first, and rows of y,
    int32 [n, k].
  """
  others = x if y is None else y
  if not 1 <= k <= len(others) - (y is None):
    raise ValueError(f"k={k}, but there are {len(others)} rows to choose from.")
  # Centred numbers are smaller, and lose less to rounding.
  centre = others.mean(0, dtype=np.float64).astype(np.float32)
  columns = fill_up(centred(others, centre), _GROUP)
  side = rows_of_block(len(x), len(columns))
  columns, size = jnp.asarray(columns), len(others)
  blocks = []
  for first in range(0, len(x), side):
    block = fill_up(centred(x[first : first + side], centre), side)
    itself = first if y is None else -side  # nobody's
    blocks.append(_nearest(block, columns, size, itself, k=k))
  distances, rows = map(np.concatenate, zip(*blocks, strict=True))
  return distances[: len(x)], rows[: len(x)]


@functools.partial(jax.jit, static_argnames="k")
def _nearest(
  x: jax.Array, y: jax.Array, size: jax.Array, itself: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
  """Finds the nearest of a block; `itself` is the row of y that is x's first.

  The k nearest lie in the k groups whose nearest members are nearest. So the
  minimum of each group is all that is read of most distances, where a partial
  sort would read and move them all.
  """
  column = jnp.arange(len(y))
  skipped = column >= size
  skipped |= column == (itself + jnp.arange(len(x)))[:, None]
  distances = jnp.where(skipped, jnp.inf, squared_distances(x, y))
  groups = distances.reshape(len(x), -1, _GROUP)
  num_groups = min(k, groups.shape[1])
  _, group = jax.lax.top_k(-groups.min(-1), num_groups)  # [n, num_groups]
  near = jnp.take_along_axis(groups, group[:, :, None], axis=1)
  best, place = jax.lax.top_k(-near.reshape(len(x), -1), k)
  group = jnp.take_along_axis(group, place // _GROUP, axis=1)
  return -best, group * _GROUP + place % _GROUP


def unit(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
  """Scales the rows of [..., d] to length 1; zeros stay."""
  x = np.asarray(x, dtype)
  lengths = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.where(lengths > 0, lengths, 1)


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns |x|^2 - 2 x.y + |y|^2, [n, m], at least 0."""
  product = jnp.matmul(x, y.T, precision="highest")
  lengths = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)
  return jnp.maximum(lengths - 2 * product, 0.0)


def centred(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
  """Subtracts [d] from the rows of [n, d], in float32."""
  return np.asarray(x, np.float32) - centre


def fill_up(x: np.ndarray, multiple: int) -> np.ndarray:
  """Adds rows of zeros, so that few shapes are compiled."""
  return np.pad(x, ((0, -len(x) % multiple), (0, 0)))


def rows_of_block(n: int, m: int) -> int:
  """Returns how many rows to compare at once with m others: a power of 2."""
  most = max(_ELEMENTS // m, 8)
  return 2 ** min(int(np.log2(most)), int(np.ceil(np.log2(max(n, 8)))))


# --- nearest neighbours ------------------------------------------------------


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
  """Classifies by the votes of nearest neighbours (Wu et al. 2018, §3.4).

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
  features, queries = unit(features), unit(queries)
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
