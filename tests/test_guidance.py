"""Guidance by a gradient, where theory says what the samples must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.diffusion import guidance, sample, schedule

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


def walk(name, cond_fn, steps=1000):
  """Samples 12,288 values.

  Moving the mean is the first order of what guidance should do: the ancestral
  walk's error falls with the number of steps, so every step is kept.
  """
  steps = schedule.respace(BETAS, steps)
  rngs = jax.random.split(jax.random.key(0), 64)
  noise = sample.image_noise(rngs, (8, 8, 3))
  x = jax.random.normal(jax.random.key(1), (64, 8, 8, 3))
  sampler = sample.SAMPLERS[name]
  return jax.jit(lambda x: sampler(denoise, steps, x, noise, cond_fn=cond_fn))(
    x
  )


@pytest.mark.parametrize("name", sorted(sample.SAMPLERS))
def test_a_linear_log_probability_shifts_the_mean_alone(name):
  """p(y | x_0) ~ exp(a x_0) turns N(m, s^2) into N(m + a s^2, s^2)."""
  a = -6.0

  def cond_fn(x, t):  # log p(y | x_t) is a times the posterior mean, and more
    return a * posterior(x, t)[2] * jnp.ones_like(x)

  images = walk(name, cond_fn)
  np.testing.assert_allclose(images.mean(), MEAN + a * STD**2, atol=0.01)
  np.testing.assert_allclose(images.std(), STD, atol=0.01)


@pytest.mark.parametrize("name", sorted(sample.SAMPLERS))
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


@pytest.mark.parametrize("name", sorted(sample.SAMPLERS))
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
  bare = sample.ancestral(half, steps, x, noise)
  guided = sample.ancestral(half, steps, x, noise, cond_fn=cond_fn)
  variance = np.sqrt(steps.beta[0] * np.exp(steps.log_variance[0]))
  gradient = 2.0 + steps.timestep[0]
  np.testing.assert_allclose(guided - bare, variance * gradient, rtol=1e-4)
  assert seen[0] == ((1, 1, 1, 1), jnp.int32)
