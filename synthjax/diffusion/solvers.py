"""Multistep solvers of the probability-flow ODE: good images in few steps.

Both predict x_0, and are exact where the denoiser is constant. With
x_t = alpha x_0 + sigma eps and lambda = log(alpha / sigma), a step of length h
in lambda, from s to t, is

  x_t = sigma_t / sigma_s x_s + alpha_t (1 - exp(-h)) D,

and the solvers differ in the D that they put together from the x_0 predicted
at this step and at those before it. Every walk is one `lax.scan` over tables
made in float64; a step whose target is free of noise gives D itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.diffusion.denoiser import CondFn, Denoiser, Noise
from synthjax.diffusion.schedule import Schedule


class Predictor(NamedTuple):
  """Each step down from a kept step: x is `keep` x + `take` D, arrays [S].

  D is x_0 plus `extrapolate` times its change since the step before.
  """

  keep: np.ndarray
  take: np.ndarray
  extrapolate: np.ndarray  # 0 at both ends, which are of first order


class Corrector(NamedTuple):
  """Each step into a kept step, once more, knowing x_0 there; arrays [S].

  D is the x_0 of the step's start, plus `back` times its change since the step
  before that, plus `ahead` times the change to its end.
  """

  keep: np.ndarray
  take: np.ndarray
  back: np.ndarray
  ahead: np.ndarray


def predictor(schedule: Schedule) -> Predictor:
  """Tabulates DPM-Solver++(2M) of Lu et al. (2022), Algorithm 2, in float64."""
  alpha, sigma = _signal_and_noise(schedule.alpha_bar)
  next_alpha, next_sigma = _signal_and_noise(schedule.alpha_bar_prev)
  h = _lengths(schedule)
  extrapolate = np.zeros_like(h)
  # 1 / (2r) of the paper; the last step is of first order, as is usual, and
  # the first, as nothing comes before it.
  extrapolate[1:-1] = h[1:-1] / (2 * h[2:])
  return Predictor(next_sigma / sigma, -next_alpha * np.expm1(-h), extrapolate)


def corrector(schedule: Schedule) -> Corrector:
  """Tabulates UniC-2 of Zhao et al. (2023), with B(h) = exp(h) - 1, in float64.

  The weights solve the paper's order conditions for the prediction of x_0,
  where h changes its sign. Nothing leads into the noisiest kept step: its row
  is 0. The step after it knows one x_0 alone, and is UniC-1.
  """
  keep, take, _ = predictor(schedule)
  h = _lengths(schedule)[1:]  # of the steps into all others
  back, ahead = np.zeros_like(h), np.full_like(h, 0.5)
  # phi_1 and phi_2 at -h, over B.
  scale = np.expm1(-h)
  phi_1 = scale / -h - 1
  phi_2 = phi_1 / -h - 0.5
  b_1, b_2 = (phi_1 / scale)[:-1], (2 * phi_2 / scale)[:-1]
  r = -h[1:] / h[:-1]  # where the step before lies, in lambda
  share = (b_1 - b_2) / (1 - r)
  back[:-1], ahead[:-1] = -share / r, b_1 - share
  # A kept step's row tells of the step into it, which the predictor's table
  # has one row later.
  return Corrector(
    *(np.append(row, 0.0) for row in (keep[1:], take[1:], back, ahead))
  )


def _signal_and_noise(alpha_bar):
  return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def _lengths(schedule):
  """Returns the length of each step in lambda; that to no noise is infinite."""
  half_logit = lambda p: 0.5 * (np.log(p) - np.log1p(-p))
  with np.errstate(divide="ignore"):
    return half_logit(schedule.alpha_bar_prev) - half_logit(schedule.alpha_bar)


def dpmpp_2m(
  denoise: Denoiser,
  schedule: Schedule,
  x: jax.Array,
  noise: Noise | None = None,
  *,
  cond_fn: CondFn | None = None,
) -> jax.Array:
  """Walks by DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2).

  Args:
    denoise: see `denoiser`.
    schedule: S kept steps.
    x: float32 [n, h, w, c] at the schedule's last step: noise, or a real image
      noised up to it (real guidance).
    noise: not drawn, as the walk has none but its start.
    cond_fn: is added to the score, as in `sample.ddim`.

  Returns:
    float32 [n, h, w, c].
  """
  del noise
  x0_of = _guided(denoise, cond_fn)

  def step(carry, inputs):
    x, last = carry
    s, table = inputs
    x0 = x0_of(x, s)
    return (_predict(x, x0, last, table), x0), None

  carry = x, jnp.zeros_like(x)
  return _scan(step, carry, schedule, predictor(schedule))[0]


def unipc(
  denoise: Denoiser,
  schedule: Schedule,
  x: jax.Array,
  noise: Noise | None = None,
  *,
  cond_fn: CondFn | None = None,
) -> jax.Array:
  """Walks by UniPC of order 2 (Zhao et al. 2023): predicts, then corrects.

  The prediction is that of `dpmpp_2m`. Correcting reads x_0 at the predicted
  point, which the next step needs anyway, so that it costs no evaluation more.
  Args and result are those of `dpmpp_2m`.
  """
  del noise
  x0_of = _guided(denoise, cond_fn)
  is_noisiest = np.arange(len(schedule.timestep)) == len(schedule.timestep) - 1

  def step(carry, inputs):
    x, start, last, before = carry  # predicted here; corrected, x_0 at s + 1
    s, table, fix, first = inputs
    x0 = x0_of(x, s)
    d = last + fix.back * (last - before) + fix.ahead * (x0 - last)
    x = jnp.where(first, x, fix.keep * start + fix.take * d)
    return (_predict(x, x0, last, table), x, x0, last), None

  zeros = jnp.zeros_like(x)
  return _scan(
    step,
    (x, zeros, zeros, zeros),
    schedule,
    predictor(schedule),
    corrector(schedule),
    is_noisiest,
  )[0]


def _guided(denoise, cond_fn):
  """Returns (x, row of the schedule) -> x_0, shifted towards the guidance."""

  def x0_of(x, s):
    t = jnp.full(len(x), s.timestep)
    x0, _ = denoise(x, t)
    if cond_fn:
      # The noise is the score times -sigma, and x = alpha x_0 + sigma noise.
      ratio = (1 - s.alpha_bar) / jnp.sqrt(s.alpha_bar)
      x0 = x0 + ratio * cond_fn(x, t)
    return x0

  return x0_of


def _predict(x, x0, last, table):
  d = x0 + table.extrapolate * (x0 - last)
  return table.keep * x + table.take * d


def _scan(step, carry, *tables):
  """Scans `step` over rows of the tables, noisiest first."""
  rows = jax.tree.map(
    lambda x: x if x.dtype.kind in "ib" else jnp.asarray(x, jnp.float32), tables
  )
  return jax.lax.scan(step, carry, rows, reverse=True)[0]
