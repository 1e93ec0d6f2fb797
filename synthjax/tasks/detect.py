"""Trains detectors on images with boxes, from several initialisations."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.config.schema import (
  Block,
  Count,
  Pairs,
  Rule,
  Seeds,
  Whole,
  one_of,
)
from synthjax.data.pipeline import inspection
from synthjax.detection import (
  average_precision,
  faster_rcnn,
  loader,
  results,
  sources,
)
from synthjax.detection import objective as detection
from synthjax.detection.average_precision import INTERPOLATIONS
from synthjax.detection.faster_rcnn import FasterRCNN, make_detector
from synthjax.detection.recipe import Init, Recipe, Training, plan_training
from synthjax.detection.regions import Options
from synthjax.detection.results import Run
from synthjax.evals import accuracy
from synthjax.labels import spaces
from synthjax.models.classifiers import make_classifier
from synthjax.runtime import artifacts, memory, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, gathered, lastly, unknown_names
from synthjax.runtime.progress import counter
from synthjax.training import backbones
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
_WEIGHTS = ".safetensors"
# Share of a device's memory; weights and what a layer takes need the rest.
_FOR_ACTIVATIONS = 0.75
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detect(runs.HostLoop, Recipe, loader.Images):
  """Fields of config.detect.

  The bases have more: HostLoop in training/run.py (logging, checkpoints,
  workers, fsdp), Recipe in detection/recipe.py (recipe, steps, batch,
  optimizer) and Images in detection/loader.py (sizes). Options is in
  detection/regions.py.
  """

  # Images with boxes.
  train: Annotated[Any, sources.SOURCE]
  test: Annotated[Any, sources.SOURCE]  # opened once, at the end
  validation: Annotated[Any, sources.SOURCE] | None = None  # to choose settings
  space: str | None = None  # of the objects, if not config.space

  # Starts by name, each with the fields that differ from the common ones.
  # "random" has no weights; "pretrained" without any stands for every arm of
  # the task `pretrain`, by its name.
  inits: Annotated[Mapping[str, Init], Rule(len, "one start or more, by name")]
  weights: str | None = None  # of "pretrained", if not those of `pretrain`
  compare: Pairs = ()  # of starts, besides each with "random"
  seeds: Seeds  # of the head and of the order of the batches

  model: Block | None = None  # the ResNet, if not config.pretrain.model
  roi_size: Count = FasterRCNN.roi_size  # side of a pooled region
  sampling: Count | None = None  # per bin and axis; one per cell by default
  options: Options = Options()

  precise_bn_iterations: Count = 200  # batches; see objective.precise_bn
  interpolation: Annotated[str, one_of(INTERPOLATIONS)] = "11-point"
  num_examples: Whole = 4  # test images that the report shows with detections

  def splits(self) -> dict[str, Any]:
    """Returns the sources of images by split."""
    sources_of = {split: getattr(self, split) for split in _SPLITS}
    return {k: v for k, v in sources_of.items() if v is not None}

  def images(self) -> dict[str, Any]:
    """Returns the fields of `loader.Images`."""
    names = [field.name for field in dataclasses.fields(loader.Images)]
    return {name: getattr(self, name) for name in names}

  def problems(self) -> Iterator[str]:
    """Yields contradictions between fields."""
    yield from loader.Images.problems(self)
    for name, init in self.inits.items():
      if name == backbones.RANDOM and init.weights:
        yield f"inits.{name} has weights: give it another name"
      if name not in (backbones.RANDOM, backbones.ALONE) and not init.weights:
        yield (
          f"inits.{name} has no weights: give it some, or call it "
          f"{backbones.RANDOM!r}, or {backbones.ALONE!r}, which has those of "
          "`pretrain`"
        )
    if len({*map(artifacts.file_stem, self.inits)}) < len(self.inits):
      yield f"two of inits would share files: {', '.join(self.inits)}"
    pairs = itertools.combinations(self.splits().items(), 2)
    for (one, a), (other, b) in pairs:
      if (a.func, a.keywords) == (b.func, b.keywords):
        yield (
          f"{one} and {other} are the same images, {a.keywords}: choose others "
          "for one of them"
        )
    if min(self.options.sizes) > (side := min(self.short_sides)):
      yield (
        f"options.sizes={self.options.sizes}, the sides of the anchors, are "
        f"all longer than the images' shorter side of {side} px"
      )


FIELDS = Detect


class Setup(NamedTuple):
  """The config, read and checked."""

  block: dict  # as given, with `weights` in `inits`; for the specification
  fields: Detect
  space: spaces.LabelSpace
  resnet: dict  # fields of the model
  model: Any  # the detector


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields, names, images and boxes, and that the weights fit."""
  setup = _read(config)
  fields, num_images = setup.fields, {}
  with gathered() as attempt:
    for split in fields.splits():
      num_images[split] = attempt(_check_images, setup, split)
    weights_of = _weights_of(setup, config, epath.Path(workdir))
  names = [name for pair in fields.compare for name in pair]
  if unknown := [name for name in names if name not in weights_of]:
    raise unknown_names("start to compare,", unknown, weights_of)
  batch_sizes = {"eval_batch_size": fields.eval_batch_size}
  for name in fields.inits:
    init = setup.block["inits"][name] or {}
    num_train = num_images["train"]
    training = plan_training(setup.block, init, num_train, name=name)
    batch_sizes["batch_size"] = training.batch_size
    meshes.check_devices("config.detect", batch_sizes, fsdp=fields.fsdp)
    objective = _objective(setup, training)
    lastly(
      detection.trace,
      [
        _start_from(objective, weights)
        for start, weights in weights_of.values()
        if start == name
      ],
      batch_size=training.batch_size,
      side=fields.eval_short_side,
    )


def _check_images(setup: Setup, split: str) -> int:
  """Checks images and boxes, and returns how many images there are."""
  source = _open(setup, split)
  inspection.inspect(source)
  if split != "train" and not any(
    (~truth.difficult).any() for truth in results.truth_of(source)
  ):
    raise UserError(
      f"config.detect.{split} has {len(source)} images, but no object that is "
      "not difficult: there is nothing to measure by. Choose another split, or "
      "annotate its images."
    )
  return len(source)


def _weights_of(
  setup: Setup, config: ConfigDict, workdir: epath.Path
) -> dict[str, tuple[str, Any]]:
  """Returns the key of `inits` and the weights of each start.

  Backbones that this run will train are zeros.
  """
  inits, planned = setup.block["inits"], {}
  alone = inits.get(backbones.ALONE, {"weights": "none"})
  if "pretrain" in config.tasks and not alone.get("weights"):
    inits = {k: v for k, v in inits.items() if k != backbones.ALONE}
    zeros = backbones.zeros_of(config.pretrain.to_dict(), make_classifier)
    planned = {arm: (backbones.ALONE, tree) for arm, tree in zeros.items()}
  return planned | {
    name: (start.init, _load(start.files[0]) if start.files else None)
    for name, start in _starts(inits, workdir).items()
  }


def run(config: ConfigDict, workdir: str) -> None:
  """Writes results, detections and the weights of every detector.

  The files are `results.json`, `<start>-s<seed>.safetensors`, VOC's text files
  in `detections/<start>-s<seed>`, and a few test images in `examples`.
  """
  setup, workdir = _read(config), epath.Path(workdir)
  fields, space, folder = setup.fields, setup.space, workdir / "detect"
  starts = _starts(setup.block["inits"], workdir)
  spec = setup.block | {
    "space": spaces.identify(space),
    "interpolation": fields.interpolation,
    "model": setup.resnet,
    "options": fields.options._asdict(),
    "images": fields.images()
    | {n: sources.identify(setup.block[n]) for n in fields.splits()},
    "backbones": {
      name: [files.sha256(path) for path in start.files]
      for name, start in starts.items()
    },
  }
  spec |= inspection.identify(
    {
      split: _open(setup, split)
      for split in fields.splits()
      if setup.block[split].get("kind") != "scenes"
    }
  )
  if artifacts.begin(folder, spec):
    return
  _train_all(setup, starts, folder)
  processes.wait_for_all("the weights are written")
  all_runs = [Run(name, seed) for name in starts for seed in fields.seeds]
  validation, tested, rows = {}, {}, {}
  if fields.validation:
    source = _open(setup, "validation")
    for this_run, measured, _ in _measure(setup, all_runs, source, folder):
      validation[this_run] = measured
  # The test comes last, when nothing is left to train or to choose.
  source, names = _open(setup, "test"), space.class_names
  # As VOC's own files name them.
  keys = space.keys
  for this_run, measured, detections in _measure(
    setup, all_runs, source, folder
  ):
    tested[this_run] = measured
    rows |= results.write_detections(folder, this_run, source, detections, keys)
    if this_run.seed == fields.seeds[0]:
      indices = range(min(fields.num_examples, len(source)))
      rows |= results.write_examples(
        folder, this_run, source, detections, names, indices
      )
  summary = {"space": space.name, "classes": names} | results.summarize(
    tested, names, validation=validation, compare=fields.compare
  )
  rows |= {f"{this_run.label()}{_WEIGHTS}": 1 for this_run in all_runs}
  rows |= runs.count_rows(folder, [this_run.label() for this_run in all_runs])
  rows |= accuracy.write(folder, summary)
  listed = sorted(all_runs, key=lambda each: each.init == backbones.RANDOM)
  labels = [this_run.label() for this_run in listed]
  artifacts.finish(folder, spec, rows, learned=labels)
  if processes.is_first():
    print(results.table(summary))


# --- training ---------------------------------------------------------------


def _train_all(
  setup: Setup, starts: dict[str, backbones.Start], folder: epath.Path
) -> None:
  """Trains a detector from each start with each seed; writes its weights."""
  fields, source, objectives = setup.fields, _open(setup, "train"), {}
  for name, start in starts.items():
    init = setup.block["inits"][start.init] or {}
    training = plan_training(setup.block, init, len(source), name=start.init)
    # Starts that train alike share an objective, whose step is compiled once.
    key = json.dumps(training._asdict(), sort_keys=True)
    if key not in objectives:
      objectives[key] = _objective(setup, training)
    for number, seed in enumerate(fields.seeds):
      this_run = Run(name, seed)
      path = folder / f"{this_run.label()}{_WEIGHTS}"
      if path.exists():
        continue
      weights = None
      if start.files:
        weights = _load(start.files[number % len(start.files)])
      objective = _start_from(objectives[key], weights)
      variables = _train(setup, objective, training, source, this_run, folder)
      description = {
        "kind": "detector",
        "model": setup.resnet,
        "options": fields.options._asdict(),
        "images": fields.images(),
        "roi_size": fields.roi_size,
        "sampling": fields.sampling,
        "space": setup.space.name,
        "classes": setup.space.class_names,
        "training": training._asdict()
        | this_run._asdict()
        | {"num_images": len(source)},
      }
      files.save_params(path, meshes.fetch(variables), description)


def _train(
  setup: Setup,
  objective: Any,
  training: Training,
  source: Any,
  this_run: Run,
  folder: epath.Path,
) -> dict:
  """Returns the variables after training, with statistics measured anew."""
  fields = setup.fields
  batches = loader.train_batches(
    source,
    fields,
    batch_size=training.batch_size,
    num_batches=max(training.num_steps, fields.precise_bn_iterations),
    seed=this_run.seed,
    num_workers=fields.num_workers,
  )
  state = runs.train(
    objective,
    batches,
    fields,
    folder=folder,
    label=this_run.label(),
    num_steps=training.num_steps,
    batch_size=training.batch_size,
    seed=this_run.seed,
  )
  return detection.precise_bn(
    setup.model,
    meshes.fetch(state.variables),
    batches,
    fields.precise_bn_iterations,
    options=fields.options,
  )


def _objective(setup: Setup, training: Training) -> Any:
  """Returns the objective; it keeps activations where they surely fit.

  The model's field `remat` decides if it is given.
  """
  fields, model = setup.fields, setup.model
  room = memory.limit()
  if room is not None and "remat" not in setup.resnet:
    needed = detection.kept_bytes(
      model,
      batch_size=-(-training.batch_size // meshes.make_mesh().size),
      height=max(fields.short_sides),
      width=fields.max_size,
      options=fields.options,
    )
    model = model.clone(remat=needed > _FOR_ACTIVATIONS * room)
    logging.info(
      "A step keeps up to %.1f GiB for its gradients, and a device has %.1f: "
      "blocks are %scomputed again.",
      *(needed / memory.GIB, room / memory.GIB, "" if model.remat else "not "),
    )
  return detection.detection(
    model, training.make_optimizer(), options=fields.options
  )


def _start_from(objective: Any, weights: Any) -> Any:
  """Returns the objective, started from a backbone's weights if given."""
  if weights is None:
    return objective
  return detection.start_from(
    objective, partial(faster_rcnn.from_backbone, weights)
  )


# --- measuring --------------------------------------------------------------


def _measure(
  setup: Setup, all_runs: Sequence[Run], source: Any, folder: epath.Path
) -> Iterator[tuple[Run, average_precision.Measured, list]]:
  """Yields each run, its precisions, and the detections in each image."""
  fields, truth = setup.fields, results.truth_of(source)
  predict = detection.predictor(setup.model, fields.options)
  batches = loader.eval_batches(source, fields, num_workers=fields.num_workers)
  for this_run in all_runs:
    detections = results.detect_all(
      predict,
      _load(folder / f"{this_run.label()}{_WEIGHTS}"),
      batches,
      count=counter(this_run.label(), len(source), shown=processes.is_first()),
    )
    measured = average_precision.average_precision(
      detections,
      truth,
      len(setup.space.classes),
      interpolation=fields.interpolation,
    )
    yield this_run, measured, detections


# --- reading ----------------------------------------------------------------


def _read(config: ConfigDict) -> Setup:
  """Reads the block and builds the detector."""
  fields = schema.read(Detect, config.detect, "config.detect")
  block = config.detect.to_dict()
  if backbones.ALONE in fields.inits and fields.weights:
    weights, alone = (
      {"weights": fields.weights},
      block["inits"][backbones.ALONE],
    )
    block["inits"] = block["inits"] | {backbones.ALONE: weights | alone}
  space = spaces.load_space(fields.space or config.space)
  resnet = block.get("model") or backbones.model_of(
    config.get("pretrain", ConfigDict()).to_dict(), task="detect"
  )
  model = make_detector(
    num_classes=len(space.classes),
    num_anchors=len(fields.options.sizes) * len(fields.options.ratios),
    sampling=fields.sampling or 0,
    roi_size=fields.roi_size,
    **resnet,
  )
  return Setup(block, fields, space, resnet, model)


def _open(setup: Setup, split: str) -> Any:
  return setup.fields.splits()[split](setup.space, drop_empty=split == "train")


def _load(path: epath.PathLike) -> dict:
  return files.load_params(path)[0]


def _starts(inits: dict, workdir: epath.Path) -> dict[str, backbones.Start]:
  locate = partial(files.locate, family="resnet")
  return backbones.starts(inits, workdir / "pretrain", locate)
