"""How long a detector is trained, and by which optimizer."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from synthjax.config import schema
from synthjax.config.schema import Count, Positive, one_of
from synthjax.runtime.errors import UserError
from synthjax.training import recipes
from synthjax.training.optimizer import OPTIMIZER

# The fields of an optimizer, each of which may be left out: a recipe or the
# common block has it then.
Optimizer = dataclasses.make_dataclass(
  "Optimizer",
  [(name, kind, None) for name, (kind, _) in OPTIMIZER.fields().items()],
  frozen=True,
  kw_only=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """How a detector is trained; `plan_training` fills in the missing fields."""

  # A recipe of training.recipes, for the fields that are not given. Its rate
  # and its warm-up are fitted to the batch size.
  recipe: Annotated[str, one_of(recipes.RECIPES)] | None = None
  num_steps: Count | None = None  # of training; or give
  epochs: Positive | None = None
  batch_size: Count | None = None
  optimizer: Optimizer = Optimizer()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Init(Recipe):
  """First weights of a detector, and what differs in its training."""

  weights: str | None = None  # a path, or a reference such as "released:NAME"


class Training(NamedTuple):
  """A recipe whose fields are all known."""

  num_steps: int
  epochs: float
  batch_size: int
  optimizer: dict[str, Any]  # fields of training.optimizer.OPTIMIZER

  def make_optimizer(self) -> Any:
    """Returns the optimizer, an optax transformation.

    Raises:
      UserError: about options that the optimizer or its schedule lacks.
    """
    make = schema.read(OPTIMIZER, self.optimizer, "config.detect.optimizer")
    return make(num_steps=self.num_steps, epochs=self.epochs)


def plan_training(
  common: Mapping[str, Any],
  init: Mapping[str, Any],
  num_images: int,
  *,
  name: str,
) -> Training:
  """Returns how a detector is trained from one initialisation.

  A field of the initialisation wins over the common one, and both win over
  the recipe that is named; None wins, too, and unsets the field.

  Args:
    common: the fields of `Recipe` that all initialisations share, as given.
    init: those that differ for this one, as given.
    num_images: to train on.
    name: of the initialisation, for messages.

  Raises:
    UserError: about fields that are missing or contradict each other.
  """
  fields = [field.name for field in dataclasses.fields(Recipe)]
  # A placeholder of the config is None: it unsets nothing.
  given = {k: common[k] for k in fields if common.get(k) is not None}
  given |= {k: init[k] for k in fields if k in init}
  optimizers = (common.get("optimizer"), init.get("optimizer"))
  given["optimizer"] = {k: v for x in optimizers for k, v in (x or {}).items()}
  num_steps = given.get("num_steps")
  if num_steps and given.get("epochs"):
    raise UserError(
      f"config.detect has num_steps={num_steps} and epochs={given['epochs']} "
      f"for {name!r}: give one of them."
    )
  filled = recipes.fill(given, linear=True)
  batch_size = filled.get("batch_size")
  missing = [] if batch_size else ["batch_size"]
  missing += [
    f"optimizer.{field}"
    for field in ("name", "lr")
    if filled["optimizer"].get(field) is None
  ]
  if not num_steps and not filled.get("epochs"):
    missing.append("num_steps")
  if missing:
    raise UserError(
      f"config.detect lacks {', '.join(missing)} for {name!r}; "
      "recipe='voc_detection' has all of them."
    )
  if num_steps:
    epochs = num_steps * batch_size / num_images
  else:
    epochs = filled["epochs"]
    num_steps = recipes.count_steps(
      num_images, epochs=epochs, batch_size=batch_size
    )
  return Training(num_steps, epochs, batch_size, filled["optimizer"])
