"""Noise schedules against recorded tables and stated values."""

import numpy as np
import pytest

from synthjax.diffusion import schedule

BETAS = {
  "linear": schedule.linear(),
  "squaredcos_cap_v2": schedule.squared_cosine(),
}


@pytest.mark.golden
def test_every_recorded_table_is_met(golden):
  case = golden("diffusion_schedules")
  columns = {
    "timestep_map": "timestep",
    "betas": "beta",
    "posterior_variance": "variance",
    "posterior_log_variance_clipped": "log_variance",
    "posterior_mean_coef1": "mean_coef_x0",
    "posterior_mean_coef2": "mean_coef_x",
    "alphas_cumprod": "alpha_bar",
  }
  checked = 0
  for key, want in case.items():
    if key == "meta":
      continue
    name, *respacing, column = key.split("/")
    tables = schedule.respace(BETAS[name], respacing[0] if respacing else None)
    got = getattr(tables, columns[column])
    np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=key)
    checked += 1
  assert checked == len(case) - 1 and checked > 60


def test_the_stated_values_of_glides_schedules_are_met():
  """Values stated for the released base (100 steps) and upsampler."""
  full = schedule.respace(schedule.squared_cosine())
  np.testing.assert_allclose(full.beta[0], 4.128422482e-05, rtol=1e-9)
  np.testing.assert_allclose(full.alpha_bar[499], 0.4938435904, rtol=1e-9)
  base = schedule.respace(schedule.squared_cosine(), 100)
  np.testing.assert_allclose(base.alpha_bar[14], 0.9464961986, rtol=1e-9)
  np.testing.assert_allclose(base.log_variance[:2], -10.15394511, rtol=1e-9)
  assert base.timestep[[14, 19, 34, 39, 49]].tolist() == [
    141,
    192,
    343,
    394,
    494,
  ]
  fast = schedule.respace(schedule.linear(), "fast27")
  np.testing.assert_allclose(fast.alpha_bar[26], 4.202152991e-05, rtol=1e-9)
  assert fast.timestep[-3:].tolist() == [799, 800, 997]


def test_the_noisiest_steps_can_be_left_out():
  steps = schedule.kept_timesteps("4<901")
  assert steps.tolist() == [0, 300, 600, 900]


def test_real_guidance_keeps_the_cleanest_steps():
  base = schedule.respace(schedule.squared_cosine(), 100)
  start = schedule.start_at(base, 15)
  assert len(start.beta) == 15 and start.timestep[-1] == 141
  with pytest.raises(ValueError, match="allowed are 1 to 100"):
    schedule.start_at(base, 101)


@pytest.mark.parametrize(
  ("respacing", "words"),
  [
    ("1001", "1 to 1000"),
    ("ddim999", "no whole stride"),
    ("0", "1 to 1000"),
    ("9<1001", "only 1000"),
  ],
)
def test_respacings_that_cannot_be_are_refused(respacing, words):
  with pytest.raises(ValueError, match=words):
    schedule.kept_timesteps(respacing)
