"""The denoising loss against quadrature, and its training step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from synthjax.diffusion import schedule
from synthjax.models.pixels import to_unit
from synthjax.training import denoising, loop

TABLES = schedule.respace(schedule.linear())


def at(t):
  return jax.tree.map(
    lambda table: jnp.asarray(table, jnp.float32)[t].reshape(-1, 1, 1, 1),
    TABLES,
  )


@pytest.mark.parametrize("t", [1, 40, 500])
@pytest.mark.parametrize("v", [-1.0, 0.3])
def test_the_bound_is_the_divergence_of_two_gaussians(t, v):
  """Integrates q log(q / p) numerically, in bits."""
  x0, x, eps = 0.4, -0.2, 0.1
  s = jax.tree.map(lambda table: float(table[t]), TABLES)
  guess = (x - np.sqrt(1 - s.alpha_bar) * eps) / np.sqrt(s.alpha_bar)
  p = stats.norm(
    s.mean_coef_x0 * guess + s.mean_coef_x * x,
    s.beta ** ((v + 1) / 4) * np.exp(s.log_variance * (1 - v) / 4),
  )
  q = stats.norm(
    s.mean_coef_x0 * x0 + s.mean_coef_x * x, np.exp(0.5 * s.log_variance)
  )
  wide = 12 * q.std()
  want, _ = integrate.quad(
    lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)),
    q.mean() - wide,
    q.mean() + wide,
  )
  values = [jnp.full((1, 1, 1, 1), value) for value in (eps, v, x0, x)]
  ts = jnp.array([t])
  got = denoising.variational_bound(*values, ts, at(ts))
  np.testing.assert_allclose(got[0], want / np.log(2), rtol=2e-3, atol=1e-6)


def test_the_first_step_scores_the_8_bit_levels_to_a_sum_of_one():
  """The likelihoods of all 256 levels of a pixel sum to 1."""
  levels = jnp.arange(256) / 127.5 - 1
  x0 = levels.reshape(-1, 1, 1, 1)
  x = jnp.full_like(x0, 0.1)
  ts = jnp.zeros(256, int)
  got = jax.jit(denoising.variational_bound)(
    jnp.full_like(x0, 0.2), jnp.zeros_like(x0), x0, x, ts, at(ts)
  )
  np.testing.assert_allclose(np.exp2(-got).sum(), 1.0, rtol=1e-3)


def tiny(drop_prompt=0.0):
  """A "network" of one number for the noise and one for its variance."""

  def apply(params, x, t, tokens, mask, low_res, rng):
    del t, rng, low_res
    seen = jnp.where(mask, tokens, 0).sum(-1).reshape(-1, 1, 1, 1)
    eps = params["scale"] * x + params["word"] * seen
    return jnp.concatenate([eps, jnp.tanh(params["v"]) + 0 * x], axis=-1)

  def init(rng, batch):
    del rng, batch
    return {"scale": jnp.zeros(()), "v": jnp.zeros(()), "word": jnp.zeros(())}

  return denoising.denoising(
    apply,
    init,
    optax.adam(1e-2),
    betas=schedule.linear(),
    pad_token=9,
    drop_prompt=drop_prompt,
    ema_decay=0.9,
  )


def batch(n=64):
  return {
    "image": np.full((n, 4, 4, 3), 127, np.uint8),
    "tokens": np.full((n, 3), 5, np.int32),
    "mask": np.ones((n, 3), bool),
  }


def test_training_lowers_the_loss_and_the_average_follows():
  objective = tiny()
  state = loop.start(objective, batch(), jax.random.key(0))
  step = jax.jit(objective.step)
  losses = []
  for i in range(200):
    rng = jax.random.fold_in(jax.random.key(1), i)
    state, metrics = step(state, batch(), rng)
    losses.append(float(metrics["noise_error"]))
  assert int(state.step) == 200
  # With gray images the noise is the input, scaled: nearly all can be told.
  assert np.mean(losses[-20:]) < 0.2 * losses[0]
  gap = abs(float(state.ema["scale"] - state.params["scale"]))
  assert 0 < gap < 0.05


@pytest.mark.parametrize("share", [0.0, 1.0, 0.3])
def test_prompts_are_emptied_as_often_as_asked(share):
  seen = []

  def apply(params, x, t, tokens, mask, low_res, rng):
    jax.debug.callback(lambda *given: seen.append(given), tokens, mask)
    return jnp.concatenate([x, x], -1) * params["a"]

  objective = denoising.denoising(
    apply,
    lambda rng, batch: {"a": jnp.zeros(())},
    optax.sgd(0.1),
    betas=schedule.linear(),
    pad_token=9,
    drop_prompt=share,
  )
  many = batch(400)
  state = objective.init(jax.random.key(0), many)
  jax.block_until_ready(jax.jit(objective.step)(state, many, jax.random.key(1)))
  jax.effects_barrier()
  tokens, mask = (np.asarray(x) for x in seen[0])
  empty = ~mask.any(-1)
  np.testing.assert_allclose(empty.mean(), share, atol=0.07)
  assert (tokens[empty] == 9).all() and (tokens[~empty] == 5).all()


def test_the_variance_alone_learns_from_the_bound():
  objective = tiny()
  many = batch()
  state = objective.init(jax.random.key(0), many)

  def bound(params):
    t = jnp.full(64, 500)
    x0 = to_unit(jnp.asarray(many["image"]))
    eps = params["scale"] * x0
    v = jnp.tanh(params["v"]) + 0 * x0
    stopped = jax.lax.stop_gradient(eps)
    return denoising.variational_bound(stopped, v, x0, x0, t, at(t)).mean()

  grads = jax.jit(jax.grad(bound))(state.params)
  assert float(grads["scale"]) == 0 and float(grads["v"]) != 0
