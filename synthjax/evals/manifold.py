"""How two sets of features cover each other, by balls around their rows.

Precision and recall of Kynkäänniemi et al. 2019, Section 2; density and
coverage of Naeem et al. 2020, Section 3. The ball of a row reaches to its k-th
nearest row of its own set, and its rim is outside, as in the code of Naeem et
al.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.evals import neighbours


class Manifold(NamedTuple):
  """All in 0..1 but density, which may be above 1."""

  precision: float  # generated rows that lie in the ball of a real one
  recall: float  # real rows that lie in the ball of a generated one
  density: float  # of real balls that a generated row lies in, over k
  coverage: float  # real rows whose ball has a generated one


def compare(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> Manifold:
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
