"""Learns recognisers from a few real images, with generated ones or without.

All methods, numbers of shots and seeds are trained before the test images are
opened, in one place; nothing that they show is used to choose anything.
"""

import datetime
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import (
  coop,
  feature_sets,
  few_shot_methods,
  heads,
  linear_head,
)
from synthjax.adapt.few_shot_methods import FewShot, Method
from synthjax.adapt.mixed_tuning import Problem
from synthjax.adapt.prolip import ProjectedHead
from synthjax.config import schema
from synthjax.config.arguments import check_strategies
from synthjax.data.generated import filters, plan, shards
from synthjax.data.real import real_images
from synthjax.encoders import Encoder, check_texts, load_encoder
from synthjax.evals import accuracy, arms
from synthjax.labels import spaces
from synthjax.models.clip import projection
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError, gathered
from synthjax.runtime.progress import counter

FIELDS = FewShot


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields and methods, and that their images are there or will be."""
  fields = schema.read(FewShot, config.few_shot, "config.few_shot")
  inputs = _inputs(fields)
  with gathered() as attempt:
    attempt(_check_strategies, config, fields)
    attempt(check_texts, config.space, config.encoder.to_dict())
    attempt(_check_projection, config, fields)
    attempt(artifacts.check_complete, workdir, inputs, planned=config.tasks)
    space = spaces.load_space(config.space)
    for split, block in real_images.splits_of(
      config.few_shot.to_dict()
    ).items():
      name, shots = f"config.few_shot.{split}", fields.shots
      shots = shots if split == "pool" else ()
      attempt(real_images.check_real, block, space, name, shots=shots)


def _check_projection(config: ConfigDict, fields: FewShot) -> None:
  """Checks that the encoder has the layer that some methods tune."""
  names = [method.name for method in fields.methods if method.projects]
  if names and not load_encoder(**config.encoder.to_dict()).unprojected:
    raise UserError(
      f"The methods {names} tune the projection that ends an image tower of "
      f"CLIP, and config.encoder ({config.encoder.name}) has none: leave them "
      "out, or choose a CLIP."
    )


def _check_strategies(config: ConfigDict, fields: FewShot) -> None:
  """Checks that the run draws the images that the methods learn from."""
  names = {
    _strategy(method, shots)
    for method in fields.methods
    if method.strategy
    for shots in fields.shots
  }
  check_strategies(config, names)
  drawn_by = {
    "rg": ("generate", "config.generate.real_guidance"),
    plan.ADAPTED: ("tune_generator", "config.tune_generator"),
  }
  for start, (task, place) in drawn_by.items():
    if task in config.tasks and any(name.startswith(start) for name in names):
      _check_shots(config, fields, task, place)


def _check_shots(
  config: ConfigDict, fields: FewShot, task: str, place: str
) -> None:
  """Checks that images are drawn from the shots that are learned from."""
  block = config[task]
  of_shots = block.real_guidance if task == "generate" else block
  sampler = of_shots.get("sampler", "nested")
  if sampler != fields.sampler:
    raise UserError(
      "Images are drawn from the shots that are learned from: give config."
      f"few_shot and {place} one sampler; found {fields.sampler} and {sampler}."
    )
  if lacking := {*fields.seeds} - {*block.seeds}:
    raise UserError(
      f"Images are drawn from the shots of the seeds {block.seeds}, but "
      f"config.few_shot.seeds has {sorted(lacking)} besides: add them to "
      f"config.{task}.seeds, or leave them out."
    )


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json` and `heads.safetensors`."""
  fields = schema.read(FewShot, config.few_shot, "config.few_shot")
  block, workdir = config.few_shot.to_dict(), epath.Path(workdir)
  folder, space = workdir / "few_shot", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  splits = real_images.splits_of(block)
  spec = feature_sets.specification(
    "few_shot", block, workdir, encoder, space, _inputs(fields)
  )
  spec["templates"] = space.templates
  if texts := spaces.identify_texts(space):
    spec["texts"] = texts
  if artifacts.begin(folder, spec):
    return
  files: dict[str, int] = {}

  def encode(source, encoder=encoder, kind="real"):
    features, rows = feature_sets.encode_rows(
      source, encoder, folder, kind=kind
    )
    files.update(rows)
    return features

  images = epath.Path(config.get("score", {}).get("images") or workdir)
  zero_shot, make_problem = _problem_maker(
    fields, space, encoder, workdir, images / "generate", encode
  )
  start_time, trained = time.monotonic(), []
  total = len(fields.shots) * len(fields.methods) * len(fields.seeds)
  report_progress = counter("few_shot", total, unit="classifiers")
  for shots in fields.shots:
    for method in fields.methods:
      for seed in fields.seeds:
        problem = make_problem(method, shots, seed)
        about = {
          "arm": arms.label(method.name, shots),
          "method": method.name,
          "shots": shots,
          "seed": seed,
          "num_images": len(problem.synthetic[1]) if problem.synthetic else 0,
        }
        trained.append((about, method.learner()(problem)))
        report_progress(note=about["arm"])
  seconds = time.monotonic() - start_time

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  opened = {
    name: real_images.open_real(split, space)
    for name, split in splits.items()
    if name not in ("pool", "validation")
  }
  tested = {name: encode(source) for name, source in opened.items()}
  # What the heads read of them, by whether they end in a projection.
  seen = {name: {False: features} for name, (features, _) in tested.items()}
  if any(method.projects for method in fields.methods):
    for name, source in opened.items():
      seen[name][True], _ = encode(source, encoder.unprojected)
  headline = arms.label(fields.methods[0].name, max(fields.shots))
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    "shots": list(fields.shots),
    "methods": [method.name for method in fields.methods],
    **arms.compare(
      lambda head, x: np.asarray(head(x[isinstance(head, ProjectedHead)])),
      zero_shot,
      trained,
      {name: (seen[name], labels) for name, (_, labels) in tested.items()},
      len(space.classes),
      headline=headline,
    ),
  }
  if fields.reports_best_epoch:
    _add_best_epochs(results, fields, make_problem, tested["test"])
  by_arm: dict[str, dict[int, heads.Learned]] = {}
  for about, head in trained:
    by_arm.setdefault(about["arm"], {})[about["seed"]] = head
  files |= heads.save(
    folder,
    zero_shot,
    by_arm,
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
    summary=results["summary"],
    learned=[headline, *by_arm],
  )
  print(arms.shots_table(results), flush=True)


def _strategy(method: Method, shots: int | None) -> str:
  return method.strategy.replace("{shots}", str(shots))


def _inputs(fields: FewShot) -> tuple[str, ...]:
  if any(method.filter == "clip" for method in fields.methods):
    return ("score", "select")
  return ("score",) if any(m.strategy for m in fields.methods) else ()


def _add_best_epochs(results, fields: FewShot, make_problem, test) -> None:
  """Adds the accuracy of the best epoch, chosen on the test images.

  That is what the released code prints; it is too high, and stands apart.
  """
  methods = {method.name: method for method in fields.methods}
  for row in results["rows"]:
    method = methods[row["method"]]
    if method.kind == "classifier":
      problem = make_problem(method, row["shots"], row["seed"])
      classifier = method.learner()
      row["best_epoch_on_test"] = classifier.best_epoch_on_test(problem, test)


def _problem_maker(
  fields: FewShot,
  space: Any,
  encoder: Encoder,
  workdir: epath.Path,
  images: epath.Path,
  encode: Callable[..., feature_sets.Features],
) -> tuple[linear_head.Head, Callable[..., Problem]]:
  """Returns the zero-shot head, and a function that makes problems.

  That maps a method, shots and seed to a problem; what several problems share
  is read and encoded once. The folder `images` has those that were generated,
  and `encode` maps a source, an encoder and a kind to features and labels.
  """
  open_real = partial(real_images.open_real, space=space)
  pool, validation = open_real(fields.pool), fields.validation
  few = feature_sets.Few(
    source=pool,
    pool=encode(pool),
    validation=encode(open_real(validation)) if validation else None,
    num_classes=len(space.classes),
    sampler=fields.sampler,
  )
  inputs, scored = _inputs(fields), None
  if inputs:
    feature_sets.check_scores(workdir, encoder, space)
    scored = feature_sets.read_scored(workdir, filtered="select" in inputs)
    zero_shot = scored.zero_shot
  else:
    zero_shot = feature_sets.zero_shot_head(encoder, space)
  last = encoder.unprojected and projection.read(
    encoder.network.variables["params"]
  )
  embed_prompts = cache(partial(encoder.embed_prompts, space.described_names))

  def encode_views(projects, shots, seed, number, **options):
    reader = encoder.unprojected if projects else encoder
    return feature_sets.encode_views(
      *(few, reader.encode_images, shots, seed),
      num_views=number,
      fit=encoder.fit,
      **options,
    )

  views_of = cache(partial(encode_views, number=fields.num_views))

  def crops_of(projects, shots, seed, number):
    crop = {} if projects else {"scale": coop.CROP}
    return encode_views(projects, shots, seed, number, **crop)

  def synthetic_for(method, shots, seed, real_shots):
    rows = filters.images_for(
      scored.images,
      strategy=_strategy(method, shots),
      seed=seed,
      kept=scored.kept if method.filter == "clip" else None,
      real=real_shots if method.filter == "real" else None,
      margin=fields.real_filter_margin,
      max_per_class=fields.max_per_class,
      class_names=space.class_names,
    )
    if method.projects:
      source = shards.open_shards(images, scored.images.ids[rows])
      return encode(source, encoder.unprojected, "drawn")
    features = scored.images.features[rows].astype(np.float32)
    return features, scored.images.labels[rows]

  def make_problem(method, shots, seed):
    real_shots, synthetic, views = (
      feature_sets.draw_shots(few, shots, seed),
      None,
      None,
    )
    if method.strategy:
      synthetic = synthetic_for(method, shots, seed, real_shots)
    if method.kind in few_shot_methods.AUGMENTED:
      views = views_of(method.projects, shots, seed)
    return Problem(
      zero_shot=zero_shot,
      logit_scale=encoder.logit_scale,
      shots=real_shots,
      views=views,
      synthetic=synthetic,
      validation=feature_sets.lend_validation(few, shots, seed),
      prompts=embed_prompts,
      seed=seed,
      retrieve=partial(
        feature_sets.retrieve, few, np.asarray(zero_shot.weight)
      ),
      protocol=fields.protocol,
      crops=partial(crops_of, method.projects, shots, seed),
      projection=last,
    )

  return zero_shot, make_problem
