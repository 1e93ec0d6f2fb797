"""Flow matching (Lipman et al. 2023; Liu et al. 2023), walked by any sampler.

A latent at the noise level s, 0 to 1, is (1 - s) x_0 + s eps, and the network
predicts the velocity eps - x_0. Divided by sqrt((1 - s)^2 + s^2), it is the x_t
of a `Schedule` of the same signal and noise. There, a step of `samplers.euler`
is Euler's step along the velocity, and the solvers of few steps read the ratio
of signal and noise alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.diffusion import schedule
from synthjax.diffusion.guidance import Denoiser, Predictor

TIMES = 1000  # timestep of noise alone


def noise_levels(num_steps: int, shift: float) -> np.ndarray:
  """Returns the levels [S] that a walk keeps, ascending; the last is 1.

  Evenly spaced levels would be 1/S to 1. Larger images need more noise to be
  hidden as much (Esser et al. 2024, Section 5.3.2): the odds of each level are
  multiplied by exp(shift).
  """
  even = np.arange(1, num_steps + 1) / num_steps
  return 1 / (1 + np.exp(-shift) * (1 / even - 1))


def flux2_shift(num_places: int, num_steps: int) -> float:
  """Returns the shift that FLUX.2 is published with.

  Two lines in the number of places, for 10 and for 200 steps, between which the
  number of steps interpolates; large images have the latter's.
  """
  at_10 = 8.73809524e-05 * num_places + 1.89833333
  at_200 = 0.00016927 * num_places + 0.45666666
  if num_places > 4300:
    return at_200
  return at_200 + (at_200 - at_10) * (num_steps - 200) / 190


def steps(levels: np.ndarray) -> schedule.Schedule:
  """Builds the tables of noise levels [S], ascending, above 0 and up to 1."""
  levels = np.asarray(levels, np.float64)
  alpha_bar = ((1 - levels) / _length(levels)) ** 2
  before = np.append(1.0, alpha_bar[:-1])
  return schedule.tables(TIMES * levels, 1 - alpha_bar / before)


def denoiser(predict: Predictor) -> Denoiser:
  """Turns a predictor of velocities into a denoiser for samplers.

  Args:
    predict: (x [n, h, w, c], t [n], 0 to TIMES) -> eps - x_0 of
      x = (1 - s) x_0 + s eps, where s is t / TIMES.

  Returns:
    A denoiser that does not clip x_0, and has the lower variance throughout.
  """

  def denoise(x, t):
    level = (t / TIMES).reshape((len(x),) + (1,) * (x.ndim - 1))
    x = x * _length(level)
    return x - level * predict(x, t), jnp.zeros_like(level)

  return denoise


def noise_of(t: jax.Array) -> jax.Array:
  """Returns the share of noise in x_t of a `Schedule`; t is 0 to TIMES."""
  level = t / TIMES
  return level / _length(level)


def _length(level):
  return ((1 - level) ** 2 + level**2) ** 0.5
