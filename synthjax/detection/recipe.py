"""How a detector is trained, from fields of plain data.

The fields are those of the task `detect`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from synthjax.config import schema
from synthjax.detection.regions import Options
from synthjax.runtime.artifacts import file_stem
from synthjax.runtime.errors import (
  BLOCK,
  COUNT,
  COUNTS,
  NUMBERS,
  PAIRS,
  POSITIVE,
  SEEDS,
  SHARE,
  SIDES,
  TEXT,
  WHOLE,
  UserError,
  check_values,
  unknown_names,
)
from synthjax.training import recipes
from synthjax.training.backbones import ALONE, RANDOM
from synthjax.training.loop import Objective
from synthjax.training.optimizer import OPTIMIZER

# What a recipe holds; `inits` may give each initialisation its own values.
RECIPE = {
  "recipe": TEXT,  # of train.recipe.RECIPES; its rate fits any batch size
  "num_steps": COUNT,  # of training; or give
  "epochs": POSITIVE,
  "batch_size": COUNT,
  "optimizer": BLOCK,  # see train.recipe.make_optimizer
}
# Of images, in pixels; by default those for VOC.
IMAGES = dict(
  short_sides=tuple(range(480, 801, 32)),
  max_size=1333,
  eval_short_side=800,
  num_buckets=6,  # of shapes, each of which is compiled
  eval_num_buckets=4,
  eval_batch_size=8,
)
IMAGE_VALUES = dict.fromkeys(IMAGES, COUNT) | {"short_sides": COUNTS}
# What there is of a network besides the ResNet.
MODEL = {"sampling": COUNT, "roi_size": COUNT}
# Fields of regions.Options.
OPTIONS = {
  "sizes": SIDES,
  "ratios": SIDES,
  "anchor_iou": NUMBERS,
  "anchor_weights": NUMBERS,
  "num_anchors": COUNT,
  "max_positive_anchors": COUNT,
  "pre_top": COUNT,
  "post_top": COUNT,
  "test_pre_top": COUNT,
  "test_post_top": COUNT,
  "proposal_nms": SHARE,
  "roi_iou": SHARE,
  "roi_weights": NUMBERS,
  "num_rois": COUNT,
  "max_foreground": COUNT,
  "min_score": SHARE,
  "detection_nms": SHARE,
  "max_detections": COUNT,
}

REQUIRED = {
  "train": BLOCK,  # images with boxes; see data.detection_sources
  "test": BLOCK,  # opened once, at the end
  # Starts by name, each with what its recipe has of its own, and `weights`, a
  # path or a reference. "random" has none; "pretrained" without any stands for
  # every arm of `pretrain`, by its name.
  "inits": BLOCK,
  "seeds": SEEDS,  # of the head and the order of the batches
  "log_every": WHOLE,
  "checkpoint_every": COUNT,
}
OPTIONAL = {
  "validation": BLOCK,  # measured as well, by which settings may be chosen
  "space": TEXT,  # of the objects, if not config.space
  "model": BLOCK,  # the ResNet, if not config.pretrain.model
  "options": BLOCK,  # fields of OPTIONS that differ from those for VOC
  "weights": TEXT,  # of "pretrained", if not those of `pretrain`
  "compare": PAIRS,  # of starts, besides all to "random"
  "precise_bn_iterations": WHOLE,  # batches; 200 by default
  "interpolation": TEXT,  # of precision and recall; see evals.voc_ap
  "num_examples": WHOLE,  # test images that are drawn with what was found
  "num_workers": WHOLE,
}
KNOWN = REQUIRED | OPTIONAL | RECIPE | IMAGE_VALUES | MODEL
# Of fields of their own.
BLOCKS = {"options": OPTIONS, "optimizer": OPTIMIZER.fields()}


def read(
  given: Mapping[str, Any], validate: Callable[..., None]
) -> dict[str, Any]:
  """Returns the fields of the task, and checks their names.

  Args:
    given: of the block.
    validate: (fields, known names, name=, required=), which raises a UserError
      about names that are not known and those that lack.

  Raises:
    UserError: likewise; about starts without weights, or that would share
      files; about the same images under two names.
  """
  validate(given, KNOWN, name="detect", required=REQUIRED)
  inits, problems = dict(given["inits"]), []
  if ALONE in inits and given.get("weights"):
    inits[ALONE] = {"weights": given["weights"]} | dict(inits[ALONE])
  validate(inits, dict.fromkeys(inits, BLOCK), name="detect.inits")
  for init, own in inits.items():
    validate(own, RECIPE | {"weights": TEXT}, name=f"detect.inits.{init}")
    has = bool(own.get("weights"))
    if init == RANDOM and has:
      problems.append(f"inits.{RANDOM} has weights: give it another name")
    if init not in (RANDOM, ALONE) and not has:
      problems.append(
        f"inits.{init} has no weights: give it some, or call it {RANDOM!r}, or "
        f"{ALONE!r}, which has those of `pretrain`"
      )
  if not inits or not given["seeds"]:
    problems.append("inits or seeds are empty: there is nothing to train")
  if len({file_stem(init) for init in inits}) < len(inits):
    problems.append(f"two of inits would share files: {', '.join(inits)}")
  splits = splits_of(given)
  for i, one in enumerate(splits):
    problems += [
      f"{one} and {other} are the same images, {given[one]}: choose others for "
      "one of them"
      for other in splits[i + 1 :]
      if given[one] == given[other]
    ]
  if problems:
    raise UserError(f"config.detect: {'; '.join(problems)}.")
  return dict(given) | {"inits": inits}


def splits_of(fields: Mapping[str, Any]) -> list[str]:
  """Returns which of train, validation and test there are."""
  return [n for n in ("train", "validation", "test") if fields.get(n)]


def recipe_of(
  fields: Mapping[str, Any], init: str, num_images: int
) -> dict[str, Any]:
  """Returns num_steps, epochs, batch_size and optimizer of an initialisation.

  A recipe that is named has the rate and the warm-up of its batch size, by the
  linear rule, unless they are given.

  Args:
    fields: of the task.
    init: a key of `inits`.
    num_images: to train on.

  Raises:
    UserError: about what is missing or said twice.
  """
  own = fields["inits"][init]
  given = {n: fields[n] for n in RECIPE if n in fields}
  given |= {n: own[n] for n in RECIPE if n in own}
  given["optimizer"] = fields.get("optimizer", {}) | own.get("optimizer", {})
  if given.get("num_steps") and given.get("epochs"):
    raise UserError(
      f"config.detect has num_steps={given['num_steps']} and "
      f"epochs={given['epochs']} for {init!r}: give one of them."
    )
  filled = recipes.fill(given, linear=True)
  if not isinstance(filled["optimizer"].get("lr", 0.0), int | float):
    raise UserError(
      f"config.detect.optimizer.lr={filled['optimizer']['lr']!r} for {init!r}: "
      "give one rate; compare several by `validation`, a workdir for each."
    )
  n, steps = filled.get("batch_size"), given.get("num_steps")
  missing = [] if n else ["batch_size"]
  missing += [
    f"optimizer.{name}"
    for name in ("name", "lr")
    if name not in filled["optimizer"]
  ]
  if not steps and not filled.get("epochs"):
    missing.append("num_steps")
  if missing:
    raise UserError(
      f"config.detect lacks {', '.join(missing)} for {init!r}; "
      "recipe='voc_detection' has all of them."
    )
  return {
    "num_steps": steps
    or recipes.count_steps(num_images, epochs=filled["epochs"], batch_size=n),
    "epochs": steps * n / num_images if steps else filled["epochs"],
    "batch_size": n,
    "optimizer": filled["optimizer"],
  }


def make_optimizer(fields: Mapping[str, Any]) -> Any:
  """Returns the optimizer of what `recipe_of` has returned."""
  make = schema.read(OPTIMIZER, fields["optimizer"], "config.detect.optimizer")
  return make(num_steps=fields["num_steps"], epochs=fields["epochs"])


def images_of(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of IMAGES, with its defaults."""
  return {name: fields.get(name, value) for name, value in IMAGES.items()}


def options_of(
  given: Mapping[str, Any] | None, short_sides: Sequence[int]
) -> Options:
  """Returns options that differ from those for VOC in what is given.

  Args:
    given: fields of `regions.Options`.
    short_sides: of the images, in pixels, of which anchors must be parts.

  Raises:
    UserError: listing unknown names, and numbers that cannot be.
  """
  given = dict(given or {})
  if unknown := given.keys() - OPTIONS.keys():
    raise unknown_names("config.detect.options", sorted(unknown), OPTIONS)
  check_values("config.detect.options", given, OPTIONS)
  # JSON has no tuples, and what is compiled for options must hash them.
  plain = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
  options, problems = Options(**plain), []
  for part, total in (
    ("max_positive_anchors", "num_anchors"),
    ("max_foreground", "num_rois"),
    ("post_top", "pre_top"),
    ("test_post_top", "test_pre_top"),
  ):
    few, many = getattr(options, part), getattr(options, total)
    if few > many:
      problems.append(f"{part}={few} is more than {total}={many}")
  if min(options.sizes) > (side := min(short_sides)):
    problems.append(
      f"the anchors' sizes {options.sizes} are all longer than the images' "
      f"shorter side of {side} px"
    )
  if problems:
    raise UserError(f"config.detect.options: {'; '.join(problems)}.")
  return options


def trace(
  objectives: Sequence[Objective],
  *,
  batch_size: int,
  side: int,
  max_objects: int = 1,
) -> None:
  """Traces the starts of objectives and their common step; computes nothing.

  Raises:
    UserError: about shapes and sizes that do not fit, in seconds and not after
      hours.
  """
  n, k, side = batch_size, max_objects, -(-side // 16) * 16
  shapes = {
    "image": ((n, side, side, 3), np.uint8),
    "size": ((n, 2), np.int32),
    "boxes": ((n, k, 4), np.float32),
    "labels": ((n, k), np.int32),
    "valid": ((n, k), bool),
  }
  batch = {name: jax.ShapeDtypeStruct(*of) for name, of in shapes.items()}
  rng = jax.random.key(0)
  for objective in objectives:
    state = jax.eval_shape(objective.init, rng, batch)
  jax.eval_shape(objective.step, state, batch, rng)
