"""The real filter: selects images near real ones of their class.

Section 3.2 of the paper.
"""

from collections.abc import Sequence

import numpy as np

from synthjax.data.generated.clip_filter import Selection, images_of, keep
from synthjax.data.generated.scores import Scores, origin, unit
from synthjax.runtime.errors import UserError

OTHER = "nearer to another class"


def select_by_real(
  scores: Scores,
  real_features: np.ndarray,
  real_labels: np.ndarray,
  *,
  margin: float = 0.0,
  class_names: Sequence[str],
  max_per_class: int,
  seed: int,
) -> Selection:
  """Keeps images that are nearer to real ones of their class than of others.

  The paper discards an image that lies near a real shot of another class
  and gives no rule; this one is our reading. An image passes if
  its largest cosine to a shot of its class is above that to any other shot,
  less the margin. The cap and the filling up are those of `select`, by the
  difference of the two cosines.

  Args:
    scores: of n images.
    real_features: [m, d] of the shots, by the encoder of the scores.
    real_labels: [m]; each class needs a shot.
    margin: how much nearer another class may be; 0 takes the nearest class.
    class_names: of the N classes; a label is a position in it.
    max_per_class: at least 1.
    seed: of the random choice.

  Raises:
    UserError: listing every class without an image, or without a shot.
  """
  shots_of = [np.flatnonzero(real_labels == i) for i in range(len(class_names))]
  if lacking := [
    name
    for name, rows in zip(class_names, shots_of, strict=True)
    if not len(rows)
  ]:
    raise UserError(
      f"The real filter needs a real image of each class; {len(lacking)} have "
      f"none: {', '.join(lacking[:10])}."
    )
  cosines = unit(scores.features.astype(np.float32)) @ unit(real_features).T
  nearest = np.stack([cosines[:, rows].max(1) for rows in shots_of], 1)
  rows = np.arange(len(nearest))
  to_class = nearest[rows, scores.labels]
  nearest[rows, scores.labels] = -np.inf
  lead = to_class - nearest.max(1)
  return keep(
    scores,
    lead + margin > 0,
    lead,
    OTHER,
    class_names=class_names,
    max_per_class=max_per_class,
    seed=seed,
  )


def images_for(
  scores: Scores,
  *,
  strategy: str,
  seed: int,
  kept: np.ndarray | None,
  real: tuple[np.ndarray, np.ndarray] | None,
  margin: float,
  max_per_class: int,
  class_names: Sequence[str],
) -> np.ndarray:
  """Finds the images that go with a few real ones.

  Args:
    scores: of n images.
    strategy: of their prompts. Images of "rg16" and the like were drawn from
      the shots of one seed, and go with no others.
    seed: of the images and of the shots.
    kept: [n] bool, whether an image may be taken; None takes all.
    real: features and labels of the shots, if `select_by_real` filters.
    margin: see `select_by_real`.
    max_per_class: likewise.
    class_names: each of which needs an image.

  Returns:
    Rows, int [m].

  Raises:
    UserError: if there are none of the strategy, the seed or a class.
  """
  strategies, seeds = origin(scores.ids)
  of_strategy = strategies == strategy
  is_guided = strategy.startswith("rg") and of_strategy.any()
  if is_guided and seed not in seeds[of_strategy]:
    raise UserError(
      f"There are no {strategy!r} images of the shots of seed {seed}: draw "
      "them with config.generate.seeds, or leave out the seed."
    )
  kept = np.ones(len(scores.ids), bool) if kept is None else kept
  if real is not None:
    rows = np.flatnonzero(of_strategy & kept)
    chosen = select_by_real(
      Scores(*(column[rows] for column in scores)),
      *real,
      margin=margin,
      class_names=class_names,
      max_per_class=max_per_class,
      seed=seed,
    )
    kept = np.zeros(len(kept), bool)
    kept[rows] = chosen.kept
  _, rows = images_of(
    scores, strategy=strategy, seed=seed, kept=kept, class_names=class_names
  )
  return rows
