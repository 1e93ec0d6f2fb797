"""The CLIP filter and the real filter of generated images (Sections 3.1, 3.2).

Both filters share `keep`, which caps each class, and the table that lists what
the task `select` has kept.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from synthjax.data.generated import drawn_images, tables
from synthjax.data.generated.plan import ImageId, is_of_shots, origin
from synthjax.data.generated.scores import Scores, unit
from synthjax.data.pipeline.rows import rows_by_label
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError, unknown_names

KEPT, FILLED = "kept", "filled"
OVER, BELOW = "over the cap", "below 1/N"


class Selection(NamedTuple):
  """One entry for each row of the scores, in their order."""

  kept: np.ndarray  # [n] bool
  reasons: np.ndarray  # [n] str: KEPT, FILLED, OVER, or why it does not pass
  strategies: np.ndarray  # [n] str, of the prompts
  seeds: np.ndarray  # [n] int


def select(
  scores: Scores,
  *,
  class_names: Sequence[str],
  max_per_class: int | None = None,
  share: float | None = None,
  seed: int,
) -> Selection:
  """Keeps at most max_per_class images of each class, strategy and seed.

  An image passes if its class has a probability above 1/N, as the released
  code has it (method of Appendix C.5.1): the class need not be the likeliest.
  Of more than max_per_class that pass, a random choice stays; if fewer pass,
  those with the highest probability fill up.

  Args:
    scores: of n images; features and probs may be None.
    class_names: of the N classes; a label is a position in it.
    max_per_class: M, at least 1; or None, if there is a share.
    share: of the images of each class, strategy and seed, in place of M. A
      class may then have none.
    seed: of the random choice: the same seed and ids choose the same images.

  Raises:
    UserError: about classes without an image, unless there is a share; if the
      scores are of other classes; or without max_per_class and share.
  """
  if scores.probs is not None and len(class_names) != scores.probs.shape[1]:
    raise UserError(
      f"The scores are of {scores.probs.shape[1]} classes, but class_names has "
      f"{len(class_names)}: give those of the same label space."
    )
  return keep(
    scores,
    beats_chance(scores.p_own, len(class_names)),
    scores.p_own,
    BELOW,
    class_names=class_names,
    max_per_class=max_per_class,
    share=share,
    seed=seed,
  )


def beats_chance(p_own: np.ndarray, num_classes: int) -> np.ndarray:
  """Returns the mask [n] of images whose class is likelier than a guess.

  Args:
    p_own: float32 [n], the probability of the class of each.
    num_classes: N; a probability of exactly 1/N, in float32, does not pass.
  """
  return p_own > np.float32(1 / num_classes)


def keep(
  scores: Scores,
  passes: np.ndarray,
  merit: np.ndarray,
  fault: str,
  *,
  class_names: Sequence[str],
  max_per_class: int | None = None,
  share: float | None = None,
  seed: int,
) -> Selection:
  """Caps each class, strategy and seed, and fills up classes with too few.

  Args:
    scores: of n images.
    passes: [n] bool.
    merit: [n]; where too few images pass, those with the largest values are
      kept, too.
    fault: the reason of those that do not pass.
    class_names: see `select`.
    max_per_class: M.
    share: in place of M.
    seed: of the random choice.
  """
  if max_per_class is None and share is None:
    raise UserError("How many images are kept? Give max_per_class, or share.")
  strategies, seeds = origin(scores.ids)
  chance = np.fromiter(
    (chance_of(seed, image_id) for image_id in scores.ids),
    np.int64,
    len(scores.ids),
  )
  reasons = np.full(len(passes), fault, object)
  reasons[passes] = OVER
  empty = []
  for strategy, image_seed in sorted(
    set(zip(strategies.tolist(), seeds.tolist(), strict=True))
  ):
    group = np.flatnonzero((strategies == strategy) & (seeds == image_seed))
    of_classes = rows_by_label(scores.labels[group], len(class_names))
    for name, places in zip(class_names, of_classes, strict=True):
      rows = group[places]
      if share is None and not len(rows):
        empty.append(f"{name!r} ({strategy}, seed {image_seed})")
      most = max_per_class
      if share is not None:  # 0.29 of 100 is 28.999...; 29 are meant
        most = int(share * len(rows) + 1e-6)
      passing = rows[passes[rows]]
      if len(passing) >= most:
        chosen = passing[np.argsort(chance[passing])[:most]]
      else:
        order = np.lexsort((chance[rows], -merit[rows]))
        chosen = rows[order[:most]]
      reasons[chosen] = np.where(passes[chosen], KEPT, FILLED)
  if empty:
    raise UserError(
      f"There is no image of {', '.join(empty[:10])}"
      f"{f' and {len(empty) - 10:,} more' if len(empty) > 10 else ''}. Were "
      "they given prompts? Run `prompts` and `generate` for the whole label "
      "space in another --workdir."
    )
  kept = (reasons == KEPT) | (reasons == FILLED)
  return Selection(kept, reasons, strategies, seeds)


def keep_among(
  scores: Scores, offered: np.ndarray, choose: Callable[[Scores], Selection]
) -> np.ndarray:
  """Returns the mask [n] of images that a filter keeps of those offered [n]."""
  rows, kept = np.flatnonzero(offered), np.zeros(len(offered), bool)
  kept[rows] = choose(Scores(*(column[rows] for column in scores))).kept
  return kept


def in_smaller_drawing(ids: Sequence[str], images_per_class: int) -> np.ndarray:
  """Returns the mask [n] of those that a run with fewer images would draw.

  As in `plan.rows_of`, it spreads them evenly over the prompts of each class.
  """
  parsed = [ImageId.parse(text) for text in ids]
  num_prompts: dict[tuple, int] = {}
  for strategy, label, prompt, seed, _ in parsed:
    block = strategy, label, seed
    num_prompts[block] = max(num_prompts.get(block, 0), prompt + 1)

  def is_drawn(image: ImageId) -> bool:
    size = num_prompts[image.strategy, image.label, image.seed]
    count, more = divmod(images_per_class, size)
    return image.number < count + (image.prompt < more)

  return np.array([is_drawn(image) for image in parsed], bool)


def write(folder: epath.PathLike, scores: Scores, selection: Selection) -> None:
  """Writes a row for each image, with its score and verdict."""
  columns = {
    "label": scores.labels,
    "strategy": selection.strategies,
    "seed": selection.seeds,
    "p_own": scores.p_own,
    "kept": selection.kept,
    "reason": selection.reasons,
  }
  ids = iter(scores.ids)
  batches = (
    {"id": [*itertools.islice(ids, len(batch["label"]))]} | batch
    for batch in tables.batches_of(columns)
  )
  kinds = {"id": "string", "label": "int32", "strategy": "category"}
  kinds |= {"seed": "int64", "p_own": "float32"}
  kinds |= {"kept": "bool", "reason": "category"}
  with artifacts.replace(folder, drawn_images.SELECTION) as path:
    tables.write(path, kinds, batches)


def read_kept(
  folder: epath.PathLike, scores_folder: epath.PathLike, ids: Iterable[str]
) -> np.ndarray:
  """Reads which images were kept.

  Args:
    folder: the complete artifact of the task `select`.
    scores_folder: that of `score`.
    ids: of all of its n images.

  Returns:
    [n] bool.

  Raises:
    UserError: if the selection is damaged, or was made by other scores.
  """
  check_selection(folder, scores_folder)
  selection = drawn_images.selection_file(folder)
  return drawn_images.match_selection(selection, ids)


def check_selection(
  folder: epath.PathLike, scores_folder: epath.PathLike
) -> None:
  """Raises a UserError if a selection is damaged, or made by other scores."""
  artifacts.verify(folder)
  used = artifacts.load(folder)["spec"].get("scores")
  if used != artifacts.digest(scores_folder):
    raise _other_scores(folder, scores_folder)


def _other_scores(
  folder: epath.PathLike, scores_folder: epath.PathLike
) -> UserError:
  return UserError(
    f"{folder} was made by other scores than those in {scores_folder}. Run "
    "`select` again: it is renewed if images were repaired. Otherwise put the "
    f"scores back, or delete {folder} yourself before."
  )


def images_of(
  scores: Scores,
  *,
  strategy: str,
  seed: int,
  kept: np.ndarray,
  class_names: Sequence[str],
) -> tuple[int, np.ndarray]:
  """Finds the images of a training set.

  Args:
    scores: of n images.
    strategy: of their prompts.
    seed: of the images; it counts only if they were drawn with several.
    kept: [n] bool, whether an image may be taken.
    class_names: each of which needs an image.

  Returns:
    The seed of the images, and their rows, int [m].

  Raises:
    UserError: if there are none of the strategy, the seed or a class.
  """
  strategies, seeds = origin(scores.ids)
  of_strategy = strategies == strategy
  if not of_strategy.any():
    allowed = np.unique(strategies)
    raise unknown_names("image of the prompt strategy", [strategy], allowed)
  drawn = np.unique(seeds[of_strategy]).tolist()
  image_seed = drawn[0] if len(drawn) == 1 else seed
  if image_seed not in drawn:
    raise UserError(
      f"There are no {strategy!r} images of seed {seed}; they were drawn with "
      f"the seeds {drawn}. Change config.tune.seeds or config.generate.seeds."
    )
  rows = np.flatnonzero(of_strategy & kept & (seeds == image_seed))
  labels = set(scores.labels[rows].tolist())
  if lacking := [n for i, n in enumerate(class_names) if i not in labels]:
    raise UserError(
      f"{len(lacking)} classes have no {strategy!r} image to learn from (seed "
      f"{image_seed}): {', '.join(lacking[:10])}. Were they given prompts?"
    )
  return image_seed, rows


def chance_of(seed: int, image_id: str) -> int:
  """Returns the place of an image in a random order of all images."""
  digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
  return int.from_bytes(digest[:7], "big")  # fits int64


# --- the real filter ---------------------------------------------------------
# Section 3.2 of the paper.

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
  its largest cosine to a shot of its class is above its largest cosine to any
  other shot minus the margin. The cap and the filling up are those of `select`,
  by the difference of the two cosines.

  Args:
    scores: of n images.
    real_features: [m, d] of the shots, by the encoder of the scores.
    real_labels: [m]; each class needs a shot.
    margin: how much nearer another class may be; with 0, none may be nearer.
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
    strategy: of their prompts. Those that `plan.is_of_shots` were drawn from
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
  of_shots = is_of_shots(strategy) and of_strategy.any()
  if of_shots and seed not in seeds[of_strategy]:
    raise UserError(
      f"There are no {strategy!r} images of the shots of seed {seed}: draw "
      "them with config.generate.seeds, or leave out the seed."
    )
  kept = np.ones(len(scores.ids), bool) if kept is None else kept
  if real is not None:
    kept = keep_among(
      scores,
      of_strategy & kept,
      lambda offered: select_by_real(
        offered,
        *real,
        margin=margin,
        class_names=class_names,
        max_per_class=max_per_class,
        seed=seed,
      ),
    )
  _, rows = images_of(
    scores, strategy=strategy, seed=seed, kept=kept, class_names=class_names
  )
  return rows
