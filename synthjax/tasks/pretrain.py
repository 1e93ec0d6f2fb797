"""Trains backbones on generated images, with their labels or without."""

from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import linear_probe
from synthjax.config import check_strategies, validate
from synthjax.data.generated import drawn_images
from synthjax.data.pipeline import host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.rows import subset
from synthjax.data.real import real_images
from synthjax.evals import accuracy as classify
from synthjax.evals import monitor
from synthjax.labels import spaces
from synthjax.models.classifiers import HEADS, backbone, make_classifier
from synthjax.models.resnet import model as resnet
from synthjax.models.vit import model as vit
from synthjax.runtime import artifacts, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.training import (
  finetune,
  metrics,
  moco,
  monitor_fields,
  pretraining,
  pretraining_fields,
  recipes,
  supervised,
)
from synthjax.training import run as runs
from synthjax.training.loop import Objective
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
KNOWN = pretraining_fields.KNOWN
BLOCKS = pretraining_fields.BLOCKS | {"optimizer": recipes.OPTIMIZER}


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the names in them, and that the images are there."""
  arms = pretraining_fields.read(config.pretrain.to_dict(), validate)
  space = spaces.load_space(config.space)
  for block in arms.values():
    _check_arm(block, space)
  for images in pretraining_fields.real_images(arms):
    real_images.check_real(images, space)
  common = next(iter(arms.values()))
  if common.get("strategy"):
    check_strategies(config, [common["strategy"]])
  artifacts.check_complete(workdir, _inputs(common), planned=config.tasks)


def _check_arm(block: dict, space: spaces.LabelSpace) -> None:
  host_augment.transforms(block["augment"], image_size=32, num_classes=2)
  known, found = len(space.classes), _num_classes(block, space)
  if found > known:
    raise UserError(
      f"config.pretrain.num_classes={found}, but the label space "
      f"{space.name!r} has {known} classes: choose 1 to that."
    )
  model = make_classifier(num_classes=2, **block["model"])
  if _is_moco(block) and not isinstance(model, resnet.ResNet):
    raise UserError(
      f"config.pretrain.objective='moco' trains a ResNet, not a "
      f"{type(model).__name__}: choose one of {', '.join(resnet.MODELS)}."
    )
  meshes.make_mesh(block.get("fsdp") or 1)
  recipes.check_optimizer(block["optimizer"], epochs=block["epochs"])
  objective = _make_objective(block, len(space.classes), num_steps=10**9)
  if block.get("init") or _is_moco(block):
    pretraining.trace(block, objective)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves the weights and the metrics of each arm and seed.

  They are `<arm>-s<seed>.safetensors`, "backbone" where there are no arms.
  """
  arms = pretraining_fields.read(config.pretrain.to_dict(), validate)
  workdir, space = epath.Path(workdir), spaces.load_space(config.space)
  folder = workdir / "pretrain"
  # Where the state lies is no part of what is trained: a run may go on with
  # other devices.
  fsdp = {name: block.pop("fsdp", None) or 1 for name, block in arms.items()}
  for block in arms.values():
    if block.get("init"):
      block["init_hash"] = files.sha256(_locate(block))
  common = next(iter(arms.values()))
  origin = {
    "space": spaces.identify(space),
    "inputs": {n: artifacts.digest(workdir / n) for n in _inputs(common)},
  }
  spec = origin | (common if len(arms) == 1 else {"arms": arms})
  if artifacts.begin(folder, spec):
    return
  kept = workdir / "select/selection.jsonl" if common.get("filter") else None
  drawn = drawn_images.open_generated(
    workdir / "generate",
    strategy=common.get("strategy"),
    selection=kept,
    decode=False,  # crops may do with a part of an image
  )
  rows, counts, trained, accuracies = {}, {}, {}, {}
  for name, block in arms.items():
    source, amount = drawn, block.get("images_per_class")
    if amount or block.get("num_classes"):
      source = drawn_images.take(
        drawn,
        num_classes=_num_classes(block, space),
        images_per_class=amount,
      )
    counts[name], measure = len(source), _measure(block, space, source)
    for seed, variables in _train(
      name, block, source, space, folder, fsdp[name]
    ):
      label = pretraining_fields.label_of(seed, name)
      path = folder / f"{label}.safetensors"
      origin["num_images"] = len(source)
      description = pretraining_fields.describe(block, space)
      description["training"] = origin | block | {"seed": seed}
      files.save_params(path, variables, description)
      rows |= {path.name: 1} | runs.count_rows(folder, [label])
      shown = f"{label}, kNN" if _is_moco(block) else label
      if block.get("validation"):
        accuracies[shown] = measure(variables, "validation")
      trained[shown] = path, measure
  summary = {"validation": accuracies}
  if common.get("test"):
    processes.wait_for_all("the weights are written")
    # Nothing is trained for, or chosen by, what is opened here.
    summary["test"] = {
      shown: measure(files.load_params(path)[0], "test")
      for shown, (path, measure) in trained.items()
    }
  num_images = counts if len(arms) > 1 else counts[next(iter(arms))]
  artifacts.finish(folder, spec, rows, num_images=num_images, **summary)
  for split, found in summary.items() if processes.is_first() else ():
    for label, accuracy in found.items():
      print(f"  {label}: {accuracy:.1%} of the real {split} images")


# --- reading the config -----------------------------------------------------


def _is_moco(block: dict) -> bool:
  return pretraining_fields.name_of(block) == "moco"


def _inputs(block: dict) -> tuple[str, ...]:
  return ("generate", "select") if block.get("filter") else ("generate",)


def _num_classes(block: dict, space: spaces.LabelSpace) -> int:
  return block.get("num_classes") or len(space.classes)


def _locate(block: dict) -> epath.Path:
  return files.locate(block["init"], field="pretrain.init", family="resnet")


def _make_objective(block: dict, num_classes: int, num_steps: int) -> Objective:
  """Returns the objective, with its start if one is given."""
  tx = recipes.make_optimizer(
    num_steps=num_steps, epochs=block["epochs"], **block["optimizer"]
  )
  objective = pretraining.make_objective(
    block, make_classifier, num_classes=num_classes, tx=tx
  )
  if not block.get("init"):
    return objective
  variables, description = files.load_params(_locate(block))
  start = vit.fit_positions(
    variables, description, image_size=block["image_size"]
  )
  return finetune.start_from(objective, start, heads=HEADS)


# --- training ---------------------------------------------------------------


def _train(
  name: str,
  block: dict,
  source: Any,
  space: spaces.LabelSpace,
  folder: Any,
  fsdp: int,
) -> Iterator[tuple[int, dict]]:
  """Trains an arm; yields each seed with its classifier or backbone."""
  num_classes = _num_classes(block, space)
  num_steps = recipes.count_steps(
    len(source), epochs=block["epochs"], batch_size=block["batch_size"]
  )
  # One for all seeds, so that its step is compiled once.
  objective = _make_objective(block, num_classes, num_steps)
  view = host_augment.transforms(
    block["augment"],
    image_size=pretraining_fields.source_size(block),
    num_classes=num_classes,
  )
  watch = _monitor(block, space, source)
  for seed in block["seeds"]:
    batches = pipeline.train_batches(
      source,
      view,
      batch_size=block["batch_size"],
      seed=seed,
      num_workers=block.get("num_workers", 0),
      repeats=block.get("repeats") or 1,
    )
    state = runs.train(
      objective,
      batches,
      folder=folder,
      label=pretraining_fields.label_of(seed, name),
      num_steps=num_steps,
      batch_size=block["batch_size"],
      seed=seed,
      log_every=block["log_every"],
      checkpoint_every=block["checkpoint_every"],
      monitor=watch,
      monitor_every=(block.get("monitor") or {}).get("every", 0),
      fsdp=fsdp,
    )
    yield seed, meshes.fetch(_trained(state))


def _trained(state: Any) -> dict:
  """Returns a backbone, or a classifier: the averaged one if asked for."""
  if isinstance(state, moco.MocoState):
    # As the authors: the encoder of the queries, without its projection.
    return backbone(state.query)
  return state.variables if state.ema is None else state.ema


# --- measuring --------------------------------------------------------------


def _measure(block: dict, space: spaces.LabelSpace, source: Any) -> Callable:
  """Returns (variables, split) -> top-1 accuracy on real images.

  A classifier has its own logits. Where there is none, the labels of a pool's
  images that are near vote.
  """
  if _is_moco(block):
    options = pretraining_fields.KNN | (block.get("knn") or {})
    pool = _pool(options.pop("pool"), space, source, options.pop("num_images"))
    probes = {"knn": monitor.knn(len(space.classes), **options)}
  outputs_of = _outputs(block, None if _is_moco(block) else len(space.classes))

  def measure(variables, split):
    held_out = real_images.open_real(block[split], space)
    if not _is_moco(block):
      return classify.top1(*outputs_of(variables, held_out))
    vote = monitor.make_monitor(outputs_of, pool, held_out, probes)
    return vote(variables)["knn"]

  return measure


def _monitor(
  block: dict, space: spaces.LabelSpace, source: Any
) -> metrics.Monitor | None:
  """Returns (state) -> accuracies of probes of the features, if asked for."""
  if not (fields := block.get("monitor")):
    return None
  options, fit = monitor_fields.options_of(fields), linear_probe.classify
  probes = monitor.make_probes(options, len(space.classes), fit=fit)
  most, outputs_of = monitor_fields.num_images(fields), _outputs(block, None)
  return monitor.make_monitor(
    lambda state, images: outputs_of(backbone(_trained(state)), images),
    _pool(fields.get("pool"), space, source, most),
    _pool(block["validation"], space, source, most),
    probes,
  )


def _pool(images: Any, space: spaces.LabelSpace, source: Any, most: int) -> Any:
  """Opens real images, or takes those trained on; of each class some."""
  found = source if images is None else real_images.open_real(images, space)
  return subset(found, monitor.spread(found, most))


def _outputs(block: dict, num_classes: int | None) -> Any:
  """Returns (variables, source) -> logits or features [n, k], labels [n]."""
  model = make_classifier(num_classes=num_classes, **block["model"])
  predict = supervised.predictor(model)
  return lambda variables, source: supervised.evaluate_all(
    predict,
    variables,
    host_augment.in_order(source, image_size=block["image_size"]),
  )
