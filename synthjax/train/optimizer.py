"""Optimizers, by name, with learning rates of `rates`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from synthjax.errors import (
  BELOW_ONE,
  FLAG,
  NOT_NEGATIVE,
  NUMBERS,
  POSITIVE,
  SHARE,
  WHOLE,
  check_fields,
  check_values,
  one_of,
  unknown_names,
)
from synthjax.train.decay import DECAYS, everything, matrices
from synthjax.train.rates import RATES, Rate, make_rate, options_of


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
