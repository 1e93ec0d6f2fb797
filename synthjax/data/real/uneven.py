"""Real images of which some classes have few: what each one lacks."""

import dataclasses
import math
from typing import Any

import numpy as np

from synthjax.config.schema import Block, Inside
from synthjax.data.pipeline.rows import labels_of
from synthjax.data.real import real_images
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopUp:
  """config.generate.top_up: draws what the classes of real images lack."""

  pool: Block  # real images, of every class
  # Of the drawn images, that the filter keeps: so many more are drawn.
  share: Inside

  def amounts(self, space: Any, per_class: int | None = None) -> list[int]:
    """Returns how many images are to be drawn of each class: [k].

    Args:
      space: the label space.
      per_class: that a class is to have, with the real ones; None: as many as
        the largest has.

    Raises:
      UserError: as `real_images.check_real`; about classes without an image,
        which may be called otherwise in the labels; or if nothing lacks.
    """
    name, names = "config.generate.top_up.pool", space.class_names
    real_images.check_real(self.pool, space, name)
    labels = labels_of(real_images.open_real(self.pool, space, name))
    counts = np.bincount(labels, minlength=len(names))
    if not counts.all():
      empty = [names[i] for i in np.flatnonzero(counts == 0)]
      raise UserError(
        f"{name} has no image of {class_names.some(empty)}. Take these classes "
        "out of the labels; or give them some images, called like the class. "
        "configs/own_labels.py draws classes of which there are none."
      )
    lacking = np.maximum((per_class or counts.max()) - counts, 0)
    if not lacking.any():
      more = " or more" * bool(counts.min() < counts.max())
      raise UserError(
        f"Nothing lacks: each class of {name} has {counts.min():,} images"
        f"{more}. Ask for more by config.generate.images_per_class (the "
        "argument `per_class`), or learn from what is there by configs/"
        "fewshot.py or configs/transfer_cifar100.py."
      )
    return [math.ceil(round(n / self.share, 6)) for n in lacking.tolist()]
