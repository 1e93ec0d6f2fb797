"""Parts of the generated images: fewer classes, or fewer of each."""

from collections.abc import Sequence

import numpy as np

from synthjax.data.generated import rows_of_labels
from synthjax.data.rows import Example, Source, subset
from synthjax.errors import UserError


def take(
  source: Sequence[Example],
  *,
  num_classes: int,
  images_per_class: int | None = None,
) -> Source:
  """Takes the first classes, and of each an equal number of images.

  They are spread evenly over the class's rows, and so over its prompts. Where
  one number divides another, the images of the smaller are among those of the
  larger.

  Args:
    source: of `open_generated`: by strategy, seed and label.
    num_classes: how many labels, from 0.
    images_per_class: over all strategies and seeds; None takes all.

  Raises:
    UserError: about a class with fewer images, or none.
  """
  found, needed = rows_of_labels(source), images_per_class or 1
  rows_of = {label: found.get(label, []) for label in range(num_classes)}
  if few := {k: len(v) for k, v in rows_of.items() if len(v) < needed}:
    listed = ", ".join(f"{k} has {n}" for k, n in list(few.items())[:10])
    raise UserError(
      f"{needed} images of each of the first {num_classes} classes are asked "
      f"for, but {len(few)} have fewer: label {listed}. Ask for at most "
      f"{min(few.values())}, or raise config.generate.images_per_class."
    )
  if images_per_class is None:
    kept = [row for rows in rows_of.values() for row in rows]
  else:
    kept = [
      rows[i * len(rows) // images_per_class]
      for rows in rows_of.values()
      for i in range(images_per_class)
    ]
  return subset(source, np.sort(kept))
