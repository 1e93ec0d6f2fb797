"""Flow matching: closed forms, and the published schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.diffusion import flow, guidance, samplers, schedule

DEVIATION = 0.3  # of images


def velocity(x, t):
  """The best prediction for images of N(0, DEVIATION^2)."""
  level = jnp.reshape(t / flow.TIMES, (-1, 1, 1, 1))
  variance = (1 - level) ** 2 * DEVIATION**2 + level**2
  return x * (level - (1 - level) * DEVIATION**2) / variance


def walked(sampler, num_steps, shift=0.0):
  noise = jnp.linspace(-2, 2, 12).reshape(3, 2, 2, 1)
  steps = flow.steps(flow.noise_levels(num_steps, shift))
  denoise = flow.denoiser(velocity)
  return noise, samplers.SAMPLERS[sampler](denoise, steps, noise, None)


def test_x_0_is_read_from_the_velocity_at_any_level():
  """Of x = (1 - s) x_0 + s eps, the velocity is eps - x_0; s is 0.25 to 1."""
  steps = flow.steps(flow.noise_levels(4, 0.0))
  x0 = np.linspace(-1, 1, 4).astype(np.float32).reshape(1, 2, 2, 1)
  eps = np.asarray([[0.3, -2.0], [1.1, 0.4]], np.float32).reshape(1, 2, 2, 1)
  for kept in range(4):
    x = samplers.diffuse(x0, eps, steps, kept)
    t = jnp.full(1, steps.timestep[kept], jnp.float32)
    got, _ = flow.denoiser(lambda x, t: eps - x0)(x, t)
    np.testing.assert_allclose(got, x0, atol=1e-6)
    noise = (1 - steps.alpha_bar[kept]) ** 0.5
    np.testing.assert_allclose(flow.noise_of(t), noise, rtol=1e-6)


@pytest.mark.parametrize("sampler", ["ancestral", "euler", "unipc"])
def test_a_learner_guides_walks_that_start_at_noise_alone(sampler):
  """Images have a mean of 0.5, and the classifier is unsure at one of 0."""
  steps, mean = flow.steps(flow.noise_levels(10, 1.0)), 0.5

  def of_mean(x, t):
    level = jnp.reshape(t / flow.TIMES, (-1, 1, 1, 1))
    return velocity(x - (1 - level) * mean, t) - mean

  def logits_of(x):
    return jnp.stack([9 * x.mean((1, 2, 3)), jnp.zeros(len(x))], -1)

  rngs = jax.random.split(jax.random.key(0), 64)
  x, means = samplers.start_noise(rngs, (4, 4, 1)), []
  for scale in (None, 0.0, 1.0):
    denoise = flow.denoiser(of_mean)
    if scale is not None:
      denoise = guidance.doubting(denoise, flow.noise_of, logits_of, scale)
    noise = samplers.image_noise(rngs, (4, 4, 1))
    images = samplers.SAMPLERS[sampler](denoise, steps, x, noise)
    means.append(float(images.mean()))
  plain, still, guided = means
  assert plain == still == pytest.approx(mean, abs=0.05)
  assert abs(guided) < 0.7 * mean


def test_eulers_steps_are_those_along_the_velocity():
  noise, got = walked("euler", 5, shift=1.2)
  x, levels = noise, flow.noise_levels(5, 1.2)
  for level, below in zip(levels[::-1], [*levels[-2::-1], 0.0], strict=True):
    x = x + (below - level) * velocity(x, jnp.full(3, flow.TIMES * level))
  np.testing.assert_allclose(got, x, atol=1e-5)


def test_walks_end_at_images_and_solvers_are_nearer():
  """Along the exact flow, noise is scaled down to the images' deviation."""
  errors = {}
  for sampler in ("euler", "dpmpp_2m", "unipc"):
    noise, got = walked(sampler, 10)
    errors[sampler] = float(jnp.abs(got - DEVIATION * noise).max())
  print(errors)
  assert errors["euler"] < 0.2
  assert max(errors["dpmpp_2m"], errors["unipc"]) < 0.4 * errors["euler"]


@pytest.mark.golden
def test_the_schedule_is_the_published_one(golden):
  meta = golden("flux2")["meta"]
  for places_and_steps, want in meta["mus"].items():
    shift = flow.flux2_shift(*map(int, places_and_steps.split(",")))
    assert shift == pytest.approx(want, rel=1e-12)
  levels = flow.noise_levels(4, flow.flux2_shift(16, 4))
  want = meta["cases"]["base"]["timesteps"]
  np.testing.assert_allclose(flow.TIMES * levels[::-1], want, rtol=1e-6)


def test_an_image_is_noised_as_flow_matching_does():
  steps = flow.steps(flow.noise_levels(4, 1.0))
  x0, noise = jnp.full((1, 2, 2, 1), 0.5), jnp.full((1, 2, 2, 1), -2.0)
  seen = []
  denoise = flow.denoiser(lambda x, t: seen.append((x, t)) or x)
  for kept in (2, 4):
    walk = schedule.start_at(steps, kept)
    x = samplers.diffuse(x0, noise, walk, kept - 1)
    denoise(x, jnp.full(1, walk.timestep[-1]))
    level = walk.timestep[-1] / flow.TIMES
    want = (1 - level) * x0 + level * noise
    np.testing.assert_allclose(seen[-1][0], want, rtol=1e-6)
  np.testing.assert_array_equal(x, noise)  # of all steps, noise alone
