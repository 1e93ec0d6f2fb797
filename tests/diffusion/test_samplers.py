"""Samplers against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.config import schema
from synthjax.diffusion import guidance, samplers, schedule
from synthjax.runtime.errors import UserError

MEAN, STD = 0.3, 0.2
BETAS = schedule.squared_cosine()


def denoise(x, t):
  """The best denoiser of x_0 ~ N(MEAN, STD^2), known in closed form."""
  bar = jnp.asarray(np.cumprod(1 - BETAS), jnp.float32)[t][:, None, None, None]
  gain = jnp.sqrt(bar) * STD**2 / (bar * STD**2 + 1 - bar)
  return MEAN + gain * (x - jnp.sqrt(bar) * MEAN), jnp.zeros_like(x)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_samples_of_a_gaussian_have_its_mean_and_deviation(name):
  steps = schedule.respace(BETAS, 250)
  noise = samplers.image_noise(keys(64), (8, 8, 3))
  x = jax.random.normal(jax.random.key(1), (64, 8, 8, 3))
  images = jax.jit(lambda x: samplers.SAMPLERS[name](denoise, steps, x, noise))(
    x
  )
  np.testing.assert_allclose(images.mean(), MEAN, atol=0.01)
  np.testing.assert_allclose(images.std(), STD, atol=0.01)


def test_ddim_with_the_ancestral_noise_has_the_right_deviation():
  steps = schedule.respace(BETAS, 250)
  noise = samplers.image_noise(keys(64), (8, 8, 3))
  x = jax.random.normal(jax.random.key(1), (64, 8, 8, 3))
  images = samplers.ddim(denoise, steps, x, noise, eta=1.0)
  np.testing.assert_allclose(images.std(), STD, atol=0.01)
  still = samplers.ddim(denoise, steps, x, noise)
  assert np.abs(images - still).max() > 0.1  # eta does something


@pytest.mark.parametrize("name", ["euler", "euler_ancestral"])
def test_eulers_steps_are_those_in_sigma(name):
  """As written by Karras et al.: a slope, down to sigma_down, and noise."""
  steps = schedule.respace(BETAS, "5<900")
  x = np.asarray(jax.random.normal(jax.random.key(1), (2, 4, 4, 3)))
  draw = samplers.image_noise(keys(2), x.shape[1:])
  got = samplers.SAMPLERS[name](denoise, steps, jnp.asarray(x), draw)

  sigma_of = lambda bar: np.sqrt((1 - bar) / bar)
  scaled = x / np.sqrt(steps.alpha_bar[-1])
  for i in range(4, -1, -1):
    here, to = map(sigma_of, (steps.alpha_bar[i], steps.alpha_bar_prev[i]))
    t = jnp.full(len(x), steps.timestep[i])
    x0, _ = denoise(jnp.float32(scaled * np.sqrt(steps.alpha_bar[i])), t)
    up = to * np.sqrt(here**2 - to**2) / here if "ancestral" in name else 0.0
    down = np.sqrt(to**2 - up**2)
    scaled = scaled + (scaled - x0) / here * (down - here) + up * draw(i)
  np.testing.assert_allclose(got, scaled, atol=1e-5)


def test_a_sampler_is_a_name_or_a_block_with_its_own_options():
  read = lambda block: schema.read(samplers.SAMPLER, block, "sampler")
  for block, identity in (
    ("ddim", "ddim"),
    ({"name": "ddim"}, "ddim"),
    ({"name": "ddim", "eta": 0.5}, {"name": "ddim", "eta": 0.5}),
    ("synthjax.diffusion.samplers.unipc", "unipc"),
    (f"{__name__}.stand_still", f"{__name__}.stand_still"),
  ):
    assert samplers.identify(read(block)) == identity
  assert read({"name": "ddim", "eta": 0.5}).keywords == {"eta": 0.5}
  for block, message in (
    ("ddpm", "sampler='ddpm': needed one of ancestral, ddim, "),
    ({"name": "ddim", "eta": 2}, "sampler.eta=2: needed a number from 0 to 1"),
    ({"name": "unipc", "eta": 1}, "sampler has no field 'eta'"),
    ({"name": "ddim", "cond_fn": 1}, "sampler has no field 'cond_fn'"),
  ):
    with pytest.raises(UserError, match=message):
      read(block)


def stand_still(denoise, schedule, x, noise, *, cond_fn=None):
  return x


def test_an_images_noise_is_its_own():
  """The noise of an image is alike in every batch and differs by step."""
  rngs = keys(5)
  together = samplers.image_noise(rngs, (4, 4, 3))(7)
  alone = samplers.image_noise(rngs[3:4], (4, 4, 3))(7)
  np.testing.assert_array_equal(together[3], alone[0])
  assert np.abs(together[3] - together[2]).max() > 0.1
  other = samplers.image_noise(rngs, (4, 4, 3))(8)
  assert np.abs(together - other).max() > 0.1


def test_diffusing_gives_the_stated_shares_of_image_and_noise():
  """The shares of the 16-shot start of real guidance, step 15 of 100."""
  steps = schedule.respace(BETAS, 100)
  ones, zeros = jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1))
  image = samplers.diffuse(ones, zeros, steps, 14)
  noise = samplers.diffuse(zeros, ones, steps, 14)
  np.testing.assert_allclose(image.item(), 0.97288036, rtol=1e-6)
  np.testing.assert_allclose(noise.item(), 0.23130889, rtol=1e-6)


def test_guidance_extrapolates_noise_and_keeps_the_prompts_variance():
  def predict(x, t):
    half = len(x) // 2
    eps = jnp.concatenate([jnp.full((half, 1), 2.0), jnp.full((half, 1), 1.0)])
    v = jnp.concatenate([jnp.full((half, 1), 0.5), jnp.full((half, 1), -0.5)])
    return jnp.concatenate([eps, v], axis=-1)

  guided = guidance.classifier_free(predict, 3.0)
  out = guided(jnp.zeros((2, 1)), jnp.zeros(2))
  np.testing.assert_allclose(out, [[4.0, 0.5], [4.0, 0.5]])


def test_a_denoiser_recovers_and_clips_the_clean_image():
  x0 = jnp.array([0.5, 0.5]).reshape(2, 1, 1, 1)
  eps = jnp.array([0.3, -50.0]).reshape(2, 1, 1, 1)
  t = jnp.array([100, 900])
  bar = jnp.asarray(np.cumprod(1 - BETAS), jnp.float32)[t].reshape(2, 1, 1, 1)
  x = jnp.sqrt(bar) * x0 + jnp.sqrt(1 - bar) * 0.3
  out = jnp.concatenate([eps, jnp.ones_like(eps)], axis=-1)
  got, share = guidance.from_noise(lambda x, t: out, BETAS)(x, t)
  np.testing.assert_allclose(got[0], 0.5, atol=1e-5)
  assert got[1].item() == 1.0  # clipped
  np.testing.assert_allclose(share, 1.0)
