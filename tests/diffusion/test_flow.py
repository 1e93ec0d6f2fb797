"""Flow matching: closed forms, and the published schedule."""

import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.diffusion import flow, samplers, schedule

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
