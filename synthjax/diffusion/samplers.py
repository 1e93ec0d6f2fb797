"""Samplers: walks from noise to images that see a denoiser and no network.

A denoiser maps (x_t [n, h, w, c], t [n]) to x_0 of the same shape and to where
the step's log variance lies between its bounds, 0 (lower) to 1 (upper).
Classifier-free guidance, clipping and the kind of prediction all hide in it.
Guidance by a classifier is a `cond_fn` beside it: Dhariwal & Nichol (2021),
Section 4. Every walk is one `lax.scan`, from the schedule's last step to its
first.

Multistep solvers of the probability-flow ODE draw good images in few steps.
Both predict x_0, and are exact where the denoiser is constant. With
x_t = alpha x_0 + sigma eps and lambda = log(alpha / sigma), a step of length h
in lambda, from s to t, is

  x_t = sigma_t / sigma_s x_s + alpha_t (1 - exp(-h)) D,

and the solvers differ in the D that they put together from the x_0 predicted
at this step and at those before it. Their tables are made in float64; a step
whose target is free of noise gives D itself.

To add a sampler, write it here and name it in SAMPLERS, or give the dotted path
of one of your own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.config import schema
from synthjax.config.schema import Choice, Share
from synthjax.diffusion.guidance import CondFn, Denoiser, Noise
from synthjax.diffusion.schedule import Schedule


def image_noise(rngs: jax.Array, shape: tuple[int, ...]) -> Noise:
  """Draws each image's noise from its own key, whatever its batch.

  Args:
    rngs: [n] keys, one for each image.
    shape: of one image, [h, w, c].

  Returns:
    Maps a step index to float32 noise [n, h, w, c].
  """

  def draw(step):
    def one(rng):
      return jax.random.normal(jax.random.fold_in(rng, step), shape)

    return jax.vmap(one)(rngs)

  return draw


def start_noise(rngs: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Draws where each image's walk starts: float32 [n, h, w, c]; rngs [n]."""
  return jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs)


def diffuse(
  x0: jax.Array, noise: jax.Array, schedule: Schedule, step: int
) -> jax.Array:
  """Noises images up to a kept step: q(x_t | x_0), Eq. 4 of Ho et al."""
  alpha_bar = float(schedule.alpha_bar[step])
  return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


def walk(step: Callable, carry: Any, schedule: Schedule, *tables: Any) -> Any:
  """Scans a step over the schedule, noisiest first.

  Args:
    step: (carry, (index, row of the schedule, row of each table)) -> the next
      carry, and None.
    carry: where the walk starts, such as x.
    schedule: S kept steps.
    *tables: further arrays [S], or tuples of them.

  Returns:
    The last carry.
  """
  rows = np.arange(len(schedule.timestep)), schedule, *tables
  rows = jax.tree.map(  # integers and flags stay what they are
    lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else None), rows
  )
  return jax.lax.scan(step, carry, rows, reverse=True)[0]


def ancestral(
  denoise: Denoiser,
  schedule: Schedule,
  x: jax.Array,
  noise: Noise,
  *,
  cond_fn: CondFn | None = None,
) -> jax.Array:
  """Walks by sampling each posterior (Ho et al. 2020, Algorithm 2).

  Args:
    denoise: see the module's docstring.
    schedule: S kept steps.
    x: float32 [n, h, w, c] at the schedule's last step: noise, or a real image
      noised up to it (real guidance).
    noise: draws the noise that a step adds; step 0 adds none.
    cond_fn: moves each mean by the variance times its gradient (Algorithm 1 of
      Dhariwal & Nichol).

  Returns:
    float32 [n, h, w, c].
  """

  def step(x, inputs):
    index, s = inputs
    t = jnp.full(len(x), s.timestep)
    x0, v = denoise(x, t)
    mean = s.mean_coef_x0 * x0 + s.mean_coef_x * x
    log_variance = v * jnp.log(s.beta) + (1 - v) * s.log_variance
    if cond_fn:
      mean = mean + jnp.exp(log_variance) * cond_fn(x, t)
    sigma = jnp.where(index > 0, jnp.exp(0.5 * log_variance), 0.0)
    return mean + sigma * noise(index), None

  return walk(step, x, schedule)


def ddim(
  denoise: Denoiser,
  schedule: Schedule,
  x: jax.Array,
  noise: Noise,
  *,
  eta: Share = 0.0,
  cond_fn: CondFn | None = None,
) -> jax.Array:
  """Walks along the implicit process (Song et al. 2021, Eq. 12).

  Args and result are those of `ancestral`; `eta` is the share of the ancestral
  noise that is added, 0 for none. `cond_fn` is added to the score (Algorithm 2
  of Dhariwal & Nichol); the x_0 that follows is not clipped again.
  """

  def step(x, inputs):
    index, s = inputs
    t = jnp.full(len(x), s.timestep)
    x0, _ = denoise(x, t)
    # Anew from x_0, which may have been clipped.
    eps = (x - jnp.sqrt(s.alpha_bar) * x0) / jnp.sqrt(1 - s.alpha_bar)
    if cond_fn:
      # The noise is the score times -sqrt(1 - alpha_bar).
      eps = eps - jnp.sqrt(1 - s.alpha_bar) * cond_fn(x, t)
      x0 = (x - jnp.sqrt(1 - s.alpha_bar) * eps) / jnp.sqrt(s.alpha_bar)
    prev = s.alpha_bar_prev
    sigma = eta * jnp.sqrt((1 - prev) / (1 - s.alpha_bar) * s.beta)
    toward = jnp.sqrt(jnp.maximum(1 - prev - sigma**2, 0.0))
    x = jnp.sqrt(prev) * x0 + toward * eps
    if eta:
      x = x + sigma * noise(index)
    return x, None

  return walk(step, x, schedule)


def euler(
  denoise: Denoiser,
  schedule: Schedule,
  x: jax.Array,
  noise: Noise,
  *,
  cond_fn: CondFn | None = None,
) -> jax.Array:
  """Walks by Euler's method in x / sqrt(alpha_bar) = x_0 + sigma eps.

  There, sigma^2 is 1 / alpha_bar - 1 (Karras et al. 2022), and a step goes
  along eps to the next sigma: that is DDIM's (Song et al. 2021, Section 4.3),
  but for where latent diffusion starts and ends. Args and result are those of
  `ancestral`.
  """
  return ddim(denoise, schedule, x, noise, cond_fn=cond_fn)


def euler_ancestral(
  denoise: Denoiser,
  schedule: Schedule,
  x: jax.Array,
  noise: Noise,
  *,
  cond_fn: CondFn | None = None,
) -> jax.Array:
  """Walks as `euler`, but further down, and adds noise up to the next sigma.

  That is as much as DDIM adds with eta = 1.
  """
  return ddim(denoise, schedule, x, noise, eta=1.0, cond_fn=cond_fn)


# --- solvers of few steps ----------------------------------------------------


class Prediction(NamedTuple):
  """Each step down from a kept step: x is `keep` x + `take` D, arrays [S].

  D is x_0 plus `extrapolate` times its change since the step before.
  """

  keep: np.ndarray
  take: np.ndarray
  extrapolate: np.ndarray  # 0 at both ends, which are of first order


class Correction(NamedTuple):
  """Each step into a kept step, once more, knowing x_0 there; arrays [S].

  D is the x_0 of the step's start, plus `back` times its change since the step
  before that, plus `ahead` times the change to its end.
  """

  keep: np.ndarray
  take: np.ndarray
  back: np.ndarray
  ahead: np.ndarray


def predictor(schedule: Schedule) -> Prediction:
  """Tabulates DPM-Solver++(2M) of Lu et al. (2022), Algorithm 2, in float64."""
  alpha, sigma = _signal_and_noise(schedule.alpha_bar)
  next_alpha, next_sigma = _signal_and_noise(schedule.alpha_bar_prev)
  h = _lengths(schedule)
  extrapolate = np.zeros_like(h)
  # 1 / (2r) of the paper; the last step is of first order, as is usual, and
  # the first, as nothing comes before it.
  extrapolate[1:-1] = h[1:-1] / (2 * h[2:])
  return Prediction(next_sigma / sigma, -next_alpha * np.expm1(-h), extrapolate)


def corrector(schedule: Schedule) -> Correction:
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
  # A row here is the step into its kept step; the predictor's table has that
  # step one row later.
  return Correction(
    *(np.append(row, 0.0) for row in (keep[1:], take[1:], back, ahead))
  )


def _signal_and_noise(alpha_bar):
  return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def _lengths(schedule):
  """Returns the length of each step in lambda; infinite if it removes all."""
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
    denoise: see the module's docstring.
    schedule: S kept steps.
    x: float32 [n, h, w, c] at the schedule's last step: noise, or a real image
      noised up to it (real guidance).
    noise: not drawn, as the walk has none but its start.
    cond_fn: is added to the score, as in `ddim`.

  Returns:
    float32 [n, h, w, c].
  """
  del noise
  x0_of = _guided(denoise, cond_fn)

  def step(carry, inputs):
    x, last = carry
    _, s, table = inputs
    x0 = x0_of(x, s)
    return (_predict(x, x0, last, table), x0), None

  carry = x, jnp.zeros_like(x)
  return walk(step, carry, schedule, predictor(schedule))[0]


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
    _, s, table, fix, first = inputs
    x0 = x0_of(x, s)
    d = last + fix.back * (last - before) + fix.ahead * (x0 - last)
    x = jnp.where(first, x, fix.keep * start + fix.take * d)
    return (_predict(x, x0, last, table), x, x0, last), None

  zeros = jnp.zeros_like(x)
  return walk(
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


# A keyword argument is an option of its sampler, and its annotation the rule.
# Identities hold options that a config gives: a new default needs a new name.
SAMPLERS = {
  "ancestral": ancestral,
  "ddim": ddim,
  "dpmpp_2m": dpmpp_2m,
  "euler": euler,
  "euler_ancestral": euler_ancestral,
  "unipc": unipc,
}
# A block of a config: a name of SAMPLERS or a dotted path, alone or beside the
# options of the sampler. It becomes a `functools.partial`.
SAMPLER = Choice(
  "name", SAMPLERS, filled=("denoise", "schedule", "x", "noise", "cond_fn")
)


def identify(sampler: functools.partial) -> str | dict[str, Any]:
  """Returns plain data that identifies samplers of SAMPLER and their options.

  A sampler without options is its name.
  """
  for name in SAMPLERS:
    if schema.resolve(name, SAMPLERS) is sampler.func:
      break
  else:
    name = f"{sampler.func.__module__}.{sampler.func.__qualname__}"
  options = sampler.keywords
  return {"name": name, **options} if options else name
