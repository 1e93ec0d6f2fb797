"""Recipes that count in epochs, as papers give them."""

import inspect
from collections.abc import Sequence
from typing import Any

import optax

from synthjax.errors import UserError, unknown_names
from synthjax.train import optimizer


def count_steps(num_images: int, *, epochs: float, batch_size: int) -> int:
  """Returns the steps of so many epochs; the last batch of one runs over."""
  return max(1, round(epochs * num_images / batch_size))


def make_optimizer(
  name: str,
  *,
  lr: float,
  num_steps: int,
  epochs: float,
  drops: Sequence[float] = (),
  drop_factor: float = 0.1,
  **fields: Any,
) -> optax.GradientTransformation:
  """Builds an optimizer whose learning rate may fall in steps.

  Args:
    name: a key of `optimizer.OPTIMIZERS`.
    lr: the highest learning rate.
    num_steps: of the whole training.
    epochs: of the whole training.
    drops: epochs after which the rate is multiplied by `drop_factor`; none
      leaves the schedule to `rate`.
    drop_factor: see `drops`.
    **fields: of `optimizer.make_optimizer`.

  Raises:
    UserError: about unknown names, or drops that never come.
  """
  known = inspect.signature(optimizer.make_optimizer).parameters
  known = known.keys() - {"num_steps"} | {"drops", "drop_factor"}
  if unknown := fields.keys() - known:
    raise unknown_names("optimizer field", sorted(unknown), known)
  if name not in optimizer.OPTIMIZERS:
    raise unknown_names("optimizer", [name], optimizer.OPTIMIZERS)
  rate = fields.get("rate", "cosine")
  if rate not in optimizer.RATES:
    raise unknown_names("learning-rate schedule", [rate], optimizer.RATES)
  if not drops:
    return optimizer.make_optimizer(name, lr=lr, num_steps=num_steps, **fields)

  if wrong := fields.keys() & {"rate", "warmup"}:
    raise UserError(
      f"An optimizer with drops takes no {' and no '.join(sorted(wrong))}: the "
      "rate is constant between the drops."
    )
  if late := [epoch for epoch in drops if not 0 < epoch < epochs]:
    raise UserError(
      f"The learning rate shall drop after epoch {late}, but there are "
      f"{epochs} epochs: choose drops between them."
    )
  scales = {round(epoch / epochs * num_steps): drop_factor for epoch in drops}
  schedule = optax.piecewise_constant_schedule(lr, scales)
  make = optimizer.OPTIMIZERS[name]
  tx = make(schedule, fields.get("weight_decay", 0.0))
  if fields.get("clip_norm") is None:
    return tx
  return optax.chain(optax.clip_by_global_norm(fields["clip_norm"]), tx)
