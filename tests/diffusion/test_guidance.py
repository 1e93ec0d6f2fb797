"""Guidance by a gradient, where theory says what the samples must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.diffusion import guidance, samplers, schedule
from synthjax.runtime.errors import UserError

MEAN, STD = 0.3, 0.2
BETAS = schedule.squared_cosine()
ALPHA_BAR = jnp.asarray(np.cumprod(1 - BETAS), jnp.float32)


def posterior(x, t):
  """Of x_0 ~ N(MEAN, STD^2) given x_t: mean, variance and the mean's slope."""
  bar = ALPHA_BAR[t][:, None, None, None]
  spread = bar * STD**2 + 1 - bar  # the variance of x_t
  slope = jnp.sqrt(bar) * STD**2 / spread
  mean = MEAN + slope * (x - jnp.sqrt(bar) * MEAN)
  return mean, STD**2 * (1 - bar) / spread, slope


def denoise(x, t):
  return posterior(x, t)[0], jnp.zeros_like(x)


def walk(name, cond_fn, steps=1000, denoise=denoise):
  """Samples 12,288 values.

  Moving the mean is the first order of what guidance should do: the ancestral
  walk's error falls with the number of steps, so every step is kept.
  """
  steps = schedule.respace(BETAS, steps)
  rngs = jax.random.split(jax.random.key(0), 64)
  noise = samplers.image_noise(rngs, (8, 8, 3))
  x = jax.random.normal(jax.random.key(1), (64, 8, 8, 3))
  sampler = samplers.SAMPLERS[name]
  return jax.jit(lambda x: sampler(denoise, steps, x, noise, cond_fn=cond_fn))(
    x
  )


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_a_linear_log_probability_shifts_the_mean_alone(name):
  """p(y | x_0) ~ exp(a x_0) turns N(m, s^2) into N(m + a s^2, s^2)."""
  a = -6.0

  def cond_fn(x, t):  # log p(y | x_t) is a times the posterior mean, and more
    return a * posterior(x, t)[2] * jnp.ones_like(x)

  images = walk(name, cond_fn)
  np.testing.assert_allclose(images.mean(), MEAN + a * STD**2, atol=0.01)
  np.testing.assert_allclose(images.std(), STD, atol=0.01)


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_a_quadratic_log_probability_gives_the_product_of_both(name):
  """p(y | x_0) ~ N(x_0; c, r^2) gives the product of two Gaussians."""
  c, r = -0.2, 0.15

  def cond_fn(x, t):  # p(y | x_t) is N(c; posterior mean, its variance + r^2)
    mean, variance, slope = posterior(x, t)
    return (c - mean) / (variance + r**2) * slope

  images = walk(name, cond_fn)
  precision = STD**-2 + r**-2
  mean = (MEAN * STD**-2 + c * r**-2) / precision
  np.testing.assert_allclose(images.mean(), mean, atol=0.01)
  np.testing.assert_allclose(images.std(), precision**-0.5, atol=0.01)


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_a_gradient_of_zero_guides_nowhere(name):
  still = walk(name, lambda x, t: jnp.zeros_like(x), steps=20)
  np.testing.assert_allclose(still, walk(name, None, steps=20), atol=1e-5)


def test_each_image_is_guided_towards_its_own_features():
  """For z = x / |x|, the gradient of cos is (f - cos z) / |x|."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((3, 1, 1, 4)), jnp.float32)
  features = rng.standard_normal((3, 4)).astype(np.float32)
  features /= np.linalg.norm(features, axis=-1, keepdims=True)

  def encode(x, t):
    x = x.reshape(len(x), -1)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

  got = guidance.towards(encode, features, 7.0)(x, jnp.zeros(3, int))
  flat = np.asarray(x).reshape(3, 4)
  length = np.linalg.norm(flat, axis=-1, keepdims=True)
  z = flat / length
  cosine = (z * features).sum(-1, keepdims=True)
  want = 7.0 * (features - cosine * z) / length
  np.testing.assert_allclose(got.reshape(3, 4), want, atol=1e-5)


def test_doubt_is_the_gradient_of_the_entropy_of_a_linear_classifier():
  """With logits W s, it is -W^T p (log p + H), times the mix's share of x.

  Its length is that of x_t, times the root of alpha_bar and the scale.
  """
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, 1, 1, 4)).astype(np.float32)
  weight, gain = rng.standard_normal((5, 4)).astype(np.float32), 0.7
  alpha_bar, t = np.array([0.99, 0.5, 0.04]), np.array([2, 0, 1])
  cond_fn = guidance.towards_doubt(
    lambda x, t: (gain * x, 0.0),
    alpha_bar,
    lambda s: s.reshape(len(s), -1) @ weight.T,
    2.0,
  )
  flat, noise = x.reshape(3, 4), np.sqrt(1 - alpha_bar[t])[:, None]
  share = noise * gain + 1 - noise
  logits = share * flat @ weight.T
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  entropy = -(p * np.log(p)).sum(-1, keepdims=True)
  want = share * (-p * (np.log(p) + entropy)) @ weight
  norm = lambda x: np.linalg.norm(x, axis=-1, keepdims=True)
  want *= 2.0 * np.sqrt(alpha_bar[t])[:, None] * norm(flat) / norm(want)
  got = cond_fn(jnp.asarray(x), jnp.asarray(t)).reshape(3, 4)
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_samples_move_to_where_the_classifier_doubts():
  """It does at a mean of 0, and images have one of MEAN."""

  def logits_of(s):
    mean = s.mean((1, 2, 3))
    return jnp.stack([9 * mean, jnp.zeros_like(mean)], -1)

  doubt = guidance.towards_doubt(denoise, np.asarray(ALPHA_BAR), logits_of, 1.0)
  plain, guided = (walk("ddim", fn, steps=20) for fn in (None, doubt))
  np.testing.assert_allclose(plain.mean(), MEAN, atol=0.02)
  assert abs(guided.mean()) < MEAN / 2


def test_solvers_move_x_0_as_far_as_a_denoiser_that_doubts():
  """In noise alone, which has no gradient for solvers, x_0 moves by x_t's."""

  def logits_of(s):
    return jnp.stack([9 * s.mean((1, 2, 3)), s[:, 0, 0, 0]], -1)

  noise_of = lambda t: jnp.sqrt(1 - ALPHA_BAR[t])
  cond_fn = guidance.towards_doubt(
    denoise, np.asarray(ALPHA_BAR), logits_of, 0.7
  )
  doubting = guidance.doubting(denoise, noise_of, logits_of, 0.7)
  for name in ("ddim", "dpmpp_2m"):
    want = walk(name, cond_fn, steps=20)
    got = walk(name, None, steps=20, denoise=doubting)
    np.testing.assert_allclose(got, want, atol=1e-3, err_msg=name)
  x = jax.random.normal(jax.random.key(2), (3, 2, 2, 3))
  kept = lambda x, t: (0.5 * x, 0.0)
  alone = guidance.doubting(kept, jnp.ones_like, logits_of, 0.7)
  x0, _ = alone(x, jnp.ones(3))
  length = lambda x: jnp.sqrt(jnp.sum(x**2, (1, 2, 3)))
  np.testing.assert_allclose(length(x0 - 0.5 * x), 0.7 * length(x), rtol=1e-5)


def test_doubt_that_has_no_slope_guides_nowhere():
  x, t = jnp.ones((2, 1, 1, 3)), jnp.zeros(2, int)
  cond_fn = guidance.towards_doubt(
    lambda x, t: (x, 0.0), np.array([0.5]), lambda s: jnp.zeros((2, 4)), 1.0
  )
  np.testing.assert_array_equal(cond_fn(x, t), jnp.zeros_like(x))


def test_the_ancestral_mean_moves_by_variance_times_gradient():
  """One step, worked out by hand from the schedule's tables."""
  steps = schedule.start_at(schedule.respace(BETAS, 10), 1)
  x = jnp.full((1, 1, 1, 1), 0.4)
  seen = []

  def cond_fn(x, t):
    seen.append((x.shape, t.dtype))
    return 2.0 * jnp.ones_like(x) + t.reshape(1, 1, 1, 1)

  def half(x, t):  # variance halfway between its bounds, in logarithms
    return jnp.zeros_like(x), jnp.full_like(x, 0.5)

  noise = lambda step: jnp.zeros_like(x)
  bare = samplers.ancestral(half, steps, x, noise)
  guided = samplers.ancestral(half, steps, x, noise, cond_fn=cond_fn)
  variance = np.sqrt(steps.beta[0] * np.exp(steps.log_variance[0]))
  gradient = 2.0 + steps.timestep[0]
  np.testing.assert_allclose(guided - bare, variance * gradient, rtol=1e-4)
  assert seen[0] == ((1, 1, 1, 1), jnp.int32)


def halves(calls):
  """Returns a predictor of 2n images and one of n, which write calls down.

  Both count the images that they were really run on, at which timestep.
  """

  def predictor(count):
    def predict(x, t):
      jax.debug.callback(lambda t: calls.append((int(t), count)), t[0])
      shift = jnp.where(jnp.arange(len(x)) < len(x) // count, 0.1, 0.3)
      eps = jnp.sin(x) + shift[:, None, None, None]
      return jnp.concatenate([eps, jnp.zeros_like(eps)], axis=-1)

    return predict

  return predictor(2), predictor(1)


def walk_within(interval, calls, scale=3.0):
  both, plain = halves(calls)
  predict = guidance.classifier_free(both, scale)
  if interval is not None:
    predict = guidance.within(predict, plain, interval)
  denoise = guidance.from_noise(predict, BETAS)
  x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
  steps = schedule.respace(BETAS, 10)
  out = jax.jit(lambda x: samplers.ddim(denoise, steps, x, None))(x)
  jax.effects_barrier()
  return np.asarray(out), steps.timestep.tolist()


def test_guidance_within_the_whole_range_is_guidance():
  calls = []
  whole, _ = walk_within((0, 999), calls)
  assert {count for _, count in calls} == {2}
  np.testing.assert_allclose(whole, walk_within(None, [])[0], atol=1e-5)


def test_outside_the_interval_half_of_the_work_is_done():
  calls = []
  some, timesteps = walk_within((222, 666), calls)
  assert timesteps[2] == 222 and timesteps[6] == 666  # both ends are guided
  want = [(t, 2 if 222 <= t <= 666 else 1) for t in timesteps]
  assert sorted(calls) == want
  guided, plain = walk_within(None, [])[0], walk_within(None, [], scale=1)[0]
  assert np.abs(some - guided).max() > 0.01
  assert np.abs(some - plain).max() > 0.01


def test_guidance_at_no_step_follows_the_prompt_alone():
  calls = []
  none, _ = walk_within((1, 2), calls)
  assert {count for _, count in calls} == {1}
  plain, _ = walk_within(None, [], scale=1)
  np.testing.assert_allclose(none, plain, atol=1e-5)


@pytest.mark.parametrize("interval", [(600, 100), (-1, 5), (0, 1000)])
def test_an_interval_outside_of_the_schedule_is_refused(interval):
  with pytest.raises(UserError, match="two of 0 to 999 in ascending"):
    guidance.check_interval(interval, 1000)


@pytest.mark.parametrize("interval", [None, (0, 999), [5, 5]])
def test_an_interval_of_timesteps_is_accepted(interval):
  guidance.check_interval(interval, 1000)
