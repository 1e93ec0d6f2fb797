"""Optimizers and learning-rate schedules, by name."""

from collections.abc import Callable
from functools import partial

import optax

from synthjax.errors import UserError

Rate = Callable[[int], float]  # step -> learning rate


def cosine(lr: float, num_steps: int, warmup: int = 0) -> Rate:
  """Rises linearly over `warmup` steps, then falls to 0 along a cosine."""
  if not warmup:
    return optax.cosine_decay_schedule(lr, num_steps)
  return optax.warmup_cosine_decay_schedule(0.0, lr, warmup, num_steps)


def trapezoid(
  lr: float, num_steps: int, warmup: int = 0, *, fall_share: float = 0.3
) -> Rate:
  """Rises, holds, and falls to 0 over the last steps: 30 % of them.

  As nothing before the fall depends on `num_steps`, a run can be extended.
  """
  fall = int(fall_share * num_steps)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, lr, max(warmup, 1)),
      optax.constant_schedule(lr),
      optax.linear_schedule(lr, 0.0, fall),
    ],
    [warmup, num_steps - fall],
  )


def constant(lr: float, num_steps: int, warmup: int = 0) -> Rate:
  """Rises linearly over `warmup` steps, then holds."""
  del num_steps
  return optax.linear_schedule(0.0, lr, warmup) if warmup else lambda _: lr


RATES = {
  "cosine": cosine,
  "trapezoid": trapezoid,
  # For what the noise of large steps blurs: most of the time is the fall.
  "long_fall": partial(trapezoid, fall_share=0.7),
  "constant": constant,
}


def sgd(rate: Rate, weight_decay: float) -> optax.GradientTransformation:
  """SGD with momentum 0.9; the decay joins the gradient, as in PyTorch."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=0.9)
  )


def adamw(rate: Rate, weight_decay: float) -> optax.GradientTransformation:
  """AdamW with PyTorch's constants."""
  return optax.adamw(rate, weight_decay=weight_decay)


OPTIMIZERS = {"adamw": adamw, "sgd": sgd}


def make_optimizer(
  name: str,
  *,
  lr: float,
  num_steps: int,
  rate: str = "cosine",
  warmup: int = 0,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
) -> optax.GradientTransformation:
  """Builds an optimizer of OPTIMIZERS with a schedule of RATES.

  Args:
    name: of the optimizer.
    lr: the highest learning rate.
    num_steps: of the whole training.
    rate: of the schedule.
    warmup: steps of the linear rise.
    weight_decay: as the optimizer takes it.
    clip_norm: largest global norm of the gradient, if any.
  """
  for kind, choice, known in (
    ("optimizer", name, OPTIMIZERS),
    ("learning-rate schedule", rate, RATES),
  ):
    if choice not in known:
      raise UserError(
        f"{kind} {choice!r} is not known; choose one of {sorted(known)}."
      )
  tx = OPTIMIZERS[name](RATES[rate](lr, num_steps, warmup), weight_decay)
  if clip_norm is None:
    return tx
  return optax.chain(optax.clip_by_global_norm(clip_norm), tx)
