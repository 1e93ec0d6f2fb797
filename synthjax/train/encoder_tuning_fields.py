"""How an image encoder is tuned, from fields of plain data.

The fields are those of the task `tune_encoder`.
"""

from typing import NamedTuple

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
