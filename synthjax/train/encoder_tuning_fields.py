"""How an image encoder is tuned, from fields of plain data.

The fields are those of the task `tune_encoder`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.errors import (
  BLOCK,
  BLOCK_LIST,
  COUNT,
  FLAG,
  NOT_NEGATIVE,
  POSITIVE,
  SEEDS,
  SHARE,
  TEXT,
  WHOLE,
  check_names,
  one_of,
)
from synthjax.train import encoder_tuning

REQUIRED = {
  "arms": BLOCK_LIST,  # what is compared
  "seeds": SEEDS,  # of the shots, and of the order of the images
  "epochs": POSITIVE,
  "batch_size": COUNT,
  "optimizer": BLOCK,  # see train.recipe.make_optimizer
  "test": BLOCK,  # real images, opened once, at the end
}
OPTIONAL = {
  "pool": BLOCK,  # real images that the shots of data="real" are drawn from
  "shots": COUNT,  # of each class
  "strategy": TEXT,  # of the images of data="synthetic"
  "filter": FLAG,  # of those, takes only what `select` has kept
  "soft_weight": SHARE,  # of the teacher, for generated images; 0.5: the SCE
  "temperature": POSITIVE,
  "remat": FLAG,  # computes activations again, which saves memory
  "log_every": WHOLE,
  "checkpoint_every": COUNT,
}
KNOWN = REQUIRED | OPTIONAL
ARM_REQUIRED = {
  "name": TEXT,
  "data": one_of(("real", "synthetic")),
  "up_to": TEXT,  # the last rung of `encoder_tuning.ladder` that is tuned
  "batch_norm": one_of(encoder_tuning.BATCH_NORMS),
}
ARM = ARM_REQUIRED | {"lr": NOT_NEGATIVE}  # where it is not the optimizer's


class Arm(NamedTuple):
  """What is tuned, and on what."""

  name: str
  data: str
  up_to: str
  batch_norm: str
  lr: float | None = None


def read_arms(
  blocks: Sequence[Mapping[str, Any]],
  validate: Callable[..., None],
  *,
  taken: Sequence[str] = (),
) -> list[Arm]:
  """Reads the arms of a config.

  Args:
    blocks: of the fields of ARM.
    validate: (fields, known fields, name=, required=), which raises a UserError
      about those that do not fit.
    taken: names that no arm may have.

  Raises:
    UserError: about misspelt or missing fields, or names that are not unique.
  """
  for i, block in enumerate(blocks):
    name = f"tune_encoder.arms[{i}]"
    validate(block, ARM, name=name, required=ARM_REQUIRED)
  read = [Arm(**block) for block in blocks]
  check_names("config.tune_encoder.arms", [arm.name for arm in read], taken)
  return read
