"""Multistep solvers against closed forms, the papers' formulas and a library.

The golden case "multistep_solvers" is what `diffusers` (its version is in the
case) returns for the denoiser of `two_modes`: DPMSolverMultistepScheduler with
algorithm_type="dpmsolver++", and UniPCMultistepScheduler with bh2, both of
order 2 in float64, with prediction_type="sample", timestep_spacing="trailing"
and final_sigmas_type="zero". Recorded are every x that was denoised, and the
last.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.diffusion import samplers, schedule
from synthjax.runtime.errors import UserError

BETAS = schedule.squared_cosine()
SOLVERS = {"dpmpp_2m": samplers.dpmpp_2m, "unipc": samplers.unipc}
MEAN, STD = 0.3, 0.2


def gaussian(betas, std=STD):
  """Returns the best denoiser of x_0 ~ N(MEAN, std^2)."""
  table = jnp.asarray(np.cumprod(1 - betas), jnp.float32)

  def denoise(x, t):
    bar = table[t][:, None, None, None]
    gain = jnp.sqrt(bar) * std**2 / (bar * std**2 + 1 - bar)
    return MEAN + gain * (x - jnp.sqrt(bar) * MEAN), jnp.zeros_like(x)

  return denoise


def two_modes(mean, std):
  """Returns the best denoiser of an even mixture of N(+-mean, std^2)."""
  table = np.cumprod(1 - BETAS)

  def denoise(x, t):
    bar = jnp.asarray(table, jnp.float32)[t][:, None, None, None]
    alpha, spread = jnp.sqrt(bar), bar * std**2 + 1 - bar
    side = jnp.tanh(alpha * mean * x / spread)
    x0 = ((1 - bar) * mean * side + alpha * std**2 * x) / spread
    return x0, jnp.zeros_like(x)

  return denoise


def start(shape=(2, 4, 4, 3)):
  return jax.random.normal(jax.random.key(1), shape)


def without_end(steps, count):
  """Leaves out the cleanest steps, so that the walk ends in some noise."""
  return schedule.Schedule(*(table[count:] for table in steps))


def seen_by(sampler, denoise, steps, x, **more):
  """Returns every x that a walk denoises, noisiest first, and its end."""
  seen = []

  def spy(x, t):
    seen.append((np.asarray(x), int(t[0])))
    return denoise(x, t)

  with jax.disable_jit():  # the scan is a loop, and its arrays are numbers
    end = sampler(spy, steps, x, None, **more)
  return [x for x, _ in seen], [t for _, t in seen], np.asarray(end)


# A reading of the papers, without tables.


def levels(steps):
  """Returns alpha, sigma and lambda from noise to the end, one more than S."""
  bar = np.append(steps.alpha_bar[::-1], steps.alpha_bar_prev[0])
  with np.errstate(divide="ignore"):
    return np.sqrt(bar), np.sqrt(1 - bar), np.log(np.sqrt(bar / (1 - bar)))


def plain_dpmpp_2m(x0_of, steps, x):
  """Algorithm 2 of Lu et al.; its last step is of first order."""
  alpha, sigma, lam = levels(steps)
  timesteps = steps.timestep[::-1]
  seen, buffer = [], []
  for i in range(1, len(alpha)):
    seen.append(x)
    buffer.append(x0_of(x, timesteps[i - 1]))
    h = lam[i] - lam[i - 1]
    d = buffer[-1]
    if 1 < i < len(alpha) - 1:
      r = (lam[i - 1] - lam[i - 2]) / h
      d = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
    x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * d
  return seen, x


def plain_unipc(x0_of, steps, x):
  """Algorithms 1 and 2 of Zhao et al. for x_0, B(h) = exp(-h) - 1, order 2.

  The weights solve R rho = phi / B in every step, as the paper writes them.
  """
  alpha, sigma, lam = levels(steps)
  timesteps = steps.timestep[::-1]
  seen, models, corrected = [], [], x
  for i in range(len(alpha) - 1):
    seen.append(x)
    model = x0_of(x, timesteps[i])
    if i > 0:
      h = lam[i] - lam[i - 1]
      b_h = np.expm1(-h)
      base = sigma[i] / sigma[i - 1] * corrected - alpha[i] * b_h * models[-1]
      r, differences = [1.0], [model - models[-1]]
      if i > 1:
        r.insert(0, (lam[i - 2] - lam[i - 1]) / h)
        differences.insert(0, (models[-2] - models[-1]) / r[0])
      phi_1 = (np.exp(-h) - 1) / -h - 1
      phi_2 = phi_1 / -h - 1 / 2
      if len(r) == 2:
        matrix = np.array([[1.0, 1.0], r])
        rho = np.linalg.solve(matrix, np.array([phi_1, 2 * phi_2]) / b_h)
      else:
        rho = [0.5]
      change = sum(p * d for p, d in zip(rho, differences, strict=True))
      x = base - alpha[i] * b_h * change
    corrected = x
    h = lam[i + 1] - lam[i]
    b_h = np.expm1(-h)
    x = sigma[i + 1] / sigma[i] * corrected - alpha[i + 1] * b_h * model
    if 0 < i < len(alpha) - 2:
      r = (lam[i - 1] - lam[i]) / h
      x = x - alpha[i + 1] * b_h * 0.5 * (models[-1] - model) / r
    models.append(model)
  return seen, x


PLAIN = {"dpmpp_2m": plain_dpmpp_2m, "unipc": plain_unipc}


@pytest.mark.parametrize("respacing", ["10", "logsnr8<900", "2", "1"])
@pytest.mark.parametrize("name", SOLVERS)
def test_each_step_is_that_of_the_papers(name, respacing):
  steps, denoise = schedule.respace(BETAS, respacing), two_modes(0.6, 0.2)

  def x0_of(x, t):
    t = jnp.full(len(x), int(t))
    return np.asarray(denoise(jnp.asarray(x, jnp.float32), t)[0], np.float64)

  x = start((1, 2, 2, 3))
  want, end = PLAIN[name](x0_of, steps, np.asarray(x, np.float64))
  got, timesteps, last = seen_by(SOLVERS[name], denoise, steps, x)
  assert timesteps == steps.timestep[::-1].tolist()
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)
  np.testing.assert_allclose(last, end, atol=2e-5)


@pytest.mark.golden
@pytest.mark.parametrize("count", [10, 20])
@pytest.mark.parametrize("name", SOLVERS)
def test_every_step_is_that_of_diffusers(golden, name, count):
  case = golden("multistep_solvers")
  steps = schedule.keep(BETAS, case[f"in/timesteps_{count}"][::-1])
  denoise = two_modes(case["meta"]["mean"], case["meta"]["std"])
  x = jnp.asarray(case["in/x_T"])
  seen, _, end = seen_by(SOLVERS[name], denoise, steps, x)
  want = case[f"out/{name}_{count}_seen"]
  np.testing.assert_allclose(np.stack(seen), want, atol=1e-4)
  np.testing.assert_allclose(end, case[f"out/{name}_{count}"], atol=1e-4)
  # Otherwise one solver's case would do for both.
  other = case[f"out/{'unipc' if name == 'dpmpp_2m' else 'dpmpp_2m'}_{count}"]
  assert np.abs(end - other).max() > 1e-3


def gaussian_errors(sampler, counts, std=STD):
  """Returns how far each number of steps ends from the exact solution.

  The solution keeps x_t - alpha MEAN in proportion to the deviation of x_t. The
  schedule is so fine that rounding to its steps does not show, and the walk
  ends in some noise, as a step to none gives what is denoised, whatever solver.
  """
  betas = schedule.squared_cosine(100_000)
  bar = np.cumprod(1 - betas)
  logsnr = np.log(bar / (1 - bar))
  deviation = np.sqrt(bar * std**2 + 1 - bar)
  x, errors = start(), []
  for count in counts:
    even = np.linspace(6.0, -4.0, count + 1)
    kept = np.interp(even, logsnr[::-1], np.arange(len(bar))[::-1]).astype(int)
    steps = without_end(schedule.keep(betas, kept), 1)
    denoise = gaussian(betas, std)
    got = jax.jit(lambda x, d=denoise, s=steps: sampler(d, s, x, None))(x)
    first, last = kept[-1], kept[0]
    centred = np.asarray(x, np.float64) - np.sqrt(bar[first]) * MEAN
    want = np.sqrt(bar[last]) * MEAN
    want = want + centred * deviation[last] / deviation[first]
    errors.append(np.abs(got - want).mean())
  return np.array(errors)


@pytest.mark.parametrize(
  ("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("unipc", 2)]
)
def test_errors_fall_with_the_order_of_the_solver(name, order):
  # Of a wider Gaussian, errors of either sign cancel at some number of steps.
  errors = gaussian_errors(samplers.SAMPLERS[name], (10, 20, 40), std=0.05)
  falls = errors[:-1] / errors[1:]
  assert (falls > 0.8 * 2**order).all() and (falls < 1.2 * 2**order).all(), (
    errors
  )


def test_ten_steps_of_a_solver_are_nearer_than_ten_of_ddim():
  ddim, two, corrected = (
    gaussian_errors(samplers.SAMPLERS[name], (10,)).item()
    for name in ("ddim", "dpmpp_2m", "unipc")
  )
  assert two < ddim / 4 and corrected < two


@pytest.mark.parametrize("name", SOLVERS)
def test_a_constant_denoiser_is_solved_exactly(name):
  """Then x - alpha x_0 is in proportion to sigma, at every step."""
  x0 = jnp.full((1, 2, 2, 3), 0.4)
  steps = without_end(schedule.respace(BETAS, "9"), 2)
  x = start(x0.shape)
  constant = lambda x, t: (x0, jnp.zeros_like(x))
  seen, timesteps, end = seen_by(SOLVERS[name], constant, steps, x)
  bar = np.append(np.cumprod(1 - BETAS)[timesteps], steps.alpha_bar_prev[0])
  alpha, sigma = np.sqrt(bar), np.sqrt(1 - bar)
  for got, a, s in zip([*seen, end], alpha, sigma, strict=True):
    want = a * 0.4 + (x - alpha[0] * 0.4) * s / sigma[0]
    np.testing.assert_allclose(got, want, atol=1e-6)
  whole = SOLVERS[name](constant, schedule.respace(BETAS, 5), x, None)
  np.testing.assert_array_equal(whole, x0)  # no noise is left


@pytest.mark.parametrize("name", SOLVERS)
def test_a_walk_starts_from_a_noised_image(name):
  """Real guidance: the solution from there on is known as well."""
  steps = schedule.respace(BETAS, "logsnr20<900")
  steps = schedule.start_at(steps, 12)
  x0 = MEAN + STD * jax.random.normal(jax.random.key(2), (2, 4, 4, 3))
  x = samplers.diffuse(x0, start(x0.shape), steps, 11)
  got = SOLVERS[name](gaussian(BETAS), steps, x, None)
  bar = steps.alpha_bar[-1]
  deviation = np.sqrt(bar * STD**2 + 1 - bar)
  want = MEAN + (x - np.sqrt(bar) * MEAN) * STD / deviation
  np.testing.assert_allclose(got, want, atol=0.01)
  assert np.abs(got - x0).mean() < 0.6 * np.abs(x - x0).mean()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_gradient_shifts_the_noise_as_in_ddim(name):
  """One step of either solver is one of DDIM, with the gradient and without."""
  steps = schedule.start_at(without_end(schedule.respace(BETAS, 10), 3), 1)
  cond_fn = lambda x, t: jnp.cos(x)
  denoise, x = two_modes(0.6, 0.2), start()
  for more in ({}, {"cond_fn": cond_fn}):
    want = samplers.ddim(denoise, steps, x, None, **more)
    got = SOLVERS[name](denoise, steps, x, None, **more)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_logsnr_keeps_steps_that_are_even_in_it():
  bar = np.cumprod(1 - BETAS)
  kept = schedule.kept_timesteps("logsnr8<900")
  gaps = np.diff(np.log(bar / (1 - bar))[kept])
  assert kept[0] == 0 and kept[-1] == 899 and len(kept) == 8
  # The cleanest steps of training lie the furthest apart, which rounding shows.
  np.testing.assert_allclose(gaps, gaps.mean(), rtol=0.1)
  uniform = np.diff(np.log(bar / (1 - bar))[schedule.kept_timesteps("8<900")])
  assert uniform.min() / uniform.max() > 3  # both are negative


def test_logsnr_reads_the_schedule_that_is_respaced():
  linear = schedule.linear()
  steps = schedule.respace(linear, "logsnr6<250")
  assert (
    steps.timestep.tolist() != schedule.kept_timesteps("logsnr6<250").tolist()
  )
  gaps = np.diff(np.log(steps.alpha_bar / (1 - steps.alpha_bar)))
  np.testing.assert_allclose(gaps, gaps.mean(), rtol=0.1)


@pytest.mark.parametrize("count", [1, 2, 37, 400, 999, 1000])
def test_logsnr_keeps_as_many_steps_as_it_says(count):
  kept = schedule.kept_timesteps(f"logsnr{count}")
  assert len(kept) == count and (np.diff(kept) > 0).all()
  assert kept[0] >= 0 and kept[-1] == 999


@pytest.mark.parametrize("respacing", ["logsnr", "logsnr0", "logsnr901<900"])
def test_logsnr_without_a_fitting_number_is_refused(respacing):
  with pytest.raises(UserError, match="number of steps, 1 to"):
    schedule.kept_timesteps(respacing)
