"""The denoising objective: GLIDE's loss for its base and its upsampler."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.diffusion import schedule
from synthjax.models.pixels import to_unit
from synthjax.training import loop
from synthjax.training.loop import Objective

# (params, x_t, t, tokens, mask, low_res or None, dropout rng) -> [n, h, w, 6]
Apply = Callable[..., jax.Array]


@flax.struct.dataclass
class DenoisingState:
  """What a training run of a diffusion model carries."""

  step: jax.Array  # []
  params: Any
  ema: Any  # running average of params, which samples better
  opt_state: optax.OptState


# (apply, params, batch, rng) -> a loss [], and what is reported of it. A batch
# holds uint8 `image` [n, h, w, 3], int32 `tokens` and bool `mask` [n, l], and
# for an upsampler uint8 `low_res`.
Loss = Callable[[Apply, Any, dict, jax.Array], tuple[jax.Array, dict]]


def denoising(
  apply: Apply,
  init_params: Callable[[jax.Array, Any], Any],
  tx: optax.GradientTransformation,
  *,
  ema_decay: float = 0.999,
  **options: Any,
) -> Objective:
  """Trains a network to predict noise and its variance.

  Args:
    apply: see `Apply`.
    init_params: (rng, batch) -> params.
    tx: the optimizer.
    ema_decay: of the running average, see `loop.follow`.
    **options: of `make_loss`.
  """
  loss_of = make_loss(**options)

  def init(rng, batch):
    params = init_params(rng, batch)
    # A copy: a donated state must not hold one buffer twice.
    ema = jax.tree.map(jnp.copy, params)
    return DenoisingState(
      jnp.zeros((), jnp.int32), params, ema, tx.init(params)
    )

  def step(state, batch, rng):
    loss_fn = lambda params: loss_of(apply, params, batch, rng)
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = DenoisingState(
      step=state.step + 1,
      params=params,
      ema=loop.follow(state.ema, params, state.step, decay=ema_decay),
      opt_state=opt_state,
    )
    norm = optax.tree.norm(grads)
    return state, {"loss": loss, **metrics, "grad_norm": norm}

  return Objective(init, step)


def make_loss(
  *,
  betas: np.ndarray,
  pad_token: int,
  drop_prompt: float = 0.2,
  max_weight: float = 1.0,
  low_res_noise: float = 0.0,
) -> Loss:
  """Returns the loss of Nichol & Dhariwal (2021), as GLIDE uses it.

  It is the squared error of the noise, plus T/1000 of the variational bound in
  bits, of which only the variance receives gradients.

  Args:
    betas: [T] of the noise schedule.
    pad_token: what stands in an empty prompt.
    drop_prompt: share of prompts that are emptied, for guidance without a
      classifier.
    max_weight: the noise's error at a step counts min(1 / alpha_bar,
      max_weight) times. At 1, GLIDE's own choice, all steps count alike;
      above, noisy ones count more, up to what the loss of Salimans & Ho (2022,
      Section 4) makes of them. There colours and shapes are decided, which
      short trainings otherwise learn last.
    low_res_noise: standard deviation, of values in [-1, 1], of noise that an
      upsampler's `low_res` gets at most, each image another amount. The base's
      images are not as clean as real ones (Ho et al. 2022, Section 4).
  """
  tables = schedule.respace(betas)
  num_steps = len(tables.timestep)
  # Half of the weight, as a factor, is how often a step is drawn; the other
  # half multiplies its loss. So neither a few draws nor rare ones decide.
  weight = np.sqrt(np.minimum(1 / tables.alpha_bar, max_weight))
  log_share = jnp.asarray(np.log(weight), jnp.float32)
  weight = jnp.asarray(weight / weight.mean(), jnp.float32)
  tables = jax.tree.map(lambda t: jnp.asarray(t, jnp.float32), tables)

  def loss_of(apply, params, batch, rng):
    t_rng, noise_rng, drop_rng, dropout_rng = jax.random.split(rng, 4)
    x0 = to_unit(batch["image"])
    low_res = to_unit(batch["low_res"]) if "low_res" in batch else None
    n = len(x0)
    if low_res is not None and low_res_noise:
      low_res = _disturb(
        low_res, jax.random.fold_in(noise_rng, 1), low_res_noise
      )
    t = jax.random.categorical(t_rng, log_share, shape=(n,))
    noise = jax.random.normal(noise_rng, x0.shape)
    at = jax.tree.map(lambda table: table[t][:, None, None, None], tables)
    x = jnp.sqrt(at.alpha_bar) * x0 + jnp.sqrt(1 - at.alpha_bar) * noise
    keep = jax.random.uniform(drop_rng, (n, 1)) >= drop_prompt
    mask = batch["mask"] & keep
    tokens = jnp.where(keep, batch["tokens"], pad_token)
    out = apply(params, x, t, tokens, mask, low_res, dropout_rng)
    eps, v = jnp.split(out, 2, axis=-1)
    error = jnp.square(eps - noise).mean((1, 2, 3))
    simple = (weight[t] * error).mean()
    bound = variational_bound(jax.lax.stop_gradient(eps), v, x0, x, t, at)
    loss = simple + num_steps / 1000 * bound.mean()
    return loss, {"noise_error": simple, "bound": bound.mean()}

  return loss_of


def _disturb(images: jax.Array, rng: jax.Array, most: float) -> jax.Array:
  """Adds noise to images, to each of a standard deviation of up to `most`."""
  amount_rng, noise_rng = jax.random.split(rng)
  amount = jax.random.uniform(amount_rng, (len(images), 1, 1, 1), maxval=most)
  return images + amount * jax.random.normal(noise_rng, images.shape)


def variational_bound(
  eps: jax.Array,
  v: jax.Array,
  x0: jax.Array,
  x: jax.Array,
  t: jax.Array,
  at: schedule.Schedule,
) -> jax.Array:
  """Bounds the likelihood at one step, in bits for each value.

  Args:
    eps: predicted noise [n, h, w, c].
    v: [n, h, w, c] where the log variance lies, -1 (lower) to 1 (upper).
    x0: clean images in [-1, 1].
    x: noised images.
    t: [n] steps.
    at: the tables at `t`, each [n, 1, 1, 1].

  Returns:
    [n]: the divergence of the model's step from the posterior (Nichol &
    Dhariwal 2021, Eq. 5), or at step 0 the negative log likelihood of the
    8-bit image (Ho et al. 2020, Eq. 13).
  """
  guess = (x - jnp.sqrt(1 - at.alpha_bar) * eps) / jnp.sqrt(at.alpha_bar)
  mean = at.mean_coef_x0 * guess + at.mean_coef_x * x
  share = (v + 1) / 2
  log_variance = share * jnp.log(at.beta) + (1 - share) * at.log_variance

  true_mean = at.mean_coef_x0 * x0 + at.mean_coef_x * x
  gap = at.log_variance - log_variance
  divergence = 0.5 * (
    jnp.exp(gap)
    - 1
    - gap
    + jnp.square(true_mean - mean) * jnp.exp(-log_variance)
  )

  def below(edge):  # probability that the sample lies below x0 + edge
    return jax.scipy.stats.norm.cdf(
      (x0 + edge - mean) * jnp.exp(-0.5 * log_variance)
    )

  # The 8-bit levels are 2/255 apart; the outermost ones reach to infinity.
  upper = jnp.where(x0 > 0.999, 1.0, below(1 / 255))
  lower = jnp.where(x0 < -0.999, 0.0, below(-1 / 255))
  likelihood = -jnp.log(jnp.maximum(upper - lower, 1e-12))
  first = (t == 0)[:, None, None, None]
  bits = jnp.where(first, likelihood, divergence) / jnp.log(2.0)
  return bits.mean(axis=(1, 2, 3))
