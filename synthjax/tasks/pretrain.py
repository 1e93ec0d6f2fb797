"""Trains backbones on generated images, with their labels or without."""

from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import linear_probe
from synthjax.config.arguments import check_strategies
from synthjax.data.generated import drawn_images
from synthjax.data.pipeline import host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.rows import subset
from synthjax.data.real import real_images
from synthjax.evals import accuracy
from synthjax.labels import spaces
from synthjax.models.classifiers import HEADS, backbone, make_classifier
from synthjax.models.vit import model as vit
from synthjax.runtime import artifacts, processes, specifications
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, gathered, lastly
from synthjax.training import (
  finetune,
  metrics,
  monitor,
  pretraining,
  recipes,
  supervised,
)
from synthjax.training import run as runs
from synthjax.training.loop import Objective
from synthjax.training.pretraining import Pretraining
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
FIELDS = pretraining.fields()


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the names in them, and that the images are there."""
  arms = pretraining.read(pretraining.blocks_of(config.pretrain.to_dict()))
  space = spaces.load_space(config.space)
  common = next(iter(arms.values()))
  inputs, check_real = _inputs(common), real_images.check_real
  with gathered() as attempt:
    for fields in arms.values():
      attempt(_check_arm, fields, space)
    if common.strategy:
      attempt(check_strategies, config, [common.strategy])
    attempt(artifacts.check_complete, workdir, inputs, planned=config.tasks)
    for name, images in pretraining.real_images(arms.values()):
      attempt(check_real, images, space, f"config.pretrain.{name}")


def _check_arm(fields: Pretraining, space: spaces.LabelSpace) -> None:
  host_augment.transforms(fields.augment, image_size=32, num_classes=2)
  if (fields.num_classes or 1) > len(space.classes):
    raise UserError(
      f"config.pretrain.num_classes={fields.num_classes}, but the label space "
      f"{space.name!r} has {len(space.classes)} classes: choose 1 to that."
    )
  meshes.check_devices(
    "config.pretrain", {"batch_size": fields.batch_size}, fsdp=fields.fsdp
  )
  lastly(
    fields.trace, _make_objective(fields, len(space.classes), num_steps=10**9)
  )


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves the weights and the metrics of each arm and seed.

  They are `<arm>-s<seed>.safetensors`, "backbone" where there are no arms.
  """
  blocks = pretraining.blocks_of(config.pretrain.to_dict())
  arms = pretraining.read(blocks)
  workdir, space = epath.Path(workdir), spaces.load_space(config.space)
  folder, common = workdir / "pretrain", next(iter(arms.values()))
  for name, fields in arms.items():
    if fields.init:
      blocks[name]["init_hash"] = files.sha256(_locate(fields))
  origin = {
    "space": spaces.identify(space),
    "inputs": {
      name: artifacts.digest(workdir / name, repairable=True)
      for name in _inputs(common)
    },
  }
  one = next(iter(blocks.values()))
  spec = origin | (one if len(arms) == 1 else {"arms": blocks})
  images: dict[str, Any] = {}  # two arms may have other ones of one name
  for name, block in pretraining.real_images(arms.values()):
    images[f"{name} {len(images)}" if name in images else name] = block
  spec |= real_images.identify_files(images, space)
  if artifacts.begin(folder, spec):
    return
  drawn = drawn_images.open_run(
    workdir,
    kept=common.filter,
    strategy=common.strategy,
    decode=False,  # crops may do with a part of an image
  )
  rows, counts, trained, validation = {}, {}, {}, {}
  for name, fields in arms.items():
    source = drawn
    if fields.images_per_class or fields.num_classes:
      source = drawn_images.take(
        drawn,
        num_classes=_num_classes(fields, space),
        images_per_class=fields.images_per_class,
      )
    counts[name] = len(source)
    objective = _make_objective(
      fields, _num_classes(fields, space), _num_steps(fields, source)
    )
    measure = _measure(fields, objective, space, source)
    about = _describe(fields, objective, space)
    for seed, variables in _train(
      name, fields, objective, source, space, folder
    ):
      label = pretraining.label_of(seed, name)
      path = folder / f"{label}.safetensors"
      training = origin | {"num_images": len(source)} | blocks[name]
      training = specifications.of_the_result(training | {"seed": seed})
      files.save_params(path, variables, about | {"training": training})
      rows |= {path.name: 1} | runs.count_rows(folder, [label])
      shown = label if objective.has_classifier else f"{label}, kNN"
      if fields.validation:
        validation[shown] = measure(variables, fields.validation)
      trained[shown] = path, measure
  summary = {"validation": validation}
  if common.test:
    processes.wait_for_all("the weights are written")
    # Nothing is trained for, or chosen by, what is opened here.
    summary["test"] = {
      shown: measure(files.load_params(path)[0], common.test)
      for shown, (path, measure) in trained.items()
    }
  num_images = counts if len(arms) > 1 else next(iter(counts.values()))
  labels = [path.stem for path, _ in trained.values()]
  summary |= {"num_images": num_images, "learned": labels}
  artifacts.finish(folder, spec, rows, **summary)
  for split in ("validation", "test") if processes.is_first() else ():
    for label, top1 in summary.get(split, {}).items():
      print(f"  {label}: {top1:.1%} of the real {split} images")


# --- reading the config -----------------------------------------------------


def _inputs(fields: Pretraining) -> tuple[str, ...]:
  return ("generate", "select") if fields.filter else ("generate",)


def _num_classes(fields: Pretraining, space: spaces.LabelSpace) -> int:
  return fields.num_classes or len(space.classes)


def _num_steps(fields: Pretraining, source: Any) -> int:
  return recipes.count_steps(
    len(source), epochs=fields.epochs, batch_size=fields.batch_size
  )


def _locate(fields: Pretraining) -> epath.Path:
  return files.locate(fields.init, field="pretrain.init", family="resnet")


def _make_objective(
  fields: Pretraining, num_classes: int, num_steps: int
) -> Objective:
  """Returns the objective, with its start if one is given."""
  objective = fields.make_objective(
    make_classifier,
    num_classes=num_classes,
    tx=fields.optimizer(num_steps=num_steps, epochs=fields.epochs),
  )
  if not fields.init:
    return objective
  start = vit.fit_positions(
    *files.load_params(_locate(fields)), image_size=fields.image_size
  )
  return finetune.start_from(objective, start, heads=HEADS)


def _describe(
  fields: Pretraining, objective: Objective, space: spaces.LabelSpace
) -> dict[str, Any]:
  """Returns what is written beside the weights of an arm."""
  return {
    "kind": "classifier" if objective.has_classifier else "backbone",
    "model": fields.model,
    "image_size": fields.image_size,
    "space": space.name,
    "classes": [c.name for c in space.classes[: fields.num_classes]],
  }


# --- training ---------------------------------------------------------------


def _train(
  name: str,
  fields: Pretraining,
  objective: Objective,
  source: Any,
  space: spaces.LabelSpace,
  folder: epath.Path,
) -> Iterator[tuple[int, dict]]:
  """Trains an arm; yields each seed with its classifier or backbone.

  All seeds share the objective, so that its step is compiled once.
  """
  view = host_augment.transforms(
    fields.augment,
    image_size=fields.delivered_size,
    num_classes=_num_classes(fields, space),
  )
  watch = _monitor(fields, objective, space, source)
  prompts = source.prompts() if fields.per_prompt else None
  for seed in fields.seeds:
    batches = pipeline.train_batches(
      source,
      view,
      batch_size=fields.batch_size,
      seed=seed,
      num_workers=fields.num_workers,
      repeats=fields.per_prompt or fields.repeats,
      groups=prompts,
    )
    state = runs.train(
      objective,
      batches,
      fields,
      folder=folder,
      label=pretraining.label_of(seed, name),
      num_steps=_num_steps(fields, source),
      batch_size=fields.batch_size,
      seed=seed,
      monitor=watch,
      monitor_every=fields.monitor.every if fields.monitor else 0,
    )
    yield seed, meshes.fetch(_weights(objective, state))


def _weights(objective: Objective, state: Any) -> dict:
  """Returns a classifier, or where there is none a backbone."""
  variables = objective.weights(state)
  return variables if objective.has_classifier else backbone(variables)


# --- measuring --------------------------------------------------------------


def _measure(
  fields: Pretraining,
  objective: Objective,
  space: spaces.LabelSpace,
  source: Any,
) -> Callable[[Any, Any], float]:
  """Returns (variables, block) -> top-1 accuracy on real images.

  A classifier has its own logits. Where there is none, the labels of near
  images of a pool vote.
  """
  num_classes = len(space.classes)
  if objective.has_classifier:
    logits_of = _outputs(fields, num_classes)
    return lambda variables, block: accuracy.top1(
      *logits_of(variables, real_images.open_real(block, space))
    )
  knn, features_of = fields.knn, _outputs(fields, None)
  pool = _pool(knn.pool, space, source, knn.num_images)

  def measure(variables, block):
    held_out = real_images.open_real(block, space)
    probes = {"knn": knn.classify(num_classes)}
    vote = monitor.make_monitor(features_of, pool, held_out, probes)
    return vote(variables)["knn"]

  return measure


def _monitor(
  fields: Pretraining,
  objective: Objective,
  space: spaces.LabelSpace,
  source: Any,
) -> metrics.Monitor | None:
  """Returns (state) -> accuracies of probes of the features, if asked for."""
  if not (probed := fields.monitor):
    return None
  features_of = _outputs(fields, None)
  return monitor.make_monitor(
    lambda state, images: features_of(
      backbone(objective.weights(state)), images
    ),
    _pool(probed.pool, space, source, probed.num_images),
    _pool(fields.validation, space, source, probed.num_images),
    probed.probes(len(space.classes), fit=linear_probe.classify),
  )


def _pool(images: Any, space: spaces.LabelSpace, source: Any, most: int) -> Any:
  """Opens real images, or takes those trained on; of each class some."""
  if images is not None:
    source = real_images.open_real(images, space)
  return subset(source, monitor.spread(source, most))


def _outputs(fields: Pretraining, num_classes: int | None) -> Any:
  """Returns (variables, source) -> logits or features [n, k], labels [n]."""
  model = make_classifier(num_classes=num_classes, **fields.model)
  predict = supervised.predictor(model)
  return lambda variables, source: supervised.evaluate_all(
    predict,
    variables,
    host_augment.in_order(source, image_size=fields.image_size),
  )
