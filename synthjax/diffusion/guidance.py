"""From what a network predicts to the denoiser that a sampler walks by."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.runtime.errors import UserError

# (x_t [n, h, w, c], t [n]) -> what a network predicts of x_t, [n, h, w, c], and
# behind it, if the network learned it, the variance in -1..1: [n, h, w, 2c].
Predictor = Callable[[jax.Array, jax.Array], jax.Array]

# What samplers see instead of networks:
# (x_t [n, h, w, c], t [n]) -> x_0 of the same shape, and where the step's log
# variance lies between its bounds, 0 (lower) to 1 (upper).
Denoiser = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
# (x_t, t) -> the gradient of log p(y | x_t) at x_t, for guidance towards y.
CondFn = Callable[[jax.Array, jax.Array], jax.Array]
Noise = Callable[[jax.Array], jax.Array]  # step index [] -> [n, h, w, c]


def classifier_free(predict: Predictor, scale: float) -> Predictor:
  """Guides a predictor away from other prompts (Ho & Salimans 2021).

  Args:
    predict: takes 2n images, of which the first n have their prompts and the
      last n have empty or negative ones.
    scale: 0 ignores the prompt, 1 follows it, more exaggerates it.

  Returns:
    A predictor of n images. As in GLIDE, a variance is that of the branch with
    the prompt.
  """

  def guided(x, t):
    out = predict(jnp.concatenate([x, x]), jnp.concatenate([t, t]))
    out, variance = jnp.split(out, [x.shape[-1]], axis=-1)
    with_prompt, without = jnp.split(out, 2)
    out = without + scale * (with_prompt - without)
    return jnp.concatenate([out, variance[: len(x)]], axis=-1)

  return guided


def within(
  inside: Callable, outside: Callable, interval: tuple[int, int]
) -> Callable:
  """Uses one predictor or denoiser in an interval of noise, else another.

  Guidance in an interval alone is that of Kynkäänniemi et al. (2024).

  Args:
    inside: of n images, such as `classifier_free` returns.
    outside: likewise, such as that without guidance, which is half of the work.
    interval: the first and the last timestep of the training schedule of the
      former.

  Returns:
    The same, of n images that are all at one timestep, as samplers have them.
    One of the two runs, not both.
  """
  low, high = interval

  def chosen(x, t):
    is_inside = (low <= t[0]) & (t[0] <= high)
    return jax.lax.cond(is_inside, inside, outside, x, t)

  return chosen


def check_interval(interval: tuple[int, int] | None, num_steps: int) -> None:
  """Raises UserError unless it is None or two of `num_steps` timesteps."""
  if interval is not None and not 0 <= interval[0] <= interval[1] < num_steps:
    raise UserError(
      f"config.generator.guidance_interval={interval}: give the first and "
      f"the last timestep to guide, two of 0 to {num_steps - 1} in ascending "
      "order, or None to guide at every one."
    )


def from_noise(predict: Predictor, betas: np.ndarray) -> Denoiser:
  """Turns a predictor of noise and learned variance into a denoiser.

  Args:
    predict: see `Predictor`.
    betas: [T] of the training schedule.

  Returns:
    A denoiser whose x_0 is clipped to [-1, 1].
  """
  alpha_bar = np.cumprod(1 - np.asarray(betas, np.float64))
  coef_x = jnp.asarray(np.sqrt(1 / alpha_bar), jnp.float32)
  coef_eps = jnp.asarray(np.sqrt(1 / alpha_bar - 1), jnp.float32)

  def denoise(x, t):
    eps, v = jnp.split(predict(x, t), 2, axis=-1)
    shape = (len(x),) + (1,) * (x.ndim - 1)
    x0 = coef_x[t].reshape(shape) * x - coef_eps[t].reshape(shape) * eps
    return jnp.clip(x0, -1, 1), (v + 1) / 2

  return denoise


def towards(
  encode: Callable[[jax.Array, jax.Array], jax.Array],
  features: jax.Array,
  scale: float,
) -> CondFn:
  """Guides images towards features, as CLIP guidance does (GLIDE, Section 2.4).

  The scaled cosine takes the place of a classifier's log probability.

  Args:
    encode: (x_t [n, h, w, c], t [n]) -> features [n, d] of unit length.
    features: [n, d] of unit length, such as those of the prompts.
    scale: of the cosine; 0 guides nowhere.

  Returns:
    (x_t, t) -> scale times the gradient of the cosine, [n, h, w, c].
  """

  def cosines(x, t):
    # Each image has its own term, so the gradient of the sum is each one's.
    return jnp.sum(encode(x, t) * features)

  gradient = jax.grad(cosines)
  return lambda x, t: scale * gradient(x, t)


def towards_doubt(
  denoise: Denoiser,
  alpha_bar: np.ndarray,
  logits_of: Callable[[jax.Array], jax.Array],
  scale: float,
) -> CondFn:
  """Guides images towards what a classifier is unsure of.

  That is the feedback of Hemmat et al. (2023), by which Deliberate Practice
  (2025) draws. The classifier sees x_0 as predicted, mixed with x_t where that
  has little noise, and the gradient of the entropy goes through the denoiser.
  As there, its length is that of x_t, times the root of alpha_bar: so samplers
  move x_0 by a share of x_t, even where hardly a trace of x_0 is left.

  Args:
    denoise: see `Denoiser`.
    alpha_bar: [T], by timestep.
    logits_of: [n, h, w, c] -> logits [n, k]; decodes latents itself.
    scale: of the gradient; 0 guides nowhere.

  Returns:
    (x_t, t) -> the scaled gradient, [n, h, w, c]; 0 where there is none.
  """
  signal, noise = (
    jnp.asarray(np.sqrt(x), jnp.float32) for x in (alpha_bar, 1 - alpha_bar)
  )
  doubt = _doubt(denoise, lambda t: noise[t], logits_of)

  def cond_fn(x, t):
    g = doubt(x, t)
    return scale * signal[t][:, None, None, None] * g

  return cond_fn


def doubting(
  denoise: Denoiser,
  noise_of: Callable[[jax.Array], jax.Array],
  logits_of: Callable[[jax.Array], jax.Array],
  scale: float,
) -> Denoiser:
  """Moves the predicted x_0 to where a classifier is unsure.

  It moves as far as the solvers of the ODE move it by `towards_doubt`, whose
  gradient is 0 in noise alone, where flow matching starts: there it moves, too.

  Args:
    denoise: see `Denoiser`.
    noise_of: t [n] -> the share of noise in x_t [n], the root of
      1 - alpha_bar.
    logits_of: see `towards_doubt`.
    scale: likewise.

  Returns:
    A denoiser that does not clip x_0 again.
  """
  doubt = _doubt(denoise, noise_of, logits_of)

  def moved(x, t):
    x0, variance = denoise(x, t)
    share = noise_of(t)[:, None, None, None] ** 2
    return x0 + scale * share * doubt(x, t), variance

  return moved


def _doubt(denoise, noise_of, logits_of):
  """Returns (x_t, t) -> the entropy's gradient, as long as x_t is, or 0."""

  def entropies(x, t):
    share = noise_of(t)[:, None, None, None]
    x0, _ = denoise(x, t)
    log_p = jax.nn.log_softmax(logits_of(share * x0 + (1 - share) * x))
    # Each image has its own term, so the gradient of the sum is each one's.
    return -jnp.sum(jnp.exp(log_p) * log_p)

  gradient = jax.grad(entropies)
  length = lambda x: jnp.sqrt(jnp.sum(x**2, (1, 2, 3), keepdims=True))

  def doubt(x, t):
    g = gradient(x, t)
    return g * length(x) / jnp.maximum(length(g), 1e-20)

  return doubt
