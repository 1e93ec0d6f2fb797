"""Optimizers and learning rates by name: the block `optimizer` of a training.

The keyword arguments below are its fields: types, defaults and rules stand
there alone. A new optimizer or schedule is a function in OPTIMIZERS or RATES.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.config import schema
from synthjax.config.schema import (
  Arguments,
  BelowOne,
  Flag,
  NotNegative,
  Numbers,
  Positive,
  Rule,
  Share,
  Whole,
  one_of,
)
from synthjax.runtime.errors import UserError, unknown_names

# --- which parameters the weight decay acts on, by name ----------------------


def everything(params: Any) -> Any:
  """Decays all parameters."""
  return jax.tree.map(lambda _: True, params)


def matrices(params: Any) -> Any:
  """Decays kernels and embeddings alone.

  As in timm and DeiT, it spares all biases, the scales of norms, and the class
  token and positions of a ViT.
  """

  def decays(path, x):
    name = str(path[-1].key)
    return jnp.ndim(x) > 1 and name not in ("bias", "cls_token", "pos_embed")

  return jax.tree_util.tree_map_with_path(decays, params)


def all_but_norms(params: Any) -> Any:
  """Decays all but the scales and biases of norms, as detectron2 does."""

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


# --- learning-rate schedules, by name ----------------------------------------

Rate = Callable[[int], float]  # step -> learning rate


def cosine(lr: float, num_steps: int, warmup: int = 0) -> Rate:
  """Rises linearly over `warmup` steps, then falls to 0 along a cosine."""
  if not warmup:
    return optax.cosine_decay_schedule(lr, num_steps)
  if warmup >= num_steps:
    raise UserError(
      f"The learning rate rises for {warmup} steps, but there are {num_steps}: "
      "choose a shorter `warmup` of the optimizer, or train for longer."
    )
  return optax.warmup_cosine_decay_schedule(0.0, lr, warmup, num_steps)


def timm_cosine(
  lr: float,
  num_steps: int,
  warmup: int = 0,
  *,
  warmup_lr: NotNegative = 1e-6,
  min_lr: NotNegative = 1e-5,
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
  lr: float, num_steps: int, warmup: int = 0, *, fall_share: Share = 0.3
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
  falls: Numbers = (0.75, 11 / 12),
  fall_factor: Positive = 0.1,
  warmup_factor: Share = 1e-3,
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


# --- optimizers, by name -----------------------------------------------------


def sgd(
  rate: Rate,
  weight_decay: float,
  mask: Callable | None = None,
  *,
  momentum: BelowOne = 0.9,
  nesterov: Flag = False,
) -> optax.GradientTransformation:
  """SGD with momentum; the decay joins the gradient, as in PyTorch."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.sgd(rate, momentum=momentum, nesterov=nesterov),
  )


def adamw(
  rate: Rate,
  weight_decay: float,
  mask: Callable | None = None,
  *,
  b2: BelowOne = 0.999,
) -> optax.GradientTransformation:
  """AdamW with PyTorch's constants, but for beta_2 where another is given."""
  return optax.adamw(rate, b2=b2, weight_decay=weight_decay, mask=mask)


def lars(
  rate: Rate,
  weight_decay: float,
  mask: Callable | None = None,
  *,
  momentum: BelowOne = 0.9,
  trust_coefficient: Positive = 0.001,
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


# --- the block `optimizer` ---------------------------------------------------


def make_rate(
  rate: Annotated[str, one_of(RATES)] = "cosine",
  *,
  lr: NotNegative,
  num_steps: int,
  epochs: float | None = None,
  warmup: Whole = 0,
  warmup_epochs: NotNegative = 0,
  per_epoch: Flag = False,
  epoch_lag: Whole = 0,
  drops: Numbers = (),
  drop_factor: Positive = 0.1,
  **options: Any,
) -> Rate:
  """Returns a learning rate: a function of the step.

  Args:
    rate: of the schedule, a key of RATES.
    lr: the highest learning rate.
    num_steps: of the whole training.
    epochs: of the whole training; None where it counts in steps alone.
    warmup: steps of the linear rise; or give
    warmup_epochs: epochs of it.
    per_epoch: keeps the rate of an epoch's start until the next one, as MoCo
      and DeiT do, instead of changing it with each step.
    epoch_lag: epochs by which a rate `per_epoch` is late.
    drops: epochs after which the rate is multiplied by `drop_factor`; none
      leaves the schedule to `rate`.
    drop_factor: see `drops`.
    **options: keyword arguments of the schedule, such as `min_lr`.

  Raises:
    UserError: about unknown names, contradictions, or drops that never come.
  """
  if epochs is None and (drops or warmup_epochs or per_epoch):
    raise UserError(
      "This training counts in steps: its optimizer takes no drops, "
      "warmup_epochs or per_epoch; give warmup in steps."
    )
  if drops:
    if late := [epoch for epoch in drops if not 0 < epoch < epochs]:
      raise UserError(
        f"The learning rate is to drop after epoch {late}, but there are "
        f"{epochs} epochs: choose drops between them."
      )
    scales = {round(epoch / epochs * num_steps): drop_factor for epoch in drops}
    return optax.piecewise_constant_schedule(lr, scales)
  if warmup and warmup_epochs:
    raise UserError(
      f"found warmup={warmup} steps and warmup_epochs={warmup_epochs}; give "
      "one of them."
    )
  make = partial(schema.resolve(rate, RATES), lr, **options)
  if not per_epoch:
    if warmup_epochs:
      warmup = round(warmup_epochs / epochs * num_steps)
    return make(num_steps, warmup)
  # The same schedule, of epochs in place of steps.
  by_epoch = make(epochs, warmup_epochs or warmup / num_steps * epochs)
  # The first step of each epoch but the first.
  starts = np.rint(np.arange(1, epochs) / epochs * num_steps)

  def schedule(step):
    epoch = jnp.sum(step >= starts)
    return by_epoch(jnp.maximum(epoch - epoch_lag, 0))

  return schedule


def make_optimizer(
  name: Annotated[str, one_of(OPTIMIZERS)],
  *,
  num_steps: int,
  epochs: float | None = None,
  weight_decay: NotNegative = 0.0,
  decay: Annotated[str, one_of(DECAYS)] = "all",
  clip_norm: Positive | None = None,
  **fields: Any,
) -> optax.GradientTransformation:
  """Builds an optimizer of OPTIMIZERS with a learning rate of RATES.

  Args:
    name: of the optimizer.
    num_steps: of the whole training.
    epochs: of the whole training; None where it counts in steps alone.
    weight_decay: as the optimizer takes it.
    decay: what it acts on, a key of DECAYS.
    clip_norm: largest global norm of the gradient, if any.
    **fields: `lr`, other arguments of `make_rate`, and options of the optimizer
      and of the schedule, such as `nesterov` and `min_lr`.

  Raises:
    UserError: about unknown names, or fields that do not go together.
  """
  optimizer = schema.resolve(name, OPTIMIZERS)
  schedule = schema.resolve(fields.get("rate", "cosine"), RATES)
  of_optimizer, of_schedule = _options(optimizer), _options(schedule)
  allowed = _SHARED | of_optimizer | of_schedule
  if unknown := fields.keys() - allowed.keys():
    raise unknown_names("optimizer field", sorted(unknown), allowed)
  if fields.get("drops"):
    taken = {"rate", "warmup", "warmup_epochs", "per_epoch", "epoch_lag"}
    if wrong := fields.keys() & (taken | of_schedule.keys()):
      raise UserError(
        f"An optimizer with drops takes no {' and no '.join(sorted(wrong))}: "
        "the rate is constant between the drops."
      )
  given = {k: v for k, v in fields.items() if k not in of_optimizer}
  tx = optimizer(
    make_rate(num_steps=num_steps, epochs=epochs, **given),
    weight_decay,
    None if decay == "all" else schema.resolve(decay, DECAYS),
    **{k: v for k, v in fields.items() if k in of_optimizer},
  )
  if clip_norm is None:
    return tx
  return optax.chain(optax.clip_by_global_norm(clip_norm), tx)


def check_optimizer(
  fields: Mapping[str, Any],
  *,
  num_steps: int = 10**9,
  epochs: float | None = None,
) -> None:
  """Checks the block `optimizer`, also where num_steps is not known yet.

  Raises:
    UserError: about missing or wrong fields, or as `make_optimizer`.
  """
  make = schema.read(OPTIMIZER, fields, "optimizer")
  make(num_steps=num_steps, epochs=epochs)


def _options(function: Callable) -> dict[str, tuple[Any, bool]]:
  """Returns the fields that one schedule or one optimizer has of its own."""
  common = ("rate", "weight_decay", "mask", "lr", "num_steps", "warmup")
  return Arguments(function, common).fields()


_SHARED = {
  **Arguments(make_optimizer, ("num_steps", "epochs")).fields(),
  **Arguments(make_rate, ("num_steps", "epochs")).fields(),
}


@dataclasses.dataclass(frozen=True, eq=False)
class _Block(Arguments):
  """The schema of a block with all options; `make_optimizer` takes a part."""

  lr: Any = NotNegative

  def fields(self) -> dict[str, tuple[Any, bool]]:
    fields = _SHARED | {"lr": (self.lr, True)}
    for function in (*OPTIMIZERS.values(), *RATES.values()):
      fields |= _options(function)
    return fields


# A block becomes `make_optimizer` without `num_steps` and `epochs`.
OPTIMIZER = _Block(make_optimizer)
# The same where a training with each rate is tried: `lr` may list several.
SEARCHED_OPTIMIZER = _Block(
  make_optimizer,
  lr=NotNegative
  | Annotated[tuple[NotNegative, ...], Rule(len, "several, as (0.1, 0.2)")],
)
