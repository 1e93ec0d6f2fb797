"""Recipes that count in epochs, as papers give them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from synthjax.runtime.errors import (
  FLAG,
  NOT_NEGATIVE,
  NUMBERS,
  POSITIVE,
  WHOLE,
  UserError,
  check_fields,
  check_values,
  unknown_names,
)
from synthjax.training import optimizer
from synthjax.training.optimizer import RATES, Rate, make_rate, options_of

# What the block `optimizer` of a task may hold: all that `make_optimizer` takes
# for any optimizer and schedule.
OPTIMIZER = optimizer.FIELDS | {
  "warmup_epochs": NOT_NEGATIVE,
  "per_epoch": FLAG,
  "epoch_lag": WHOLE,
  "drops": NUMBERS,
  "drop_factor": POSITIVE,
}
# What the paper and the methods that it uses state; lr is that of the batch
# size beside it. "_from_in1k" starts from weights trained on the real IN-1K.
_AWARE = dict(
  epochs=90,
  batch_size=512,
  # The decay is as printed.
  optimizer=dict(name="adamw", lr=1e-4, weight_decay=0.9),
)
_AGNOSTIC = dict(
  epochs=90,
  batch_size=512,
  optimizer=dict(name="sgd", lr=0.2, drops=(30, 60), weight_decay=1e-4),
)
_MOCO = dict(
  epochs=200,
  batch_size=256,
  optimizer=dict(
    name="sgd", lr=0.03, rate="cosine", per_epoch=True, weight_decay=1e-4
  ),
)
_start = lambda recipe, lr: (
  recipe | {"optimizer": recipe["optimizer"] | {"lr": lr}}
)
RECIPES = {
  # Appendix C.5.3 of He et al. (2023): ResNet-50 for CIFAR-100's own classes,
  # and for those of ImageNet.
  "aware": _AWARE,
  "aware_from_in1k": _start(_AWARE, 1e-5),
  "agnostic": _AGNOSTIC,
  "agnostic_from_in1k": _start(_AGNOSTIC, 0.001),
  "transfer_cifar100": dict(
    epochs=200,
    batch_size=128,
    optimizer=dict(
      name="sgd",
      lr=0.003,
      drops=(60, 120, 160),
      drop_factor=0.2,
      weight_decay=5e-4,
    ),
  ),
  # Chen et al. (2020).
  "moco_v2": _MOCO,
  "moco_v2_from_in1k": _start(_MOCO, 0.003),
  # Touvron et al. (2021): 5e-4 for each 512 images of a batch.
  "deit": dict(
    epochs=300,
    batch_size=1024,
    optimizer=dict(
      name="adamw",
      lr=1e-3,
      rate="timm_cosine",
      per_epoch=True,
      # The authors' code sets the rate after an epoch to that epoch's own: the
      # first value counts twice, and all others one epoch late.
      epoch_lag=1,
      warmup_epochs=5,
      warmup_lr=1e-6,
      min_lr=1e-5,
      weight_decay=0.05,
      decay="matrices",
    ),
    label_smoothing=0.1,
    ema_decay=0.99996,
  ),
  # On small sets, as its maintainers did on CIFAR-10 (DeiT's issue 45); timm's
  # SGD is Nesterov's.
  "deit_finetune": dict(
    epochs=1000,
    batch_size=768,
    optimizer=dict(
      name="sgd",
      lr=0.01,
      nesterov=True,
      rate="timm_cosine",
      per_epoch=True,
      epoch_lag=1,
      warmup_epochs=5,
      warmup_lr=1e-6,
      min_lr=1e-5,
      weight_decay=1e-4,
      decay="matrices",
    ),
    label_smoothing=0.1,
  ),
  # MoCo's transfer to PASCAL VOC by detectron2 (He et al. 2020): 24,000 steps
  # over the 16,551 images of 07 and 12. See `for_batch_size`.
  "voc_detection": dict(
    epochs=24_000 * 16 / 16_551,
    batch_size=16,
    optimizer=dict(
      name="sgd",
      lr=0.02,
      rate="staircase",
      warmup=100,
      weight_decay=1e-4,
      decay="all_but_norms",
    ),
  ),
}


def for_batch_size(recipe: Mapping, batch_size: int) -> dict[str, Any]:
  """Returns a recipe for batches of another size, by the linear rule.

  The rate grows with the batch, and a warm-up in steps is over after as many
  images (Goyal et al. 2017); epochs stay, so that the steps become fewer.
  """
  scale = batch_size / recipe["batch_size"]
  optimizer = dict(recipe["optimizer"])
  optimizer["lr"] *= scale
  if optimizer.get("warmup"):
    optimizer["warmup"] = max(1, round(optimizer["warmup"] / scale))
  return {**recipe, "batch_size": batch_size, "optimizer": optimizer}


def count_steps(num_images: int, *, epochs: float, batch_size: int) -> int:
  """Returns the steps of so many epochs; the last batch of one runs over."""
  return max(1, round(epochs * num_images / batch_size))


def make_epoch_rate(
  *,
  lr: float,
  num_steps: int,
  epochs: float,
  rate: str = "cosine",
  warmup: int = 0,
  warmup_epochs: float = 0,
  per_epoch: bool = False,
  epoch_lag: int = 0,
  drops: Sequence[float] = (),
  drop_factor: float = 0.1,
  **options: Any,
) -> Rate:
  """Returns a learning rate that counts in epochs: a function of the step.

  Args:
    lr: the highest learning rate.
    num_steps: of the whole training.
    epochs: of the whole training.
    rate: of the schedule, a key of `rates.RATES`.
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
  if drops:
    if late := [epoch for epoch in drops if not 0 < epoch < epochs]:
      raise UserError(
        f"The learning rate shall drop after epoch {late}, but there are "
        f"{epochs} epochs: choose drops between them."
      )
    scales = {round(epoch / epochs * num_steps): drop_factor for epoch in drops}
    return optax.piecewise_constant_schedule(lr, scales)
  if warmup and warmup_epochs:
    raise UserError(
      f"found warmup={warmup} steps and warmup_epochs={warmup_epochs}; give "
      "one of them."
    )
  if not per_epoch:
    warmup = warmup or round(warmup_epochs / epochs * num_steps)
    return make_rate(rate, lr=lr, num_steps=num_steps, warmup=warmup, **options)
  # The same schedule, of epochs in place of steps.
  warmup = warmup_epochs or warmup / num_steps * epochs
  by_epoch = make_rate(rate, lr=lr, num_steps=epochs, warmup=warmup, **options)

  # The first step of each epoch but the first.
  starts = np.rint(np.arange(1, epochs) / epochs * num_steps)

  def schedule(step):
    epoch = jnp.sum(step >= starts)
    return by_epoch(jnp.maximum(epoch - epoch_lag, 0))

  return schedule


def make_optimizer(
  name: str, *, num_steps: int, epochs: float, **fields: Any
) -> optax.GradientTransformation:
  """Builds an optimizer whose learning rate counts in epochs.

  Args:
    name: a key of `optimizer.OPTIMIZERS`.
    num_steps: of the whole training.
    epochs: of the whole training.
    **fields: of `make_epoch_rate` and of `with_rate`, with the options of
      the schedule and the optimizer that are named.

  Raises:
    UserError: about unknown names, or drops that never come.
  """
  check_values("optimizer", {"name": name} | fields, OPTIMIZER)
  rate = fields.get("rate", "cosine")
  of_rate, rest = optimizer.split_options(rate, fields)
  own = options_of(make_epoch_rate)
  of_optimizer = options_of(optimizer.with_rate)
  of_optimizer |= options_of(optimizer.OPTIMIZERS[name])
  if unknown := rest.keys() - own - of_optimizer:
    known = own | of_optimizer | options_of(RATES[rate])
    raise unknown_names(
      "optimizer field", sorted(unknown), known - {"num_steps", "epochs"}
    )
  if fields.get("drops"):
    taken = {"rate", "warmup", "warmup_epochs", "per_epoch", "epoch_lag"}
    if wrong := fields.keys() & (taken | of_rate.keys()):
      raise UserError(
        f"An optimizer with drops takes no {' and no '.join(sorted(wrong))}: "
        "the rate is constant between the drops."
      )
  schedule = make_epoch_rate(
    num_steps=num_steps,
    epochs=epochs,
    **of_rate,
    **{k: v for k, v in rest.items() if k in own},
  )
  return optimizer.with_rate(
    name, schedule, **{k: v for k, v in rest.items() if k in of_optimizer}
  )


def check_optimizer(fields: Mapping[str, Any], *, epochs: float) -> None:
  """Checks the block `optimizer`, when nobody knows the number of steps yet.

  Raises:
    UserError: as `make_optimizer`.
  """
  check_values("optimizer", {"epochs": epochs}, {"epochs": POSITIVE})
  check_fields("optimizer", fields, OPTIMIZER, ("name", "lr"))
  make_optimizer(num_steps=10**9, epochs=epochs, **fields)


# --- recipes of RECIPES, filled with what a user gives -----------------------


def fill(fields: Mapping[str, Any], *, linear: bool = False) -> dict[str, Any]:
  """Returns the fields with those of the recipe that `recipe` names.

  What is given wins: of an optimizer each field, unless another optimizer is
  given, which then is taken whole.

  Args:
    fields: of a config; what a recipe does not know stays.
    linear: fits the recipe to the batch size that is given, by the linear
      rule.

  Raises:
    UserError: for an unknown recipe.
  """
  name = fields.get("recipe")
  if name is None:
    return dict(fields)
  if name not in RECIPES:
    raise unknown_names("recipe", [name], RECIPES)
  recipe = RECIPES[name]
  if linear and fields.get("batch_size"):
    recipe = for_batch_size(recipe, fields["batch_size"])
  given, stated = fields.get("optimizer") or {}, recipe["optimizer"]
  if given.get("name", stated["name"]) == stated["name"]:
    given = stated | given
  return recipe | dict(fields) | {"optimizer": dict(given)}
