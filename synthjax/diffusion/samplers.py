"""Samplers: walks from noise to images that see nothing but a denoiser.

A denoiser maps (x_t [n, h, w, c], t [n]) to x_0 of the same shape and to where
the step's log variance lies between its bounds, 0 (lower) to 1 (upper).
Classifier-free guidance, clipping and what the network predicts all hide in it.
Guidance by a classifier is a `cond_fn` beside it: Dhariwal & Nichol (2021),
Section 4. Every walk is one `lax.scan`, from the schedule's last step to its
first. Those of few steps are in `solvers`.
"""

import jax
import jax.numpy as jnp

from synthjax.diffusion.denoiser import CondFn, Denoiser, Noise
from synthjax.diffusion.schedule import Schedule
from synthjax.diffusion.solvers import dpmpp_2m, unipc


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


def diffuse(
  x0: jax.Array, noise: jax.Array, schedule: Schedule, step: int
) -> jax.Array:
  """Noises images up to a kept step: q(x_t | x_0), Eq. 4 of Ho et al."""
  alpha_bar = float(schedule.alpha_bar[step])
  return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


def _walk(step, x, schedule):
  """Scans `step` over the schedule, noisiest first."""
  tables = Schedule(
    jnp.asarray(schedule.timestep, jnp.int32),
    *(jnp.asarray(table, jnp.float32) for table in schedule[1:]),
  )
  index = jnp.arange(len(schedule.timestep))
  return jax.lax.scan(step, x, (index, tables), reverse=True)[0]


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

  return _walk(step, x, schedule)


def ddim(
  denoise: Denoiser,
  schedule: Schedule,
  x: jax.Array,
  noise: Noise,
  *,
  eta: float = 0.0,
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

  return _walk(step, x, schedule)


SAMPLERS = {
  "ancestral": ancestral,
  "ddim": ddim,
  "dpmpp_2m": dpmpp_2m,
  "unipc": unipc,
}
