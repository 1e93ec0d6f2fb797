"""Scaling curves: what more images would give, said before they are drawn.

The accuracy of n images is fitted by a - b n^-c: it approaches a, the faster
the larger c. A forecast has an interval by the bootstrap over seeds; it says
nothing of test sets, nor of other curves than this one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from synthjax.config.schema import Count, Share

# Exponents that are tried. Published curves of error have 0.05 to 1; above 3,
# doubling leaves an eighth of the gap, and the curve is flat.
_EXPONENTS = np.geomspace(0.02, 3, 1000)
_RESAMPLES = 1000
MIN_SIZES = 3  # as many as the law has parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
  """The block `scaling`: whether to draw more images."""

  up_to: Count  # images a class, that the forecast is of
  min_gain: Share = 0.01  # of accuracy, below which they are not worth it


class PowerLaw(NamedTuple):
  """Accuracy in 0..1 of n images: a - b n^-c."""

  a: Any
  b: Any  # at least 0
  c: Any

  def __call__(self, n: Any) -> Any:
    return self.a - self.b * np.asarray(n, np.float64) ** -self.c


def fit(sizes: Sequence[int], accuracies: Any) -> PowerLaw:
  """Fits a law to each row by least squares; it rises, to 1 at most.

  For a given exponent the other two have a closed form, so that the best of all
  exponents is found, and no start is needed.

  Args:
    sizes: [s] numbers of images, at least three different ones.
    accuracies: [..., s] in 0..1.

  Returns:
    Parameters [...].

  Raises:
    ValueError: about fewer sizes.
  """
  sizes = np.asarray(sizes, np.float64)
  if len({*sizes.tolist()}) < MIN_SIZES:
    raise ValueError(
      f"found the sizes {sizes.tolist()}: a power law has three parameters, "
      f"and needs {MIN_SIZES} different numbers of images."
    )
  y = np.asarray(accuracies, np.float64)[..., None, :]  # [..., 1, s]
  # By a middle size, so that no power is tiny: b n^-c = b' (n / n0)^-c.
  middle = np.exp(np.log(sizes).mean())
  x = (sizes / middle) ** -_EXPONENTS[:, None]  # [exponents, s]
  deviation = x - x.mean(-1, keepdims=True)
  slope = -(y * deviation).sum(-1) / (deviation**2).sum(-1)  # [..., exponents]
  b = np.maximum(slope, 0)
  a = y.mean(-1) + b * x.mean(-1)
  # Where that is above 1, the best that ends at 1.
  b = np.where(a > 1, ((1 - y) * x).sum(-1) / (x**2).sum(-1), b)
  a = np.minimum(a, 1)
  errors = ((y - a[..., None] + b[..., None] * x) ** 2).sum(-1)
  best = errors.argmin(-1)[..., None]
  at = lambda values: np.take_along_axis(values, best, -1)[..., 0]
  c = _EXPONENTS[best[..., 0]]
  return PowerLaw(at(a), at(b) * middle**c, c)


class Forecast(NamedTuple):
  """What `size` images would give over the most that were measured."""

  law: PowerLaw  # of the means over seeds
  size: int
  accuracy: float
  gain: float
  low: float  # ends of the interval of the gain
  high: float


def forecast(
  sizes: Sequence[int],
  accuracies: np.ndarray,
  size: int,
  *,
  confidence: float = 0.95,
) -> Forecast:
  """Forecasts the accuracy of more images.

  Args:
    sizes: [s] numbers of images, at least three different ones.
    accuracies: [seeds, s] in 0..1, of at least two seeds.
    size: to forecast.
    confidence: of the interval.

  Raises:
    ValueError: about fewer sizes or seeds.
  """
  accuracies = np.asarray(accuracies, np.float64)
  if len(accuracies) < 2:
    raise ValueError(
      f"found {len(accuracies)} seed; an interval by the bootstrap needs at "
      "least 2."
    )
  law = fit(sizes, accuracies.mean(0))
  # Of the curve itself on both sides: the noise of the last size is no gain.
  gain = lambda law: law(size) - law(max(sizes))
  draws = np.random.default_rng(0).integers(
    len(accuracies), size=(_RESAMPLES, len(accuracies))
  )
  gains = gain(fit(sizes, accuracies[draws].mean(1)))
  ends = (1 - confidence) / 2, (1 + confidence) / 2
  low, high = np.quantile(gains, ends)
  return Forecast(
    PowerLaw(*map(float, law)),
    size,
    float(law(size)),
    float(gain(law)),
    float(low),
    float(high),
  )


def verdict(found: Forecast, min_gain: float) -> str:
  """Returns "stop", "go on", or "unsure" where the interval has both."""
  if found.high < min_gain:
    return "stop"
  return "go on" if found.low >= min_gain else "unsure"


def curves(
  rows: Sequence[Mapping[str, Any]],
  sizes_of: Mapping[str, Mapping[str, int]],
  fields: Scaling,
  *,
  split: str,
) -> list[dict[str, Any]]:
  """Forecasts each curve of a run.

  Args:
    rows: of arm, seed, and accuracy: split -> share.
    sizes_of: curve -> arm -> images a class.
    fields: up to which size, and what gain is worth it.
    split: of the accuracies; nothing is to be chosen by "test".

  Returns:
    Dicts of curve, sizes, mean (of each size), the fields of `Forecast`, and
    verdict.
  """
  found = []
  for curve, sizes in sizes_of.items():
    measured = np.array(
      [
        [row["accuracy"][split] for row in rows if row["arm"] == arm]
        for arm in sizes
      ]
    ).T  # [seeds, sizes]
    expected = forecast([*sizes.values()], measured, fields.up_to)
    found.append(
      {"curve": curve, "sizes": [*sizes.values()]}
      | {"mean": measured.mean(0).tolist()}
      | expected._asdict()
      | {"law": expected.law._asdict()}
      | {"verdict": verdict(expected, fields.min_gain)}
    )
  return found


def describe(curve: Mapping[str, Any], min_gain: float) -> str:
  """Says what more images would give, and whether to draw them."""
  gain, low, high = (100 * curve[name] for name in ("gain", "low", "high"))
  return (
    f"{curve['curve']}: {curve['size']:,} images a class would have "
    f"{curve['accuracy']:.1%}, {gain:+.1f} points over {max(curve['sizes']):,} "
    f"({low:+.1f} to {high:+.1f}); worth it from {100 * min_gain:.1f}: "
    f"{curve['verdict']}"
  )
