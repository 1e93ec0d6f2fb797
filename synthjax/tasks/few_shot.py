"""Learns recognisers from a few real images, with generated ones or without.

All methods, numbers of shots and seeds are trained before the test images are
opened, in one place; nothing that they show is used to choose anything.
"""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets, few_shot_methods, linear_head
from synthjax.adapt import few_shot_methods as methods
from synthjax.adapt.few_shot_methods import Method
from synthjax.adapt.mixed_tuning import Problem
from synthjax.config import check_strategies, validate
from synthjax.data.generated import clip_filter, real_filter
from synthjax.data.generated import scores as stored
from synthjax.data.pipeline import few_shot
from synthjax.data.real import real_images
from synthjax.encoders import Encoder, check_encoder, load_encoder
from synthjax.evals import accuracy as result_files
from synthjax.evals import arms
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import counter

KNOWN = few_shot_methods.KNOWN
# Methods that look at augmented shots, and at validation images.
AUGMENTED, SEARCHING = ("tip_adapter", "coop"), ("tip_adapter", "linear_probe")


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields and methods, and that their images are there or will be."""
  block = config.few_shot.to_dict()
  needed = few_shot_methods.REQUIRED
  validate(block, KNOWN, name="few_shot", required=needed)
  wanted = read_methods(block)
  searching = sorted({method.kind for method in wanted} & set(SEARCHING))
  if searching and not block.get("validation"):
    raise UserError(
      f"config.few_shot has methods of the kinds {searching}, which search on "
      "`validation`: give real images for it."
    )
  few_shot.check_sampler(block.get("sampler", "nested"))
  _check_strategies(config, wanted)
  check_encoder(**config.encoder.to_dict())
  space = spaces.load_space(config.space)
  for each in real_images.splits_of(block).values():
    real_images.check_real(each, space)
  real_images.check_pool(block["pool"], space, block["shots"])
  artifacts.check_complete(workdir, _inputs(wanted), planned=config.tasks)


def _check_strategies(config: ConfigDict, wanted: Sequence[Method]) -> None:
  """Checks that the run will draw what the methods learn from."""
  if "generate" not in config.tasks or "prompts" not in config.tasks:
    return
  asked = {
    method.strategy.replace("{shots}", str(shots))
    for method in wanted
    if method.strategy
    for shots in config.few_shot.shots
  }
  check_strategies(config, asked)
  if not any(name.startswith("rg") for name in asked):
    return
  blocks = config.few_shot, config.generate.real_guidance
  samplers = [block.get("sampler", "nested") for block in blocks]
  if len(set(samplers)) > 1:
    raise UserError(
      "Images are drawn from the shots that are learned from: give config."
      "few_shot and config.generate.real_guidance one sampler; found "
      f"{' and '.join(samplers)}."
    )
  if lacking := {*config.few_shot.seeds} - {*config.generate.seeds}:
    raise UserError(
      f"Images are drawn from the shots of the seeds {config.generate.seeds}, "
      f"but config.few_shot.seeds has {sorted(lacking)} besides: add them to "
      "config.generate.seeds, or leave them out."
    )


def read_methods(block: Mapping[str, Any]) -> list[Method]:
  """Reads the methods of config.few_shot; see `few_shot_blocks.read`."""
  for i, each in enumerate(block["methods"]):
    name, fields = f"few_shot.methods[{i}]", few_shot_methods.FIELDS
    validate(each, fields, name=name, required=("name", "kind"))
  protocol, taken = block.get("protocol"), (arms.ZERO_SHOT,)
  return few_shot_methods.read(block["methods"], protocol=protocol, taken=taken)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`."""
  block, workdir = config.few_shot.to_dict(), epath.Path(workdir)
  folder, space = workdir / "few_shot", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  wanted = read_methods(block)
  splits = real_images.splits_of(block)
  spec = {
    "few_shot": block,
    "encoder": encoder.identity,
    "real": {name: real_images.identify(each) for name, each in splits.items()},
    "inputs": {n: artifacts.digest(workdir / n) for n in _inputs(wanted)},
    "classes": space.class_names,
    "templates": space.templates,
  }
  if texts := spaces.identify_texts(space):
    spec["texts"] = texts
  if artifacts.begin(folder, spec):
    return
  files: dict[str, int] = {}

  def encode(block):
    features, rows = feature_sets.encode_real(block, space, encoder, folder)
    files.update(rows)
    return features

  zero_shot, make = _problem_maker(
    block, space, encoder, workdir, encode, _inputs(wanted)
  )
  began, trained = time.monotonic(), []
  num = len(block["shots"]) * len(wanted) * len(block["seeds"])
  tell = counter("few_shot", num, unit="classifiers")
  for shots in block["shots"]:
    for method in wanted:
      for seed in block["seeds"]:
        problem, num_images = make(method, shots, seed)
        about = {
          "arm": arms.label(method.name, shots),
          "method": method.name,
          "shots": shots,
          "seed": seed,
          "num_images": num_images,
        }
        learn = methods.METHODS[method.kind]
        trained.append((about, learn(problem, **method.options)))
        tell(note=about["arm"])
  seconds = time.monotonic() - began

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  tested = {
    name: encode(each)
    for name, each in splits.items()
    if name not in ("pool", "validation")
  }
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    "shots": list(block["shots"]),
    "methods": [method.name for method in wanted],
    **arms.compare(
      lambda predict, features: np.asarray(predict(features)),
      partial(linear_head.logits_fn, zero_shot),
      trained,
      tested,
      len(space.classes),
    ),
  }
  released = block.get("protocol") == "released"
  if block.get("best_epoch_on_test", released):
    _add_best_epochs(results, wanted, make, tested["test"])
  files |= result_files.write(folder, results)
  artifacts.finish(
    folder,
    spec,
    files,
    test_opened_at=opened_at,
    training_seconds=round(seconds, 1),
    summary=results["summary"],
  )
  print(arms.shots_table(results), flush=True)


def _inputs(wanted: Sequence[Method]) -> tuple[str, ...]:
  filtered = any(method.filter == "clip" for method in wanted)
  drawn = any(method.strategy for method in wanted)
  return ("score", "select") if filtered else ("score",) if drawn else ()


def _add_best_epochs(results, wanted, make, test) -> None:
  """Adds the accuracy of the best epoch, chosen on the test images.

  That is what the released code prints; it is too high, and stands apart.
  """
  by_name = {method.name: method for method in wanted}
  for row in results["rows"]:
    method = by_name[row["method"]]
    if method.kind == "classifier":
      problem, _ = make(method, row["shots"], row["seed"])
      row["best_epoch_on_test"] = methods.best_epoch_on_test(
        problem, test, **method.options
      )


def _problem_maker(
  block: Mapping[str, Any],
  space: Any,
  encoder: Encoder,
  workdir: epath.Path,
  encode: Callable[[Mapping[str, Any]], feature_sets.Features],
  inputs: Sequence[str],
) -> tuple[linear_head.Head, Callable]:
  """Returns the zero-shot head, and a function that makes problems.

  That maps a method, shots and seed to a problem and the number of generated
  images in it; what several problems share is read and encoded once.
  """
  few = feature_sets.Few(
    source=real_images.open_real(block["pool"], space),
    pool=encode(block["pool"]),
    validation=encode(block["validation"]) if block.get("validation") else None,
    num_classes=len(space.classes),
    sampler=block.get("sampler", "nested"),
  )
  scores, kept = None, None
  if not inputs:
    texts = stored.encode_classes(
      encoder.encode_texts, encoder.logit_scale, space
    )
  else:
    stored.check_inputs(
      workdir / "score",
      encoder=encoder.identity,
      classes=space.class_names,
      templates=space.templates,
      texts=spaces.identify_texts(space),
    )
    scores = stored.read(workdir / "score")
    texts = stored.read_texts(workdir / "score")
  if "select" in inputs:
    kept = clip_filter.read_kept(workdir / "select", workdir / "score", scores)
  zero_shot = linear_head.init_head(texts.text_features, texts.logit_scale)
  embed_prompts = cache(partial(encoder.embed_prompts, space.described_names))
  views_of = cache(
    partial(
      feature_sets.encode_views,
      few,
      encoder.encode_images,
      num_views=block.get("num_views", 10),
    )
  )

  def make(method, shots, seed):
    real_shots, synthetic = feature_sets.draw_shots(few, shots, seed), None
    if method.strategy:
      chosen = real_filter.images_for(
        scores,
        strategy=method.strategy.replace("{shots}", str(shots)),
        seed=seed,
        kept=kept if method.filter == "clip" else None,
        real=real_shots if method.filter == "real" else None,
        margin=block.get("real_filter_margin", 0.0),
        max_per_class=block.get("max_per_class", 800),
        class_names=space.class_names,
      )
      features = scores.features[chosen].astype(np.float32)
      synthetic = features, scores.labels[chosen]
    problem = Problem(
      zero_shot=zero_shot,
      logit_scale=encoder.logit_scale,
      shots=real_shots,
      views=views_of(shots, seed) if method.kind in AUGMENTED else None,
      synthetic=synthetic,
      validation=feature_sets.lend_validation(few, shots, seed),
      prompts=embed_prompts,
      seed=seed,
      retrieve=partial(
        feature_sets.retrieve, few, np.asarray(zero_shot.weight)
      ),
    )
    return problem, 0 if synthetic is None else len(synthetic[1])

  return zero_shot, make
