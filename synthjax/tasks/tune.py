"""Tunes classifiers on the features of generated images; tests them once.

All arms and seeds are trained before the test images are opened, in one place;
nothing that they show is used to choose anything.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets, heads, linear_head, uncertainty
from synthjax.adapt.feature_sets import Features
from synthjax.adapt.linear_head import Arm, Tune
from synthjax.config import schema
from synthjax.config.arguments import check_strategies
from synthjax.data.generated import filters
from synthjax.data.real import real_images
from synthjax.encoders import check_texts, load_encoder
from synthjax.evals import accuracy, arms, scaling
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import gathered
from synthjax.runtime.progress import counter

FIELDS = Tune


class Trained(NamedTuple):
  """One arm with one seed."""

  arm: Arm
  seed: int
  rows: np.ndarray  # [n] int, of the scores
  about: dict[str, Any]  # its entries of the results
  tuned: linear_head.Tuned


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the arms, and that their images are there or will be."""
  fields = schema.read(Tune, config.tune, "config.tune")
  names, inputs = [arm.strategy for arm in fields.arms], _inputs(fields.arms)
  with gathered() as attempt:
    attempt(check_strategies, config, names, tasks=("prompts",))
    attempt(check_texts, config.space, config.encoder.to_dict())
    attempt(artifacts.check_complete, workdir, inputs, planned=config.tasks)
    space = spaces.load_space(config.space)
    for split, block in real_images.splits_of(config.tune.to_dict()).items():
      attempt(real_images.check_real, block, space, f"config.tune.{split}")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`, `heads.safetensors` and `curves.npz`."""
  fields = schema.read(Tune, config.tune, "config.tune")
  block, workdir = config.tune.to_dict(), epath.Path(workdir)
  folder, space = workdir / "tune", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  splits = real_images.splits_of(block)
  inputs = _inputs(fields.arms)
  spec = feature_sets.specification(
    "tune", block, workdir, encoder, space, inputs
  )
  feature_sets.check_scores(workdir, encoder, space)
  if artifacts.begin(folder, spec):
    return
  opened, files = {}, {}

  def open_real(names):
    for name in names:
      opened[name], rows = feature_sets.encode_real(
        splits[name], space, encoder, folder
      )
      files.update(rows)

  open_real([name for name in splits if name == "validation"])
  scored = feature_sets.read_scored(workdir, filtered="select" in inputs)
  fit = partial(_fit, fields, scored)
  start_time, trained = time.monotonic(), []
  num_heads = len(fields.arms) * len(fields.seeds)
  report_progress = counter("tune", num_heads, unit="heads")
  for arm in fields.arms:
    for seed in fields.seeds:
      image_seed, rows = _rows_of(arm, seed, scored, space.class_names, fit)
      tuned = jax.device_get(fit(arm, seed, rows, opened.get("validation")))
      about = {"arm": arm.name, **dataclasses.asdict(arm), "seed": seed}
      about |= {"image_seed": image_seed, "num_images": len(rows)}
      about.pop("name")
      trained.append(Trained(arm, seed, rows, about, tuned))
      report_progress(note=f"{arm.name}, {len(rows):,} rows")
  seconds = time.monotonic() - start_time

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  open_real([name for name in splits if name != "validation"])
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    "templates": list(space.templates),
    **arms.compare(
      lambda head, features: np.asarray(linear_head.logits_fn(head, features)),
      scored.zero_shot,
      [(run.about, run.tuned.head) for run in trained],
      {name: opened[name] for name in splits},
      len(space.classes),
    ),
  }
  if fields.scaling:
    results["scaling"] = scaling.curves(
      results["rows"], fields.curves(), fields.scaling, split="validation"
    )
  if fields.best_epoch_on_test:
    _add_best_epochs(results, trained, fit, opened["test"])
  files |= _write_training(
    folder,
    scored.zero_shot,
    trained,
    space.class_names,
    {"config": config.encoder.to_dict(), "identity": encoder.identity},
  )
  files |= accuracy.write(folder, results)
  artifacts.finish(
    folder,
    spec,
    files,
    test_opened_at=opened_at if "test" in splits else None,
    training_seconds=round(seconds, 1),
    summary=results["summary"],
    learned=[arm.name for arm in fields.arms],
  )
  print(arms.table(results), flush=True)
  for curve in results.get("scaling", ()):
    print(scaling.describe(curve, fields.scaling.min_gain), flush=True)


def _inputs(compared: Sequence[Arm]) -> tuple[str, ...]:
  filtered = any(arm.filter for arm in compared)
  return ("score", "select") if filtered else ("score",)


def _rows_of(
  arm: Arm,
  seed: int,
  scored: feature_sets.Scored,
  class_names: Sequence[str],
  fit: Callable[..., linear_head.Tuned],
) -> tuple[int, np.ndarray]:
  """Returns the seed of an arm's images, and their rows of the scores.

  Where the arm does not choose by chance, `fit` trains the head that does.
  """
  ids = scored.images.ids
  kept = scored.kept if arm.filter else np.ones(len(ids), bool)
  if arm.drawn_per_class:
    kept = filters.in_smaller_drawing(ids, arm.drawn_per_class)
    if arm.filter:
      choose = partial(filters.select, class_names=class_names, **scored.filter)
      kept = filters.keep_among(scored.images, kept, choose)
  image_seed, rows = filters.images_of(
    scored.images,
    strategy=arm.strategy,
    seed=seed,
    kept=kept,
    class_names=class_names,
  )
  merit = None
  if arm.choice != linear_head.CHANCE:
    learner = fit(arm, seed, rows, None).head
    logits = learner(scored.images.features[rows])
    merit = uncertainty.MEASURES[arm.choice](logits)
  return image_seed, feature_sets.limit_per_class(
    scored.images,
    rows,
    merit=merit,
    images_per_class=arm.images_per_class,
    seed=seed,
    class_names=class_names,
  )


def _fit(
  fields: Tune,
  scored: feature_sets.Scored,
  arm: Arm,
  seed: int,
  rows: np.ndarray,
  validation: Features | None,
) -> linear_head.Tuned:
  """Trains one head."""
  images = scored.images
  return linear_head.fit(
    images.features[rows],
    images.labels[rows],
    scored.zero_shot,
    fields,
    num_epochs=fields.num_epochs,
    batch_size=fields.batch_size,
    seed=seed,
    soft_weight=arm.soft_weight,
    label_smoothing=arm.label_smoothing,
    validation=validation,
  )


# --- results ----------------------------------------------------------------


def _add_best_epochs(results, trained, fit, test: Features) -> None:
  """Adds the accuracy of the best epoch, chosen on the test images.

  That is what the released code prints; it is too high, and stands apart.
  """
  for row, run in zip(results["rows"], trained, strict=True):
    tuned = fit(run.arm, run.seed, run.rows, test)
    row["best_epoch_on_test"] = float(np.max(tuned.accuracies))


def _write_training(
  folder: epath.Path,
  zero_shot: linear_head.Head,
  trained: Sequence[Trained],
  class_names: Sequence[str],
  encoder: Mapping[str, Any],
) -> dict[str, int]:
  """Writes the heads and the curves; returns the rows of the files."""
  curves, by_arm = {}, {}
  for arm, seed, *_, tuned in trained:
    curves[heads.label(arm.name, seed)] = np.asarray(tuned.losses)
    by_arm.setdefault(arm.name, {})[seed] = tuned.head
  rows = heads.save(folder, zero_shot, by_arm, class_names, encoder)
  with artifacts.replace(folder, "curves.npz") as path:
    np.savez(path, **curves)
  return rows | {"curves.npz": len(curves)}
