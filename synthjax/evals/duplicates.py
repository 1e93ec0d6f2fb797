"""Images of a set that are nearly the same, or nearly those of another set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from synthjax.evals import neighbours
from synthjax.evals.neighbours import unit

_SIDE = 2048  # rows and columns of a block


class Duplicates(NamedTuple):
  """Pairs of rows whose cosine reaches the threshold."""

  num_pairs: int
  pairs: np.ndarray  # [p, 2] int: the nearest of them, nearest first
  cosines: np.ndarray  # [p] float32
  groups: np.ndarray  # [n] int: rows that pairs join have one number


def near_duplicates(
  x: np.ndarray, *, threshold: float, limit: int = 100
) -> Duplicates:
  """Finds rows that point the same way, among all pairs.

  Args:
    x: [n, d] features, of any length.
    threshold: the least cosine of a pair, above 0.
    limit: of the pairs that are returned; all are counted.
  """
  if not threshold > 0:
    raise ValueError(f"threshold={threshold} must be above 0.")
  n, side = len(x), min(_SIDE, len(x))
  rows = neighbours.fill_up(unit(x), side)  # a zero's cosines are 0
  blocks = [jnp.asarray(rows[i : i + side]) for i in range(0, len(rows), side)]
  count, pairs, cosines = 0, np.zeros((0, 2), int), np.zeros(0, np.float32)
  groups = np.arange(n)
  for i, a in enumerate(blocks):
    for j, b in enumerate(blocks[i:], start=i):
      near, size = _compare(a, b, threshold, i == j)
      if not size:  # most blocks are never fetched
        continue
      near = np.asarray(near)
      places = np.argwhere(near > 0)
      cosines = np.concatenate([cosines, near[tuple(places.T)]])
      places += [i * side, j * side]
      groups = _join(groups, places)
      count += len(places)
      pairs = np.concatenate([pairs, places])
      order = np.argsort(-cosines, kind="stable")[:limit]
      pairs, cosines = pairs[order], cosines[order]
  return Duplicates(count, pairs, cosines, groups)


@jax.jit
def _compare(
  x: jax.Array, y: jax.Array, threshold: jax.Array, same: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines that reach the threshold, else 0, and their number."""
  cosines = jnp.matmul(x, y.T, precision="highest")
  later = jnp.arange(len(y)) > jnp.arange(len(x))[:, None]
  near = (cosines >= threshold) & (later | ~same)
  return jnp.where(near, cosines, 0), near.sum()


def _join(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
  """Gives the rows of each pair, and all that they join, one number."""
  n = len(groups)
  ends = np.concatenate([np.stack([np.arange(n), groups], 1), pairs])
  graph = sparse.coo_array((np.ones(len(ends)), ends.T), (n, n))
  _, labels = csgraph.connected_components(graph, directed=False)
  # A group is named by its first row, so that it stays an edge.
  first = np.unique(labels, return_index=True)[1]
  return first[labels]


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
  distances, rows = neighbours.nearest(unit(x), others)
  return 1 - distances[:, 0] / 2, rows[:, 0]
