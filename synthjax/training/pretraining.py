"""The objectives of pre-training, by name, from fields of plain data.

The fields are of `pretraining_fields`; models arrive as `make_model`, a
function (num_classes=, **fields of the model) -> module.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from synthjax.runtime.errors import UserError, unknown_names
from synthjax.training import device_augment, mixup
from synthjax.training import supervised as labelled
from synthjax.training.loop import Objective
from synthjax.training.moco import moco as contrast
from synthjax.training.pretraining_fields import (
  Fields,
  contradictions,
  crops,
  name_of,
  source_size,
)


def supervised(
  fields: Fields,
  make_model: Callable[..., Any],
  num_classes: int,
  tx: optax.GradientTransformation,
  trained: Collection[str] | None = None,
) -> Objective:
  """Returns the objective of cross entropy, of a model with its classifier.

  With `trained`, submodules of these names alone are.
  """
  mix = fields.get("mix")
  return labelled.supervised(
    make_model(num_classes=num_classes, **fields["model"]),
    tx,
    label_smoothing=fields.get("label_smoothing") or 0.0,
    ema_decay=fields.get("ema_decay"),
    augment=augmenter(fields),
    mix=None if mix is None else partial(mixup.mix, **mix),
    trained=trained,
  )


def moco(
  fields: Fields,
  make_model: Callable[..., Any],
  num_classes: int,
  tx: optax.GradientTransformation,
) -> Objective:
  """Returns the objective of MoCo v2, of a ResNet with its MLP head."""
  del num_classes  # no label is looked at
  own = {"dim": 128} | dict(fields.get("moco") or {})
  model = dict(fields["model"]) | {"head": "mlp"}
  encoder = make_model(num_classes=own["dim"], **model)
  return contrast(encoder, tx, augment=augmenter(fields), **own)


OBJECTIVES = {"supervised": supervised, "moco": moco}


def make_objective(
  fields: Fields,
  make_model: Callable[..., Any],
  *,
  num_classes: int,
  tx: optax.GradientTransformation,
) -> Objective:
  """Returns the objective that `fields["objective"]` names.

  Raises:
    UserError: for an unknown name, or fields that contradict each other.
  """
  if (name := name_of(fields)) not in OBJECTIVES:
    raise unknown_names("objective", [name], OBJECTIVES)
  if problems := contradictions(fields):
    raise UserError(
      f"config.pretrain contradicts itself: {'; '.join(problems)}."
    )
  return OBJECTIVES[name](fields, make_model, num_classes, tx)


def augmenter(fields: Fields) -> labelled.Augment:
  """Returns what the device does to a batch; nothing if the pipeline does."""
  name = fields.get("device_augment") or "none"
  crop = crops(fields)
  size = fields["image_size"] if crop else None
  return device_augment.make_augment(name, crop=crop, image_size=size)


def trace(fields: Fields, objective: Objective) -> None:
  """Traces a start and a step, and computes neither.

  Raises:
    UserError: about shapes and sizes that do not fit, in seconds and not after
      hours.
  """
  n, size = fields["batch_size"], source_size(fields)
  batch = {
    "image": jax.ShapeDtypeStruct((n, size, size, 3), np.uint8),
    "label": jax.ShapeDtypeStruct((n,), np.int32),
  }
  rng = jax.random.key(0)
  state = jax.eval_shape(objective.init, rng, batch)
  jax.eval_shape(objective.step, state, batch, rng)
