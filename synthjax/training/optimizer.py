"""Optimizers, by name, with learning rates of `rates`."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from synthjax.runtime.errors import (
  BELOW_ONE,
  FLAG,
  NOT_NEGATIVE,
  NUMBERS,
  POSITIVE,
  SHARE,
  WHOLE,
  UserError,
  check_fields,
  check_values,
  one_of,
  unknown_names,
)

# --- which parameters the weight decay acts on, by name ----------------------


def everything(params: Any) -> Any:
  """Lets the weight decay act on all parameters."""
  return jax.tree.map(lambda _: True, params)


def matrices(params: Any) -> Any:
  """Lets the weight decay act on kernels and embeddings alone.

  Left out are, as in timm and DeiT, all biases, the scales of norms, and the
  class token and positions of a ViT.
  """

  def decays(path, x):
    name = str(path[-1].key)
    return jnp.ndim(x) > 1 and name not in ("bias", "cls_token", "pos_embed")

  return jax.tree_util.tree_map_with_path(decays, params)


def all_but_norms(params: Any) -> Any:
  """Spares the scales and biases of norms, as detectron2 does, alone."""

  def spare(tree):
    if not isinstance(tree, Mapping):
      return True
    # What has a scale is a norm.
    return {k: "scale" not in tree and spare(v) for k, v in tree.items()}

  return spare(params)


DECAYS = {
  "all": everything,
  "matrices": matrices,
  "all_but_norms": all_but_norms,
}


# --- ------
# --- learning-rate schedules, by name ----------------------------------------

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


# --- ------
def sgd(
  rate: Rate,
  weight_decay: float,
  mask: Callable | None = None,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
) -> optax.GradientTransformation:
  """SGD with momentum; the decay joins the gradient, as in PyTorch."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.sgd(rate, momentum=momentum, nesterov=nesterov),
  )


def adamw(
  rate: Rate, weight_decay: float, mask: Callable | None = None
) -> optax.GradientTransformation:
  """AdamW with PyTorch's constants."""
  return optax.adamw(rate, weight_decay=weight_decay, mask=mask)


def lars(
  rate: Rate,
  weight_decay: float,
  mask: Callable | None = None,
  *,
  momentum: float = 0.9,
  trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:
  """SGD whose steps are scaled to each kernel's norm (You et al. 2017).

  For batches of thousands of images. As is usual, biases, norms and the like
  are neither scaled nor, with the mask "matrices", decayed.
  """
  return optax.lars(
    rate,
    weight_decay,
    weight_decay_mask=mask or everything,
    trust_coefficient=trust_coefficient,
    trust_ratio_mask=matrices,
    momentum=momentum,
  )


OPTIMIZERS = {"adamw": adamw, "lars": lars, "sgd": sgd}

# All that `make_optimizer` takes, for any optimizer and schedule.
FIELDS = {
  "name": one_of(OPTIMIZERS),
  "lr": NOT_NEGATIVE,
  "rate": one_of(RATES),
  "warmup": WHOLE,
  "weight_decay": NOT_NEGATIVE,
  "decay": one_of(DECAYS),
  "clip_norm": POSITIVE,
  # Of some optimizers.
  "momentum": BELOW_ONE,
  "nesterov": FLAG,
  "trust_coefficient": POSITIVE,
  # Of some schedules.
  "warmup_lr": NOT_NEGATIVE,
  "min_lr": NOT_NEGATIVE,
  "fall_share": SHARE,
  "falls": NUMBERS,
  "fall_factor": POSITIVE,
  "warmup_factor": SHARE,
}


def with_rate(
  name: str,
  rate: Rate,
  *,
  weight_decay: float = 0.0,
  decay: str = "all",
  clip_norm: float | None = None,
  **options: Any,
) -> optax.GradientTransformation:
  """Builds an optimizer of OPTIMIZERS with any learning rate.

  Args:
    name: of the optimizer.
    rate: a function of the step.
    weight_decay: as the optimizer takes it.
    decay: what it acts on, a key of DECAYS.
    clip_norm: largest global norm of the gradient, if any.
    **options: keyword arguments of the optimizer, such as `nesterov`.

  Raises:
    UserError: about an unknown optimizer, mask or option.
  """
  for kind, choice, known in (
    ("optimizer", name, OPTIMIZERS),
    ("weight-decay mask", decay, DECAYS),
  ):
    if choice not in known:
      raise unknown_names(kind, [choice], known)
  if unknown := options.keys() - options_of(OPTIMIZERS[name]):
    known = _named(with_rate) - {"name", "rate"} | options_of(OPTIMIZERS[name])
    raise unknown_names(f"option of {name},", sorted(unknown), known)
  mask = None if decay == "all" else DECAYS[decay]
  tx = OPTIMIZERS[name](rate, weight_decay, mask, **options)
  if clip_norm is None:
    return tx
  return optax.chain(optax.clip_by_global_norm(clip_norm), tx)


def make_optimizer(
  name: str,
  *,
  lr: float,
  num_steps: int,
  rate: str = "cosine",
  warmup: int = 0,
  **fields: Any,
) -> optax.GradientTransformation:
  """Builds an optimizer of OPTIMIZERS with a schedule of RATES.

  Args:
    name: of the optimizer.
    lr: the highest learning rate.
    num_steps: of the whole training.
    rate: of the schedule.
    warmup: steps of the linear rise.
    **fields: of `with_rate`, and keyword arguments of the schedule.

  Raises:
    UserError: about unknown names.
  """
  given = {"name": name, "lr": lr, "rate": rate, "warmup": warmup} | fields
  check_values("optimizer", given, FIELDS)
  of_rate, rest = split_options(rate, fields)
  schedule = make_rate(
    rate, lr=lr, num_steps=num_steps, warmup=warmup, **of_rate
  )
  return with_rate(name, schedule, **rest)


def check_optimizer(fields: Mapping[str, Any], *, num_steps: int) -> None:
  """Checks the block `optimizer` of a training of so many steps.

  Raises:
    UserError: as `make_optimizer`, or about what is missing.
  """
  check_fields("optimizer", fields, FIELDS, ("name", "lr"))
  make_optimizer(num_steps=num_steps, **fields)


def split_options(rate: str, fields: Mapping) -> tuple[dict, dict]:
  """Returns the fields that the schedule takes, and all others."""
  if rate not in RATES:
    raise unknown_names("learning-rate schedule", [rate], RATES)
  known = options_of(RATES[rate])
  return (
    {k: v for k, v in fields.items() if k in known},
    {k: v for k, v in fields.items() if k not in known},
  )


def _named(function: Callable) -> set[str]:
  parameters = inspect.signature(function).parameters.values()
  return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
