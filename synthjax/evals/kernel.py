"""The kernel distance of two sets of features (KID, Binkowski et al. 2018).

It is the squared maximum mean discrepancy for k(x, y) = (x.y / d + 1)^3. As the
1 cancels out of it, k - 1 is summed, which keeps float32's digits where x.y / d
is small; and rows of zeros, which fill blocks up, add nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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
  within_x = _within(of_x) - _own(x)
  within_y = _within(of_y) - _own(y)
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
  rng, sums, own = np.random.RandomState(seed), [], []
  for _ in range(num_subsets):
    a = np.asarray(x[rng.choice(len(x), size, replace=False)], np.float32)
    b = np.asarray(y[rng.choice(len(y), size, replace=False)], np.float32)
    sums.append(_sums_of_subset(a, b))
    own.append(_own(a) + _own(b))
  sums = np.asarray(sums, np.float64).sum(-1)  # [num_subsets, 3]
  within = sums[:, 0] + sums[:, 1] - np.asarray(own)
  found = within / (size * (size - 1)) - 2 * sums[:, 2] / size**2
  return float(found.mean()), float(found.std())


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


def _own(x: np.ndarray) -> float:
  """Sums k - 1 over the pairs of a row with itself."""
  square = functools.partial(np.einsum, "nd,nd->n", dtype=np.float64)
  product = square(x, x) / x.shape[1]
  return float((product * (3 + product * (3 + product))).sum())


def _total(sums: list[jax.Array]) -> float:
  return float(sum(np.asarray(each, np.float64).sum() for each in sums))


def _blocks(x: np.ndarray, side: int) -> list[jax.Array]:
  """Cuts [n, d] into float32 blocks [side, d], filled up with zeros."""
  blocks = []
  for first in range(0, len(x), side):
    block = np.asarray(x[first : first + side], np.float32)
    blocks.append(jnp.asarray(np.pad(block, ((0, side - len(block)), (0, 0)))))
  return blocks
