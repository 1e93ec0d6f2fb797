"""Trains detectors on images with boxes, from several initialisations."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.detection import (
  average_precision,
  faster_rcnn,
  sources,
  voc_results,
)
from synthjax.detection import loader as detection_batches
from synthjax.detection import objective as detection
from synthjax.detection import recipe as recipes
from synthjax.detection import results as detected
from synthjax.detection.faster_rcnn import make_detector
from synthjax.detection.resize import to_original
from synthjax.detection.results import Run
from synthjax.evals import accuracy as result_files
from synthjax.labels import spaces
from synthjax.models.classifiers import make_classifier
from synthjax.runtime import artifacts, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import unknown_names
from synthjax.runtime.progress import counter
from synthjax.training import backbones as pretrained
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
KNOWN = recipes.KNOWN
BLOCKS = recipes.BLOCKS
_WEIGHTS = ".safetensors"


class Parts(NamedTuple):
  """What the config says, read and checked."""

  block: dict
  space: spaces.LabelSpace
  resnet: dict  # fields of the model
  model: Any  # the detector
  options: Any
  images: dict  # the fields of recipes.IMAGES


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields, names, images and boxes, and that the weights fit."""
  parts = _read(config)
  block, counts = parts.block, {"train": 10_000}  # of TFDS, a guess
  for split in recipes.splits_of(block):
    if sources.can_open(block[split]):
      counts[split] = len(_open(parts, split))
  backbones = _backbones(block, config, epath.Path(workdir))
  pairs = [name for pair in block.get("compare") or () for name in pair]
  if unknown := [name for name in pairs if name not in backbones]:
    raise unknown_names("start to compare,", unknown, backbones)
  for init in block["inits"]:
    fields = recipes.recipe_of(block, init, counts["train"])
    for name, size in (
      ("batch_size", fields["batch_size"]),
      ("eval_batch_size", parts.images["eval_batch_size"]),
    ):
      meshes.check_batch(meshes.make_mesh(), size, field=f"detect.{name}")
    objective = _objective(parts, fields)
    recipes.trace(
      [
        _started(objective, weights)
        for start, weights in backbones.values()
        if start == init
      ],
      batch_size=fields["batch_size"],
      side=parts.images["eval_short_side"],
    )


def _backbones(block: dict, config: ConfigDict, workdir: epath.Path) -> dict:
  """Returns each start's key of `inits`, and weights: zeros until trained."""
  inits, planned = block["inits"], {}
  own = inits.get(pretrained.ALONE, {"weights": "none"})
  if "pretrain" in config.tasks and not own.get("weights"):
    inits = {k: v for k, v in inits.items() if k != pretrained.ALONE}
    zeros = pretrained.zeros_of(config.pretrain.to_dict(), make_classifier)
    planned = {name: (pretrained.ALONE, own) for name, own in zeros.items()}
  starts = _starts(inits, workdir)
  return planned | {
    name: (init, files.load_params(own[0])[0] if own else None)
    for name, (init, own) in starts.items()
  }


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`, detections and the weights of every detector.

  They are `<start>-s<seed>.safetensors`, VOC's text files in
  `detections/<start>-s<seed>`, and a few test images in `examples`.
  """
  parts, workdir = _read(config), epath.Path(workdir)
  block, folder = parts.block, workdir / "detect"
  starts = _starts(block["inits"], workdir)
  spec = block | {
    "space": spaces.identify(parts.space),
    "model": parts.resnet,
    "options": parts.options._asdict(),
    "images": parts.images
    | {n: sources.identify(block[n]) for n in recipes.splits_of(block)},
    "backbones": {
      name: [files.sha256(path) for path in start.files]
      for name, start in starts.items()
    },
  }
  if artifacts.begin(folder, spec):
    return
  _train_all(parts, starts, folder)
  processes.wait_for_all("the weights are written")
  every = [Run(name, seed) for name in starts for seed in block["seeds"]]
  validation, tested, rows = {}, {}, {}
  if block.get("validation"):
    found = _measure(parts, every, _open(parts, "validation"), folder)
    validation = {one: measured for one, measured, _ in found}
  # Nothing is trained for, or chosen by, what is opened here.
  source, names = _open(parts, "test"), [c.name for c in parts.space.classes]
  # As VOC's own files name them.
  classes = [c.key or c.name for c in parts.space.classes]
  for one, measured, found in _measure(parts, every, source, folder):
    tested[one] = measured
    rows |= detected.write_detections(folder, one, source, found, classes)
    if one.seed == block["seeds"][0]:
      drawn = range(min(block.get("num_examples", 4), len(source)))
      rows |= detected.write_examples(folder, one, source, found, names, drawn)
  results = {"space": parts.space.name, "classes": names}
  results |= detected.summarize(
    tested, names, validation=validation, compare=block.get("compare") or ()
  )
  rows |= {f"{one.label()}{_WEIGHTS}": 1 for one in every}
  rows |= runs.count_rows(folder, [one.label() for one in every])
  rows |= result_files.write(folder, results)
  artifacts.finish(folder, spec, rows)
  if processes.is_first():
    print(detected.table(results))


# --- training ---------------------------------------------------------------


def _train_all(
  parts: Parts, starts: dict[str, pretrained.Start], folder: epath.Path
) -> None:
  """Trains a detector from each start with each seed; writes its weights."""
  source, objectives = _open(parts, "train"), {}
  for name, start in starts.items():
    fields = recipes.recipe_of(parts.block, start.init, len(source))
    # One for all that train alike, so that its step is compiled once.
    alike = json.dumps(fields, sort_keys=True)
    if alike not in objectives:
      objectives[alike] = _objective(parts, fields)
    for number, seed in enumerate(parts.block["seeds"]):
      one = Run(name, seed)
      path = folder / f"{one.label()}{_WEIGHTS}"
      if path.exists():
        continue
      weights = None
      if start.files:
        weights, _ = files.load_params(start.files[number % len(start.files)])
      objective = _started(objectives[alike], weights)
      variables = _train(parts, objective, fields, source, one, folder)
      description = {
        "kind": "detector",
        "model": parts.resnet,
        "options": parts.options._asdict(),
        "images": parts.images,
        "space": parts.space.name,
        "classes": [c.name for c in parts.space.classes],
        "training": fields | one._asdict() | {"num_images": len(source)},
      }
      files.save_params(path, meshes.fetch(variables), description)


def _train(
  parts: Parts,
  objective: Any,
  fields: dict,
  source: Any,
  one: Run,
  folder: epath.Path,
) -> dict:
  """Returns the variables after training, their statistics measured anew."""
  block, images = parts.block, parts.images
  iterations = block.get("precise_bn_iterations", 200)
  batches = detection_batches.train_batches(
    source,
    batch_size=fields["batch_size"],
    num_batches=max(fields["num_steps"], iterations),
    seed=one.seed,
    **{n: images[n] for n in ("short_sides", "max_size", "num_buckets")},
    num_workers=block.get("num_workers", 0),
  )
  state = runs.train(
    objective,
    batches,
    runs.Loop(
      log_every=block["log_every"], checkpoint_every=block["checkpoint_every"]
    ),
    folder=folder,
    label=one.label(),
    num_steps=fields["num_steps"],
    batch_size=fields["batch_size"],
    seed=one.seed,
  )
  return detection.precise_bn(
    parts.model, state.variables, batches, iterations, options=parts.options
  )


def _objective(parts: Parts, fields: dict) -> Any:
  return detection.detection(
    parts.model, recipes.make_optimizer(fields), options=parts.options
  )


def _started(objective: Any, weights: Any) -> Any:
  if weights is None:
    return objective
  return detection.start_from(
    objective, partial(faster_rcnn.from_backbone, weights)
  )


# --- measuring --------------------------------------------------------------


def _measure(
  parts: Parts, every: Sequence[Run], source: Any, folder: epath.Path
) -> Iterator[tuple[Run, average_precision.Measured, list]]:
  """Yields each run, its precisions, and what it found in each image."""
  block, images = parts.block, parts.images
  truth = detected.truth_of(source)
  predict = detection.predictor(parts.model, parts.options)
  batches = detection_batches.eval_batches(
    source,
    batch_size=images["eval_batch_size"],
    short_side=images["eval_short_side"],
    max_size=images["max_size"],
    num_buckets=images["eval_num_buckets"],
    num_workers=block.get("num_workers", 0),
  )
  for one in every:
    variables, _ = files.load_params(folder / f"{one.label()}{_WEIGHTS}")
    tell = counter(one.label(), len(source), shown=processes.is_first())
    rows = detected.detect_all(predict, variables, batches, tell=tell)
    found = [
      voc_results.Detections(
        to_original(row["boxes"], row["size"], row["original_size"]),
        row["scores"],
        row["labels"],
      )
      for row in rows.values()
    ]
    measured = average_precision.average_precision(
      found,
      truth,
      len(parts.space.classes),
      interpolation=block["interpolation"],
    )
    yield one, measured, found


# --- reading the config -----------------------------------------------------


def _read(config: ConfigDict) -> Parts:
  """Reads the block and checks its names."""
  block = recipes.read(config.detect.to_dict(), validate)
  images = recipes.images_of(block)
  options = recipes.options_of(block.get("options"), images["short_sides"])
  rule = block.setdefault("interpolation", "11-point")
  if rule not in average_precision.INTERPOLATIONS:
    raise unknown_names(
      "interpolation", [rule], average_precision.INTERPOLATIONS
    )
  space = spaces.load_space(block.get("space") or config.space)
  resnet = block.get("model") or pretrained.model_of(
    config.get("pretrain", ConfigDict()).to_dict(), task="detect"
  )
  model = make_detector(
    num_classes=len(space.classes),
    num_anchors=len(options.sizes) * len(options.ratios),
    **{name: block[name] for name in recipes.MODEL if name in block},
    **resnet,
  )
  return Parts(block, space, resnet, model, options, images)


def _open(parts: Parts, split: str) -> Any:
  return sources.open_detection(
    parts.block[split], parts.space, drop_empty=split == "train"
  )


def _starts(inits: dict, workdir: epath.Path) -> dict[str, pretrained.Start]:
  locate = partial(files.locate, family="resnet")
  return pretrained.starts(inits, workdir / "pretrain", locate)
