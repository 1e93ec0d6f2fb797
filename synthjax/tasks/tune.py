"""Tunes classifiers on the features of generated images; tests them once.

All arms and seeds are trained before the test images are opened, in one place;
nothing that they show is used to choose anything.
"""

import datetime
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets, head_files, linear_head
from synthjax.adapt import linear_head as recipes
from synthjax.adapt.feature_sets import Features
from synthjax.adapt.linear_head import Arm
from synthjax.config import read_named, validate
from synthjax.data.generated import clip_filter
from synthjax.data.generated import scores as stored
from synthjax.data.real import real_images
from synthjax.encoders import check_encoder, load_encoder
from synthjax.evals import arms
from synthjax.labels import spaces
from synthjax.prompts.strategies import STRATEGIES
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.progress import counter

KNOWN = recipes.KNOWN


class Trained(NamedTuple):
  """One arm with one seed."""

  arm: Arm
  seed: int
  rows: np.ndarray  # [n] int, of the scores
  about: dict[str, Any]  # what the results tell of it
  tuned: linear_head.Tuned


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the arms, and that their images are there or will be."""
  block = config.tune.to_dict()
  validate(block, KNOWN, name="tune", required=recipes.REQUIRED)
  wanted = read_arms(block["arms"])
  known = set(STRATEGIES)
  if "prompts" in config and "prompts" in config.tasks:
    known = set(config.prompts.strategies)
  if unknown := sorted({arm.strategy for arm in wanted} - known):
    raise unknown_names("strategy of an arm,", unknown, known)
  if not block.get("test") and (
    block.get("test_parts") or block.get("best_epoch_on_test")
  ):
    raise UserError(
      "config.tune has test_parts or best_epoch_on_test but no `test`: give "
      "real images for it, or leave both out."
    )
  check_encoder(**config.encoder.to_dict())
  space = spaces.load_space(config.space)
  for each in real_images.splits_of(block).values():
    real_images.check_real(each, space)
  artifacts.check_complete(workdir, _inputs(wanted), planned=config.tasks)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`, `heads.safetensors` and `curves.npz`."""
  block, workdir = config.tune.to_dict(), epath.Path(workdir)
  folder, space = workdir / "tune", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  wanted = read_arms(block["arms"])
  splits = real_images.splits_of(block)
  spec = {
    "tune": block,
    "encoder": encoder.identity,
    "real": {name: real_images.identify(each) for name, each in splits.items()},
    "inputs": {n: artifacts.digest(workdir / n) for n in _inputs(wanted)},
    "classes": space.class_names,
  }
  stored.check_inputs(
    workdir / "score",
    encoder=encoder.identity,
    classes=space.class_names,
    templates=space.templates,
    texts=spaces.identify_texts(space),
  )
  if artifacts.begin(folder, spec):
    return
  opened, rows = {}, {}

  def open_real(names):
    for name in names:
      opened[name], cached = feature_sets.encode_real(
        splits[name], space, encoder, folder
      )
      rows.update(cached)

  open_real([name for name in splits if name == "validation"])
  scores = stored.read(workdir / "score")
  texts = stored.read_texts(workdir / "score")
  head = linear_head.init_head(texts.text_features, texts.logit_scale)
  fit = partial(_fit, block, scores, head)
  began, trained = time.monotonic(), []
  tell = counter("tune", len(wanted) * len(block["seeds"]), unit="heads")
  for arm in wanted:
    kept = np.ones(len(scores.ids), bool)
    if arm.filter:
      kept = clip_filter.read_kept(
        workdir / "select", workdir / "score", scores
      )
    for seed in block["seeds"]:
      image_seed, chosen = clip_filter.images_of(
        scores,
        strategy=arm.strategy,
        seed=seed,
        kept=kept,
        class_names=space.class_names,
      )
      chosen = feature_sets.limit_per_class(
        scores,
        chosen,
        images_per_class=arm.images_per_class,
        seed=seed,
        class_names=space.class_names,
      )
      tuned = jax.device_get(fit(arm, seed, chosen, opened.get("validation")))
      about = {"arm": arm.name, **arm._asdict(), "seed": seed}
      about |= {"image_seed": image_seed, "num_images": len(chosen)}
      about.pop("name")
      trained.append(Trained(arm, seed, chosen, about, tuned))
      tell(note=f"{arm.name}, {len(chosen):,} rows")
  seconds = time.monotonic() - began

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  open_real([name for name in splits if name != "validation"])
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    "templates": list(space.templates),
    **arms.compare(
      lambda head, features: np.asarray(linear_head.logits_fn(head, features)),
      head,
      [(each.about, each.tuned.head) for each in trained],
      {name: opened[name] for name in splits},
      len(space.classes),
    ),
  }
  if block.get("best_epoch_on_test"):
    _add_best_epochs(results, trained, fit, opened["test"])
  known = {"config": config.encoder.to_dict(), "identity": encoder.identity}
  rows |= _write(folder, head, trained, results, known)
  artifacts.finish(
    folder,
    spec,
    rows,
    test_opened_at=opened_at if "test" in splits else None,
    training_seconds=round(seconds, 1),
    summary=results["summary"],
  )
  print(arms.table(results), flush=True)


def read_arms(blocks: Sequence[Mapping[str, Any]]) -> list[Arm]:
  """Reads the arms of a config; see `config.read_named`."""
  return read_named(
    blocks,
    Arm,
    recipes.ARM,
    name="tune.arms",
    required=recipes.ARM_REQUIRED,
    taken=(arms.ZERO_SHOT,),
  )


def _inputs(wanted: Sequence[Arm]) -> tuple[str, ...]:
  filtered = any(arm.filter for arm in wanted)
  return ("score", "select") if filtered else ("score",)


def _fit(
  block: Mapping[str, Any],
  scores: stored.Scores,
  head: linear_head.Head,
  arm: Arm,
  seed: int,
  rows: np.ndarray,
  validation: Features | None,
) -> linear_head.Tuned:
  """Trains one head; what the block leaves out is the paper's recipe."""
  num_epochs = block.get("num_epochs", 30)
  return linear_head.tune(
    scores.features[rows].astype(np.float32),
    scores.labels[rows],
    head,
    index=linear_head.epochs_index(
      len(rows),
      batch_size=min(block.get("batch_size", 512), len(rows)),
      num_epochs=num_epochs,
      seed=seed,
    ),
    soft_weight=arm.soft_weight,
    label_smoothing=arm.label_smoothing,
    num_epochs=num_epochs,
    validation=validation,
    **{name: block[name] for name in recipes.PASSED_ON if name in block},
  )


# --- results ----------------------------------------------------------------


def _add_best_epochs(results, trained, fit, test: Features) -> None:
  """Adds the accuracy of the best epoch, chosen on the test images.

  That is what the released code prints; it is too high, and stands apart.
  """
  for row, each in zip(results["rows"], trained, strict=True):
    again = fit(each.arm, each.seed, each.rows, test)
    row["best_epoch_on_test"] = float(np.max(again.accuracies))


def _write(
  folder: epath.Path,
  head: linear_head.Head,
  trained: Sequence[Trained],
  results: Mapping[str, Any],
  encoder: Mapping[str, Any],
) -> dict[str, int]:
  """Writes the results, heads and curves; returns the rows of the files."""
  curves, arms_heads = {}, {}
  for arm, seed, *_, tuned in trained:
    curves[head_files.label(arm.name, seed)] = np.asarray(tuned.losses)
    arms_heads.setdefault(arm.name, {})[seed] = tuned.head
  rows = head_files.write(folder, head, arms_heads, results["classes"], encoder)
  with artifacts.replace(folder, "curves.npz") as path:
    np.savez(path, **curves)
  with artifacts.replace(folder, "results.json") as path:
    path.write_text(json.dumps(results, indent=1) + "\n")
  return rows | {
    "curves.npz": len(curves),
    "results.json": len(results["rows"]),
  }
