"""How latent diffusion models are walked: their schedule and predictions.

Rombach et al. (2022). Latents have no range, so x_0 is not clipped; the
networks predict no variance; and the trained steps that a walk keeps are chosen
in one of several ways, called the spacing.
"""

import jax.numpy as jnp
import numpy as np

from synthjax.diffusion import schedule
from synthjax.diffusion.guidance import Denoiser, Predictor
from synthjax.diffusion.schedule import Schedule
from synthjax.runtime.errors import UserError


def scaled_linear(
  first: float = 0.00085, last: float = 0.012, num_steps: int = 1000
) -> np.ndarray:
  """Returns betas [T] whose square roots are evenly spaced, float64."""
  return np.linspace(first**0.5, last**0.5, num_steps) ** 2


def linear(first: float, last: float, num_steps: int = 1000) -> np.ndarray:
  """Returns evenly spaced betas [T], float64."""
  return np.linspace(first, last, num_steps)


BETAS = {"scaled_linear": scaled_linear, "linear": linear}


def _leading(count: int, num_steps: int, offset: int) -> np.ndarray:
  return np.arange(count) * (num_steps // count) + offset


def _trailing(count: int, num_steps: int, offset: int) -> np.ndarray:
  del offset  # the noisiest step is kept as it is
  kept = np.arange(num_steps, 0, -num_steps / count)[:count]
  return np.round(kept)[::-1] - 1


def _linspace(count: int, num_steps: int, offset: int) -> np.ndarray:
  del offset
  return np.round(np.linspace(0, num_steps - 1, count))


# (kept steps, trained steps, offset) -> timesteps, ascending. The released
# models come with "leading" and an offset of 1. See Lin et al. (2023), Table 2.
# Each step leads to the next kept one. DDIM of diffusers leads T // S down in
# place of that, which is another step where S does not divide T.
SPACINGS = {"leading": _leading, "trailing": _trailing, "linspace": _linspace}


def kept_timesteps(
  respacing: str | int, betas: np.ndarray, *, spacing: str, offset: int
) -> np.ndarray:
  """Chooses which of the trained steps a sampler walks.

  Args:
    respacing: a number of steps, spaced as `spacing` says; or anything else
      that `schedule.kept_timesteps` reads, such as "20<900", as said there.
    betas: [T] of the training schedule.
    spacing: of SPACINGS.
    offset: added to the timesteps of "leading".

  Returns:
    int [S], ascending.

  Raises:
    UserError: about more steps than there are.
  """
  num_steps = len(betas)
  if not str(respacing).isdecimal():
    return schedule.kept_timesteps(respacing, num_steps, betas)
  count = int(respacing)
  if not 1 <= count <= num_steps:
    raise UserError(
      f"respacing={respacing}: {num_steps} steps were trained, so 1 to "
      f"{num_steps} can be kept."
    )
  kept = SPACINGS[spacing](count, num_steps, offset).astype(int)
  if kept[-1] >= num_steps:
    raise UserError(
      f"respacing={respacing} with the spacing {spacing!r} and an offset of "
      f"{offset} keeps step {kept[-1]}, but only 0 to {num_steps - 1} were "
      "trained: keep fewer steps."
    )
  return kept


def ending_at(steps: Schedule, alpha_bar: float) -> Schedule:
  """Ends DDIM's walk at some noise, in place of a clean latent.

  With the released models it ends at the first trained step (diffusers'
  `set_alpha_to_one=False`). Only the tables that a walk without noise of its
  own reads are changed.

  Args:
    steps: tables [S].
    alpha_bar: where the walk ends.
  """
  alpha_bar_prev = np.append(alpha_bar, steps.alpha_bar_prev[1:])
  return steps._replace(alpha_bar_prev=alpha_bar_prev)


def start_deviation(steps: Schedule, spacing: str) -> float:
  """Returns the deviation of the noise that Euler's walks start from.

  As in diffusers, the first step's unless the spacing is "leading"; that of all
  other samplers is 1.
  """
  return 1.0 if spacing == "leading" else (1 - steps.alpha_bar[-1]) ** 0.5


# What a network may predict, as (signal, noise) -> x_0's weights of x_t and of
# the prediction, for x_t = signal * x_0 + noise * eps. The velocity (Salimans &
# Ho 2022, Section 4) is signal * eps - noise * x_0.
PREDICTIONS = {
  "epsilon": lambda signal, noise: (1 / signal, -noise / signal),
  "v_prediction": lambda signal, noise: (signal, -noise),
  "sample": lambda signal, noise: (0 * signal, 1 + 0 * noise),
}

# The same as the weights of x_0 and of eps, which make what is predicted.
TARGETS = {
  "epsilon": lambda signal, noise: (0 * signal, 1 + 0 * noise),
  "v_prediction": lambda signal, noise: (-noise, signal),
  "sample": lambda signal, noise: (1 + 0 * signal, 0 * noise),
}


def denoiser(
  predict: Predictor, betas: np.ndarray, prediction: str
) -> Denoiser:
  """Turns a predictor into a denoiser for samplers.

  Args:
    predict: what PREDICTIONS names, [n, h, w, c].
    betas: [T] of the training schedule.
    prediction: of PREDICTIONS.

  Returns:
    A denoiser that does not clip x_0, and has the lower variance throughout.
  """
  alpha_bar = np.cumprod(1 - np.asarray(betas, np.float64))
  weights = PREDICTIONS[prediction](np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))
  of_x, of_out = (jnp.asarray(table, jnp.float32) for table in weights)

  def denoise(x, t):
    shape = (len(x),) + (1,) * (x.ndim - 1)
    x0 = of_x[t].reshape(shape) * x + of_out[t].reshape(shape) * predict(x, t)
    return x0, jnp.zeros(shape)

  return denoise
