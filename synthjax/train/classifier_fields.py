"""How classifiers are tuned on stored features, from fields of plain data.

The fields are those of the task `tune`.
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
)

REQUIRED = {
  "arms": BLOCK_LIST,  # what is compared
  # Of the order of the images, and of the images if there are several.
  "seeds": SEEDS,
}
OPTIONAL = {
  "test": BLOCK,  # real images, opened once, at the end; or heads alone
  "test_parts": BLOCK,  # name -> real images reported beside them
  "validation": BLOCK,  # real images on which choices can be made
  "num_epochs": COUNT,
  "batch_size": COUNT,
  "best_epoch_on_test": FLAG,  # also reports the paper's own number
}
PASSED_ON = {  # to `classifier.tune_sets`
  "lr": POSITIVE,
  "weight_decay": NOT_NEGATIVE,
  "clip_norm": POSITIVE,
  "temperature": POSITIVE,
  "bias": FLAG,  # False: as in the paper's text; the released code has one
  "decay_bias": FLAG,
}
KNOWN = REQUIRED | OPTIONAL | PASSED_ON
ARM_REQUIRED = {
  "name": TEXT,
  "strategy": TEXT,
  "filter": FLAG,
  "soft_weight": SHARE,
}
ARM = ARM_REQUIRED | {
  "images_per_class": COUNT,  # so many by chance; all by default
  "label_smoothing": SHARE,  # of the hard loss
}


class Arm(NamedTuple):
  """One way of making a training set and learning from it."""

  name: str
  strategy: str  # of the prompts
  filter: bool  # takes only what `select` has kept
  soft_weight: float  # 0 is CE, 0.5 the paper's SCE
  images_per_class: int | None = None
  label_smoothing: float | None = None
