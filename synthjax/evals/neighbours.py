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
  # Small numbers lose less: what both sets have in common is taken off.
  centre = others.mean(0, dtype=np.float64).astype(np.float32)
  columns = fill_up(centred(others, centre), _GROUP)
  side = rows_of_block(len(x), len(columns))
  columns, size = jnp.asarray(columns), len(others)
  found = []
  for first in range(0, len(x), side):
    block = fill_up(centred(x[first : first + side], centre), side)
    own = first if y is None else -side  # nobody's
    found.append(_nearest(block, columns, size, own, k=k))
  distances, rows = (np.concatenate(each) for each in zip(*found, strict=True))
  return distances[: len(x)], rows[: len(x)]


@functools.partial(jax.jit, static_argnames="k")
def _nearest(
  x: jax.Array, y: jax.Array, size: jax.Array, own: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
  """Finds the nearest of a block; `own` is the row of y that is x's first.

  The k nearest lie in the k groups whose nearest members are nearest. So the
  minimum of each group is all that is read of most distances, where a partial
  sort would read and move them all.
  """
  column = jnp.arange(len(y))
  skipped = column >= size
  skipped |= column == (own + jnp.arange(len(x)))[:, None]
  distances = jnp.where(skipped, jnp.inf, squared_distances(x, y))
  groups = distances.reshape(len(x), -1, _GROUP)
  num_groups = min(k, groups.shape[1])
  _, group = jax.lax.top_k(-groups.min(-1), num_groups)  # [n, num_groups]
  near = jnp.take_along_axis(groups, group[:, :, None], axis=1)
  best, place = jax.lax.top_k(-near.reshape(len(x), -1), k)
  group = jnp.take_along_axis(group, place // _GROUP, axis=1)
  return -best, group * _GROUP + place % _GROUP


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns |x|^2 - 2 x.y + |y|^2, [n, m], at least 0."""
  product = jnp.matmul(x, y.T, precision="highest")
  lengths = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)
  return jnp.maximum(lengths - 2 * product, 0.0)


def centred(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
  """Takes [d] off the rows of [n, d], in float32."""
  return np.asarray(x, np.float32) - centre


def fill_up(x: np.ndarray, multiple: int) -> np.ndarray:
  """Adds rows of zeros, so that few shapes are compiled."""
  return np.pad(x, ((0, -len(x) % multiple), (0, 0)))


def rows_of_block(n: int, m: int) -> int:
  """Returns how many rows to compare at once with m others: a power of 2."""
  most = max(_ELEMENTS // m, 8)
  return 2 ** min(int(np.log2(most)), int(np.ceil(np.log2(max(n, 8)))))
