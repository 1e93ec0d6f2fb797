"""Times quality measures of image sets beside reference implementations.

  python -m benchmarks.quality [--images=50000] [--features=512] [--json=PATH]

The references compute as clean-fid, torch-fidelity and prdc do, and are written
down here in NumPy, SciPy and PyTorch: a root of the product of covariances,
kernels in subsets, and whole matrices of distances a part at a time.
"""

import numpy as np

from benchmarks import devices, table


def main(argv: list[str] | None = None) -> None:
  flags, add = devices.make_parser(__doc__)
  add("images", 50_000, "rows of either set")
  add("features", 512, "columns")
  args = flags.parse_args(argv)
  device, has_torch = devices.set_up(args.threads)
  clock = devices.clock_of(device)
  from synthjax.evals import image_quality

  rng = np.random.default_rng(0)
  shape = (args.images, args.features)
  x, y = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
  pairs = {
    "Fréchet distance": (image_quality.frechet_distance, _frechet),
    "kernel distance, 100 subsets": (
      image_quality.kernel_distance_of_subsets,
      _kernel,
    ),
    "precision, recall": (
      lambda x, y: image_quality.compare_manifolds(x, y, k=3),
      _precision_recall if has_torch else None,
    ),
  }
  rows = []
  for name, (ours, theirs) in pairs.items():
    ours(x[:2048], y[:2048])  # compiles most of it
    seconds = [_time(f, x, y, clock) if f else None for f in (ours, theirs)]
    rows.append(table.row(name, "s", *seconds, device=device))
  table.show(rows, args.json)


def _time(function, x, y, clock) -> float:
  start = clock()
  function(x, y)
  return clock() - start


def _frechet(x, y) -> float:
  from scipy import linalg

  a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  root = linalg.sqrtm(a @ b).real
  apart = np.square(x.mean(0) - y.mean(0)).sum()
  return float(apart + np.trace(a) + np.trace(b) - 2 * np.trace(root))


def _kernel(x, y, num_subsets: int = 100, size: int = 1000) -> float:
  rng, total = np.random.RandomState(0), 0.0
  size = min(size, len(x))
  for _ in range(num_subsets):
    a, b = (z[rng.choice(len(z), size, replace=False)] for z in (x, y))
    k = lambda p, q: (p @ q.T / p.shape[1] + 1) ** 3
    within = k(a, a) + k(b, b)
    total += (within.sum() - np.trace(within)) / (size - 1) / size
    total -= 2 * k(a, b).mean()
  return total / num_subsets


def _precision_recall(x, y, k: int = 3, part: int = 2000):
  import torch

  real, drawn = torch.from_numpy(x), torch.from_numpy(y)

  def radii(z):
    parts = [torch.cdist(p, z).kthvalue(k + 1).values for p in z.split(part)]
    return torch.cat(parts)

  def inside(rows, balls):
    rims = radii(balls)
    hits = [(torch.cdist(p, balls) <= rims).any(1) for p in rows.split(part)]
    return torch.cat(hits).float().mean().item()

  return inside(drawn, real), inside(real, drawn)


if __name__ == "__main__":
  main()
