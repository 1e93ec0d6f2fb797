"""Learning-rate schedules, by name."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from synthjax.errors import UserError, unknown_names

Rate = Callable[[int], float]  # step -> learning rate


def cosine(lr: float, num_steps: int, warmup: int = 0) -> Rate:
  """Rises linearly over `warmup` steps, then falls to 0 along a cosine."""
  if not warmup:
    return optax.cosine_decay_schedule(lr, num_steps)
  if warmup >= num_steps:
    raise UserError(
      f"The learning rate rises for {warmup} steps, but there are {num_steps}: "
      "choose a shorter warm-up, or train for longer."
    )
  return optax.warmup_cosine_decay_schedule(0.0, lr, warmup, num_steps)


def timm_cosine(
  lr: float,
  num_steps: int,
  warmup: int = 0,
  *,
  warmup_lr: float = 1e-6,
  min_lr: float = 1e-5,
) -> Rate:
  """Rises linearly from `warmup_lr`, then falls to `min_lr`, as timm's does.

  The cosine spans all steps: the warm-up hides its start and does not delay
  it, so that the rate jumps down a little where the warm-up ends.
  """

  def rate(step):
    rise = warmup_lr + (lr - warmup_lr) * step / max(warmup, 1)
    angle = math.pi * jnp.minimum(step / num_steps, 1)
    fall = min_lr + (lr - min_lr) * (1 + jnp.cos(angle)) / 2
    return jnp.where(step < warmup, rise, fall)

  return rate


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


def staircase(
  lr: float,
  num_steps: int,
  warmup: int = 0,
  *,
  falls: Sequence[float] = (0.75, 11 / 12),
  fall_factor: float = 0.1,
  warmup_factor: float = 1e-3,
) -> Rate:
  """Rises linearly from a share of `lr`, then falls at a few steps.

  The falls are shares of all steps, which other batch sizes need more or fewer
  of. The defaults are detectron2's for VOC: 18,000 and 22,000 of 24,000.
  """
  scales = {round(share * num_steps): fall_factor for share in falls}
  stairs = optax.piecewise_constant_schedule(lr, scales)

  def rate(step):
    risen = jnp.minimum(step / max(warmup, 1), 1) if warmup else 1.0
    return stairs(step) * (warmup_factor + (1 - warmup_factor) * risen)

  return rate


RATES = {
  "cosine": cosine,
  "timm_cosine": timm_cosine,
  "trapezoid": trapezoid,
  # For what the noise of large steps blurs: most of the time is the fall.
  "long_fall": partial(trapezoid, fall_share=0.7),
  "constant": constant,
  "staircase": staircase,
}


def make_rate(
  name: str, *, lr: float, num_steps: int, warmup: int = 0, **options: Any
) -> Rate:
  """Returns a learning rate of RATES: a function of the step.

  Args:
    name: of the schedule, a key of RATES.
    lr: the highest learning rate.
    num_steps: of the whole training.
    warmup: steps of the linear rise.
    **options: keyword arguments of the schedule, such as `min_lr`.

  Raises:
    UserError: about an unknown schedule or option.
  """
  if name not in RATES:
    raise unknown_names("learning-rate schedule", [name], RATES)
  if unknown := options.keys() - options_of(RATES[name]):
    raise unknown_names(
      f"option of the learning-rate schedule {name},",
      sorted(unknown),
      options_of(RATES[name]),
    )
  return RATES[name](lr, num_steps, warmup, **options)


def options_of(function: Callable) -> set[str]:
  """Returns the names of the arguments that are given by keyword alone."""
  parameters = inspect.signature(function).parameters.values()
  return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
