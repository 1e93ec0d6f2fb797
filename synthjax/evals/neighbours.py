"""Nearest rows of features: their search, votes, and near duplicates."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

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


# --- votes of the nearest neighbours -----------------------------------------


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


# --- near duplicates, within a set and of another one ------------------------

_SIDE = 2048  # rows and columns of a block
_SIDE_IN_CELL = 512  # a cell has some 2,000: less of a block is filling


class Duplicates(NamedTuple):
  """Pairs of rows whose cosine reaches the threshold."""

  num_pairs: int
  pairs: np.ndarray  # [p, 2] int: the nearest of them, nearest first
  cosines: np.ndarray  # [p] float32
  groups: np.ndarray  # [n] int: rows that pairs join have one number


def near_duplicates(
  x: np.ndarray,
  *,
  threshold: float,
  limit: int = 100,
  cells: np.ndarray | None = None,
) -> Duplicates:
  """Finds rows that point the same way, among all pairs or those in a cell.

  Args:
    x: [n, d] features, of any length.
    threshold: the least cosine of a pair, above 0.
    limit: of the pairs that are returned; all are counted.
    cells: [n, 2] int, of `assign_cells`: rows that share neither of their two
      are not compared. None compares all.
  """
  if not threshold > 0:
    raise ValueError(f"threshold={threshold} must be above 0.")
  near = _near_pairs(x, threshold, min(_SIDE, len(x)))
  if cells is not None:
    near = _near_in_cells(x, threshold, cells)
  count, pairs, cosines = 0, np.zeros((0, 2), int), np.zeros(0, np.float32)
  groups, to_join, waiting = np.arange(len(x)), [], 0
  for places, found in near:
    count += len(places)
    pairs, cosines = (
      np.concatenate(both) for both in ((pairs, places), (cosines, found))
    )
    order = np.argsort(-cosines, kind="stable")[:limit]
    pairs, cosines = pairs[order], cosines[order]
    to_join.append(places)
    waiting += len(places)
    if waiting > len(x):  # as joining takes a time that grows with n
      groups, to_join, waiting = _join(groups, to_join), [], 0
  return Duplicates(count, pairs, cosines, _join(groups, to_join))


def _near_pairs(
  x: np.ndarray, threshold: float, side: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields pairs [p, 2] of rows, and their cosines [p], by blocks."""
  rows = fill_up(unit(x), side)  # a zero's cosines are 0
  blocks = [jnp.asarray(rows[i : i + side]) for i in range(0, len(rows), side)]
  for i, a in enumerate(blocks):
    for j, b in enumerate(blocks[i:], start=i):
      near, size = _compare(a, b, threshold, i == j)
      if not size:  # most blocks are never fetched
        continue
      near = np.asarray(near)
      places = np.argwhere(near > 0)
      yield places + [i * side, j * side], near[tuple(places.T)]


def _near_in_cells(
  x: np.ndarray, threshold: float, cells: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the pairs of each cell; those that share two, in the first."""
  order = np.argsort(cells.ravel(), kind="stable")
  ends = np.cumsum(np.bincount(cells.ravel()))
  for cell, entries in enumerate(np.split(order, ends[:-1])):
    rows = entries // 2
    if len(rows) < 2:
      continue
    other = cells[rows, 1 - entries % 2]
    side = min(_SIDE_IN_CELL, 1 << (len(rows) - 1).bit_length())  # few shapes
    for places, cosines in _near_pairs(x[rows], threshold, side):
      a, b = other[places.T]
      here = (a != b) | (a > cell)
      yield np.sort(rows[places[here]], axis=1), cosines[here]


@jax.jit
def _compare(
  x: jax.Array, y: jax.Array, threshold: jax.Array, same: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines that reach the threshold, else 0, and their number."""
  cosines = jnp.matmul(x, y.T, precision="highest")
  later = jnp.arange(len(y)) > jnp.arange(len(x))[:, None]
  near = (cosines >= threshold) & (later | ~same)
  return jnp.where(near, cosines, 0), near.sum()


def _join(groups: np.ndarray, pairs: Sequence[np.ndarray]) -> np.ndarray:
  """Gives the rows of pairs [p, 2], and all that they join, one number."""
  n = len(groups)
  ends = np.concatenate([np.stack([np.arange(n), groups], 1), *pairs])
  graph = sparse.coo_array((np.ones(len(ends)), ends.T), (n, n))
  _, labels = csgraph.connected_components(graph, directed=False)
  # A group is named by its first row, so that it stays an edge.
  first = np.unique(labels, return_index=True)[1]
  return first[labels]


# Rows for each cell, and those of them that its centre is learned from. Better
# centres bring hardly more of the near rows together.
_ROWS_OF_CELL, _LEARNED_FROM, _ITERATIONS = 1000, 20, 5


def assign_cells(x: np.ndarray) -> np.ndarray:
  """Assigns each row to the two cells with the nearest centres.

  The centres are those of k-means, by FAISS (Douze et al. 2024). As many rows
  share a cell however many there are, so that comparing those takes a time that
  grows with n alone.

  Args:
    x: [n, d] features, of any length, which may be mapped from a file.

  Returns:
    Cells int32 [n, 2], counted from 0.

  Raises:
    ImportError: without FAISS.
  """
  import faiss

  count = max(2, len(x) // _ROWS_OF_CELL)
  means = faiss.Kmeans(
    x.shape[1],
    count,
    niter=_ITERATIONS,
    min_points_per_centroid=_LEARNED_FROM,
    spherical=True,
    seed=0,
  )
  means.train(unit(x[:: max(1, len(x) // (count * _LEARNED_FROM))]))
  cells = np.zeros((len(x), 2), np.int32)
  for first in range(0, len(x), 1 << 14):
    rows = slice(first, first + (1 << 14))
    # Not by FAISS, whose wheels multiply at half of the speed.
    _, cells[rows] = nearest(unit(x[rows]), means.centroids, k=2)
  return cells


def nearest_cosines(
  x: np.ndarray, y: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the row of y that points most nearly where each row of x does.

  Args:
    x: [n, d] features, of any length.
    y: [m, d]; None looks in x for others than the row itself.

  Returns:
    Cosines float32 [n], and rows of y, int [n].
  """
  others = None if y is None else unit(y)
  distances, rows = nearest(unit(x), others)
  return 1 - distances[:, 0] / 2, rows[:, 0]
