"""Classifiers of uneven classes, topped up with generated images or not.

All arms tune the zero-shot classifier as few-shot tuning does (Appendix C.5.2):
plain cross entropy on real images, and the teacher's soft targets besides on
generated ones. They differ in what is drawn for a step:

- "real images as they are": each real image is as likely as any other.
- "oversampling": each class is as likely as any other.
- "mix W": so is it there, but within a class, a generated image is W times as
  likely as a real one. Oversampling is mix 0; in mix 1 all images of a class
  count alike, and where classes were topped up to one size, all images do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from synthjax.adapt import linear_head
from synthjax.adapt.linear_head import Head, Rows
from synthjax.adapt.mixed_tuning import Features
from synthjax.config.schema import Block, Count, Rule, Seeds, Share
from synthjax.data.pipeline import few_shot
from synthjax.evals import accuracy

AS_THEY_ARE, OVERSAMPLING = "real images as they are", "oversampling"
Weights = Annotated[
  tuple[float, ...],
  Rule(
    lambda x: x and [*x] == sorted({*x}) and x[0] > 0,
    "rising numbers above 0, such as (0.1, 1)",
  ),
]

# By more, a class of one image would have none to learn from.
HeldOut = Annotated[
  float, Rule(lambda x: 0 < x <= 0.5, "a number above 0, at most 0.5")
]


@dataclass(frozen=True, kw_only=True)
class TopUp(linear_head.Recipe):
  """The block `config.top_up`."""

  pool: Block  # real images, as config.generate.top_up.pool
  test: Block  # real images, opened once, at the end
  # Real images that choose; None: a part of the pool does, another for each
  # seed, and all of the pool is learned from in the end.
  validation: Block | None = None
  held_out: HeldOut = 0.2  # of each class of the pool, rounded, to validate
  weights: Weights = (0.1, 0.3, 1.0, 3.0)  # of a generated image, to choose of
  seeds: Seeds  # of the order of the images, and of what is held out
  num_epochs: Count = 30  # over real and generated images, for each arm
  batch_size: Count = 512  # of either kind
  soft_weight: Share = 0.5  # of the teacher's targets for generated images


class Arm(NamedTuple):
  """A way of drawing images."""

  name: str
  weight: float | None  # of a generated image; None: classes are uneven


def arms_of(weights: Sequence[float]) -> list[Arm]:
  """Returns those of real images alone, and a mix for each weight."""
  mixes = [Arm(f"mix {weight:g}", weight) for weight in weights]
  return [Arm(AS_THEY_ARE, None), Arm(OVERSAMPLING, 0.0), *mixes]


def generated_shares(
  real: np.ndarray, generated: np.ndarray, weight: float
) -> np.ndarray:
  """Returns which share [k] of a class's draws are generated images.

  Args:
    real: [k], images of each class, 1 or more.
    generated: [k] likewise, 0 or more.
    weight: of a generated image, where a real one has 1.
  """
  return weight * generated / (real + weight * generated)


def drawn_index(
  labels: np.ndarray,
  class_shares: np.ndarray,
  *,
  batch_size: int,
  num_steps: int,
  seed: Any,
) -> np.ndarray:
  """Draws rows with replacement: each class by its share, its rows alike.

  Args:
    labels: [n] int.
    class_shares: [k], of any sum; 0 for a class without a row.
    batch_size: b.
    num_steps: s.
    seed: of the draw.

  Returns:
    [s, b] int32.
  """
  counts = np.bincount(labels, minlength=len(class_shares))
  odds = (class_shares / np.maximum(counts, 1))[labels]
  size = (num_steps, batch_size)
  rng = np.random.default_rng(seed)
  return rng.choice(len(labels), size, p=odds / odds.sum()).astype(np.int32)


def tune(
  arm: Arm,
  real: Features,
  generated: Features,
  zero_shot: Head,
  recipe: TopUp,
  *,
  num_steps: int,
  seed: int,
) -> Head:
  """Tunes the zero-shot classifier by an arm.

  Args:
    arm: of `arms_of`.
    real: of the real images, of each class one or more.
    generated: of the generated ones.
    zero_shot: where it starts, and the teacher.
    recipe: of the optimizer.
    num_steps: the same for all arms.
    seed: of the draws.
  """
  num_classes = len(zero_shot.weight)
  count = lambda labels: np.bincount(labels, minlength=num_classes)
  size = min(recipe.batch_size, len(real[1]))
  if arm.weight is None:
    index = linear_head.cycled_index(
      len(real[1]), batch_size=size, num_steps=num_steps, seed=seed
    )
    sets = [Rows(*real, index, 0.0)]
  else:
    shares = generated_shares(count(real[1]), count(generated[1]), arm.weight)
    draw = partial(drawn_index, num_steps=num_steps)
    index = draw(real[1], 1 - shares, batch_size=size, seed=(seed, 0))
    sets = [Rows(*real, index, 0.0, weight=1 - float(shares.mean()))]
    if arm.weight:
      size = min(recipe.batch_size, len(generated[1]))
      index = draw(generated[1], shares, batch_size=size, seed=(seed, 1))
      soft, weight = recipe.soft_weight, float(shares.mean())
      sets.append(Rows(*generated, index, soft, weight=weight))
  return linear_head.tune(sets, zero_shot, recipe).head


# --- all arms, and the choice of one ------------------------------------------


class Learned(NamedTuple):
  """What `learn` leaves: real images alone, in two ways, and the best mix."""

  heads: dict[str, dict[int, Head]]  # arm -> seed -> head
  tried: dict[str, list[float]]  # every arm -> its choosing measure, by seed
  mix: str  # the best mix on validation
  best: str  # that, if it is clearly better there; else one of the others


def learn(
  recipe: TopUp,
  pool: Features,
  generated: Features,
  validation: Features | None,
  zero_shot: Head,
  *,
  report: Callable[[str], None] = lambda note: None,
) -> Learned:
  """Tunes all arms, and chooses by the mean accuracy over classes.

  The choice is one for all seeds: the mix with the highest mean over them, of
  equal ones the one of fewest generated images. It is the best of all arms only
  if the validation images leave no doubt of its gain over the better of the
  others, see `gain_over_images`: of rare classes there may be few.

  Args:
    recipe: of the training.
    pool: of the real images, of each class one or more.
    generated: of the generated images.
    validation: of the images that choose; None: a part of the pool, another
      for each seed. What is chosen then learns from all of the pool.
    zero_shot: where each arm starts.
    report: is told of each head.
  """
  arms, num_classes = arms_of(recipe.weights), len(zero_shot.weight)
  num_images = len(pool[1]) + len(generated[1])
  num_steps = recipe.num_epochs * -(-num_images // recipe.batch_size)

  def train(arm, seed, real):
    head = tune(
      arm, real, generated, zero_shot, recipe, num_steps=num_steps, seed=seed
    )
    report(arm.name)
    return jax.device_get(head)

  features, labels = validation or pool
  heads: dict[str, dict[int, Head]] = {arm.name: {} for arm in arms}
  right = {
    arm.name: np.full((len(recipe.seeds), len(labels)), np.nan) for arm in arms
  }
  for i, seed in enumerate(recipe.seeds):
    real, rows = pool, np.arange(len(labels))
    if validation is None:
      split = few_shot.hold_out(pool[1], share=recipe.held_out, seed=seed)
      real, rows = tuple(x[split["train"]] for x in pool), split["validation"]
    for arm in arms:
      head = heads[arm.name][seed] = train(arm, seed, real)
      right[arm.name][i, rows] = _is_right(head, features[rows], labels[rows])
  tried = {
    name: np.nanmean(_of_class(x, labels, num_classes), 1).tolist()
    for name, x in right.items()
  }
  mean = lambda arm: np.mean(tried[arm.name])
  plain, mix = max(arms[:2], key=mean), max(arms[2:], key=mean)
  gain = gain_over_images(right[mix.name], right[plain.name], labels)
  best = mix if gain["low"] > 0 else plain
  compared = [*arms[:2], mix]
  if validation is None:
    heads = {
      arm.name: {seed: train(arm, seed, pool) for seed in recipe.seeds}
      for arm in compared
    }
  heads = {arm.name: heads[arm.name] for arm in compared}
  return Learned(heads, tried, mix.name, best.name)


def _is_right(
  head: Head, features: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Returns which images [n] are classified right."""
  return np.asarray(head(features)).argmax(-1) == labels


def _of_class(
  right: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns the share of each class that is right: [s, k], NaN for no image.

  Args:
    right: [s, n], NaN for images that were not classified.
    labels: [n].
    num_classes: k.
  """
  shares = np.full((len(right), num_classes), np.nan)
  for label in np.unique(labels):
    of_class = right[:, labels == label]
    has_any = np.isfinite(of_class).any(1)
    shares[has_any, label] = np.nanmean(of_class[has_any], 1)
  return shares


def gain_over_images(
  right: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
  """Returns a gain in mean accuracy over classes, and what images leave open.

  The interval is over other images of these classes, by the spread of the
  differences within each class. Of a single image it is taken to be 1.

  Args:
    right: [seeds, n] of an arm, NaN for images that it did not classify.
    reference: [seeds, n] of another arm.
    labels: [n].

  Returns:
    `mean`, `stderr`, and `low` and `high` of the 95 % interval.
  """
  differences = right.astype(float) - reference
  seen = np.isfinite(differences).any(0)
  gains, labels = np.nanmean(differences[:, seen], 0), labels[seen]
  of_class = [gains[labels == label] for label in np.unique(labels)]
  spreads = [x.var(ddof=1) if len(x) > 1 else 1.0 for x in of_class]
  sizes = [len(x) for x in of_class]
  mean = float(np.mean([x.mean() for x in of_class]))
  stderr = float(np.sqrt(np.divide(spreads, sizes).sum()) / len(of_class))
  low, high = mean - 1.96 * stderr, mean + 1.96 * stderr
  return {"mean": mean, "stderr": stderr, "low": low, "high": high}


def measure(
  learned: Learned, zero_shot: Head, test: Features
) -> dict[str, Any]:
  """Measures the heads on the test images.

  Returns:
    `zero_shot` and `rows`, one of each arm and seed: `mean_per_class`, the mean
    of the classes' accuracies, and `top1`; the `summary` of the former by arm,
    and `gains`, the differences of the arms in pairs of one seed, each also
    `over_images`, as `gain_over_images` returns it; and `per_class`: lists [k]
    of the mean accuracy of each arm, and of the `gain` of the mix over
    oversampling, with its interval over seeds. None stands where a class has no
    test image.
  """
  features, labels = test
  num_classes = len(zero_shot.weight)
  seen = np.bincount(labels, minlength=num_classes)
  right = {
    arm: np.stack([_is_right(head, features, labels) for head in by.values()])
    for arm, by in learned.heads.items()
  }
  of_class = {
    arm: _of_class(x, labels, num_classes) for arm, x in right.items()
  }  # [seeds, k]
  start = _is_right(zero_shot, features, labels)[None]
  start = _of_class(start, labels, num_classes)[0]
  both = lambda shares: {
    "mean_per_class": float(np.nanmean(shares)),
    "top1": float(np.nansum(shares * seen) / seen.sum()),
  }
  means = {arm: np.nanmean(x, 1) for arm, x in of_class.items()}
  pairs = (
    (learned.mix, OVERSAMPLING),
    (learned.mix, AS_THEY_ARE),
    (OVERSAMPLING, AS_THEY_ARE),
  )
  by_class = [
    accuracy.paired_difference(mix, other)._asdict() if count else None
    for mix, other, count in zip(
      of_class[learned.mix].T, of_class[OVERSAMPLING].T, seen, strict=True
    )
  ]
  shares = lambda x: [
    float(share) if count else None
    for share, count in zip(x, seen, strict=True)
  ]
  return {
    "num_test": int(seen.sum()),
    "zero_shot": both(start),
    "rows": [
      {"arm": arm, "seed": seed} | both(x)
      for arm, by in learned.heads.items()
      for seed, x in zip(by, of_class[arm], strict=True)
    ],
    "summary": [
      {"arm": arm} | accuracy.summarize(values)._asdict()
      for arm, values in means.items()
    ],
    "gains": [
      {"arm": arm, "reference": other}
      | accuracy.paired_difference(means[arm], means[other])._asdict()
      | {"over_images": gain_over_images(right[arm], right[other], labels)}
      for arm, other in pairs
    ],
    "per_class": {
      "test": seen.tolist(),
      "accuracy": {"zero_shot": shares(start)}
      | {arm: shares(x.mean(0)) for arm, x in of_class.items()},
      "gain": by_class,
    },
  }
