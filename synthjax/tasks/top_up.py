"""Learns uneven classes with generated images for what they lack, or without.

How much a generated image counts is chosen on validation images; everything is
trained before the test images are opened, once.
"""

import datetime
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets, heads, topping_up
from synthjax.adapt.topping_up import TopUp
from synthjax.config import schema
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.rows import labels_of
from synthjax.data.real import real_images
from synthjax.encoders import check_texts, load_encoder
from synthjax.evals import accuracy
from synthjax.evals.arms import align
from synthjax.labels import class_names, spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError, gathered
from synthjax.runtime.progress import counter, say

FIELDS = TopUp
_FEW = 10  # validation images of a class, below which it is said
INPUTS = ("score", "select")


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that the images can choose and measure."""
  fields = schema.read(TopUp, config.top_up, "config.top_up")
  with gathered() as attempt:
    attempt(check_texts, config.space, config.encoder.to_dict())
    attempt(artifacts.check_complete, workdir, INPUTS, planned=config.tasks)
    if "generate" in config.tasks:
      attempt(_check_pool, config)
    space = spaces.load_space(config.space)
    for split, block in real_images.splits_of(config.top_up.to_dict()).items():
      attempt(real_images.check_real, block, space, f"config.top_up.{split}")
    attempt(_check_validation, fields, space)


def _check_pool(config: ConfigDict) -> None:
  """Checks that images are drawn for what the pool lacks."""
  drawn_for = (config.generate.get("top_up") or {}).get("pool")
  if drawn_for != config.top_up.pool:
    raise UserError(
      "Images must be drawn for the real images that are learned from: give "
      "config.generate.top_up and config.top_up one pool; found "
      f"{drawn_for and drawn_for.to_dict()} and {config.top_up.pool.to_dict()}."
    )


def _check_validation(fields: TopUp, space: spaces.LabelSpace) -> None:
  """Checks that the smallest classes take part in the choice."""
  counts = [
    np.bincount(labels, minlength=len(space.classes))
    for labels in _labels(fields, space)
  ]
  of_pool, validating = counts
  smaller = np.flatnonzero(of_pool < of_pool.max())
  if len(smaller) and not validating[smaller].any():
    raise UserError(
      "config.top_up.validation: there is no image to choose by of any class "
      "that is smaller than the largest one: "
      f"{class_names.some([space.class_names[i] for i in smaller])}. "
      + (
        "Give `validation` some of these; or leave it out, and a part of the "
        "images that are learned from will choose."
        if fields.validation
        else "They have too few images to hold one out: give others by "
        f"`validation`, or raise config.top_up.held_out={fields.held_out}."
      )
    )


def _labels(
  fields: TopUp, space: spaces.LabelSpace
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the labels of the pool, and of the images that validate."""
  read = lambda block: np.asarray(
    labels_of(real_images.open_real(block, space))
  )
  of_pool = read(fields.pool)
  if fields.validation:
    return of_pool, read(fields.validation)
  held = few_shot.hold_out(of_pool, share=fields.held_out)["validation"]
  return of_pool, of_pool[held]


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json` and `heads.safetensors`."""
  fields = schema.read(TopUp, config.top_up, "config.top_up")
  block, workdir = config.top_up.to_dict(), epath.Path(workdir)
  folder, space = workdir / "top_up", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  splits = real_images.splits_of(block)
  spec = feature_sets.specification(
    "top_up", block, workdir, encoder, space, INPUTS
  )
  feature_sets.check_scores(workdir, encoder, space)
  if artifacts.begin(folder, spec):
    return
  opened, files = {}, {}

  def open_real(name):
    opened[name], rows = feature_sets.encode_real(
      splits[name], space, encoder, folder
    )
    files.update(rows)

  open_real("pool")
  if fields.validation:
    open_real("validation")
  scored = feature_sets.read_scored(workdir, filtered=True)
  kept = scored.kept
  generated = (
    scored.images.features[kept].astype(np.float32),
    scored.images.labels[kept],
  )
  of_pool, choosing = _labels(fields, space)
  _say_choice(fields, choosing, space)
  start_time = time.monotonic()
  num_arms = len(fields.weights) + 2
  num_heads = len(fields.seeds) * (num_arms + (0 if fields.validation else 3))
  report_progress = counter("top_up", num_heads, unit="heads")
  learned = topping_up.learn(
    fields,
    opened["pool"],
    generated,
    opened.get("validation"),
    scored.zero_shot,
    report=lambda note: report_progress(note=note),
  )
  seconds = time.monotonic() - start_time

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  open_real("test")
  count = lambda labels: np.bincount(
    labels, minlength=len(space.classes)
  ).tolist()
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    "real": count(of_pool),
    "generated": count(generated[1]),
    "validation": {
      "is_held_out": not fields.validation,
      "images": count(choosing),
      "tried": learned.tried,
      "mix": learned.mix,
      "best": learned.best,
    },
    **topping_up.measure(learned, scored.zero_shot, opened["test"]),
  }
  files |= heads.save(
    folder,
    scored.zero_shot,
    learned.heads,
    space.class_names,
    {"config": config.encoder.to_dict(), "identity": encoder.identity},
  )
  files |= accuracy.write(folder, results)
  artifacts.finish(
    folder,
    spec,
    files,
    test_opened_at=opened_at,
    training_seconds=round(seconds, 1),
    learned=list(dict.fromkeys([learned.best, *learned.heads])),
  )
  print(table(results), flush=True)


def _say_choice(
  fields: TopUp, labels: np.ndarray, space: spaces.LabelSpace
) -> None:
  """Says what chooses, and of which classes there is nothing to choose by."""
  counts = np.bincount(labels, minlength=len(space.classes))
  line = f"top_up: {len(labels):,} validation images choose the mix"
  if not fields.validation:
    line = (
      f"top_up: no validation is given, so that {len(labels):,} real images, "
      f"{fields.held_out:.0%} of each class, choose the mix; others for each "
      "seed, and what is chosen learns from them, too"
    )
  if missing := [space.class_names[i] for i in np.flatnonzero(counts == 0)]:
    line += f"; there is none of {class_names.some(missing)}"
  few, name = min((n, i) for i, n in enumerate(counts.tolist()) if n)
  if few < _FEW:
    line += (
      f"; of {space.class_names[name]} there are only {few}, so that the "
      "choice is unsure: more are better"
    )
  say(f"{line}.")


def table(results: Mapping[str, Any]) -> str:
  """Lays out the mean accuracies over classes, and the gains of the mix."""
  chosen, of_test = results["validation"], results["zero_shot"]
  spread = lambda x: (
    f"{100 * x['mean']:.2f}"
    + ("" if x["std"] is None else f" ± {100 * x['std']:.2f}")
  )
  measured = {row["arm"]: row for row in results["summary"]}
  start = f"{100 * of_test['mean_per_class']:.2f}"
  size = f"test ({results['num_test']:,})"
  lines = [
    ["mean over classes, %", "validation", size],
    ["zero-shot", "", start],
  ]
  for arm, values in chosen["tried"].items():
    of_arm = spread(measured[arm]) if arm in measured else ""
    mean = spread(accuracy.summarize(values)._asdict())
    lines.append([arm, mean, of_arm])
  texts = [align(lines)]
  ends = lambda x: f"{100 * x['low']:+.2f} to {100 * x['high']:+.2f}"
  for gain in results["gains"]:
    over = [f"{ends(gain['over_images'])} over test images"]
    if gain["low"] is not None:
      over.append(f"{ends(gain)} over {gain['n']} seeds")
    texts.append(
      f"{gain['arm']} − {gain['reference']}: {100 * gain['mean']:+.2f} points "
      f"(95 % intervals: {', '.join(over)})"
    )
  why = "the best on validation"
  if chosen["best"] != chosen["mix"]:
    why = "as no mix is clearly better on validation"
  texts.append(f"Used from here on: {chosen['best']}, {why}.")
  return "\n".join(texts)
