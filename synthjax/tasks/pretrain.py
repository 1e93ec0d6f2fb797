"""Trains backbones on generated images, with their labels or without."""

from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.convert import files
from synthjax.data import few_shot, generated, pipeline, real, spaces, views
from synthjax.errors import UserError
from synthjax.evals import classify, knn
from synthjax.models import positions, resnet
from synthjax.models.classifiers import HEADS, backbone, make_classifier
from synthjax.train import (
  finetune,
  metrics,
  moco,
  named_recipe,
  pretraining,
  recipe,
  supervised,
)
from synthjax.train import run as runs
from synthjax.train.objective import Objective

REQUIRED = (
  "model",  # name, and the sizes that shall differ
  "seeds",  # one training each
  "image_size",  # px
  "augment",  # of data.views.VIEWS; "none" where the device augments
  "epochs",
  "batch_size",
  "optimizer",  # see train.recipe.make_optimizer
  "log_every",
  "checkpoint_every",
)
OPTIONAL = (
  "recipe",  # of train.recipe.RECIPES: what is left out below and above
  "objective",  # of train.pretraining.OBJECTIVES, which have more fields
  "init",  # weights to start from, but for the head: a path or a reference
  "strategy",  # of the prompts; none takes the images of all
  "filter",  # takes only what `select` has kept
  "validation",  # real images that show what was learnt; see data.real
  "test",  # real images, opened once, at the end
  "device_augment",  # of train.augment_device.AUGMENTS
  "source_size",  # px of what the device crops, if not image_size
  "num_workers",
)


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the names in them, and that the images are there."""
  block = read(config)
  space = spaces.load_space(config.space)
  views.transforms(block["augment"], image_size=32, num_classes=2)
  model = make_classifier(num_classes=len(space.classes), **block["model"])
  if _is_moco(block) and not isinstance(model, resnet.ResNet):
    raise UserError(
      f"config.pretrain.objective='moco' trains a ResNet, not a "
      f"{type(model).__name__}: choose one of {', '.join(resnet.MODELS)}."
    )
  objective = _make_objective(block, len(space.classes), num_steps=1000)
  if block.get("init") or _is_moco(block):
    pretraining.trace(block, objective)
  pool = (block.get("knn") or {}).get("pool")
  for images in (block.get("validation"), block.get("test"), pool):
    if images:
      real.check_real(images, space)
  for name in _inputs(block):
    if name not in config.tasks:
      artifacts.load(epath.Path(workdir) / name)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `backbone-s<seed>.safetensors` and its metrics for each seed."""
  block, workdir = read(config), epath.Path(workdir)
  folder, space = workdir / "pretrain", spaces.load_space(config.space)
  spec = {
    "space": spaces.identify(space),
    "inputs": {n: artifacts.digest(workdir / n) for n in _inputs(block)},
    **block,
  }
  if block.get("init"):
    spec["init_hash"] = files.sha256(_locate(block))
  if artifacts.begin(folder, spec):
    return
  source = generated.open_generated(
    workdir / "generate",
    strategy=block.get("strategy"),
    selection=(
      workdir / "select/selection.jsonl" if block.get("filter") else None
    ),
  )
  num_steps = recipe.count_steps(
    len(source), epochs=block["epochs"], batch_size=block["batch_size"]
  )
  # One for all seeds, so that its step is compiled once.
  objective = _make_objective(block, len(space.classes), num_steps)
  measure = (_by_neighbours if _is_moco(block) else _by_classifier)(
    block, space, source
  )
  rows, accuracies, trained = {}, {}, {}
  for seed in block["seeds"]:
    label = label_of(seed)
    variables = _train(
      block,
      objective,
      source,
      num_classes=len(space.classes),
      num_steps=num_steps,
      seed=seed,
      folder=folder,
    )
    description = {
      "kind": "backbone" if _is_moco(block) else "classifier",
      "model": block["model"],
      "image_size": block["image_size"],
      "space": space.name,
      "classes": [c.name for c in space.classes],
      "training": spec | {"seed": seed, "num_images": len(source)},
    }
    path = folder / f"{label}.safetensors"
    files.save_params(path, variables, description)
    curve = runs.metrics_file(folder, label)
    rows |= {path.name: 1, curve.name: len(metrics.read_rows(curve))}
    name = f"{label}, kNN" if _is_moco(block) else label
    if block.get("validation"):
      accuracies[name] = measure(variables, "validation")
    trained[name] = path
  summary = {"validation": accuracies}
  if block.get("test"):
    # Nothing is trained for, or chosen by, what is opened here.
    summary["test"] = {
      name: measure(files.load_params(path)[0], "test")
      for name, path in trained.items()
    }
  artifacts.finish(folder, spec, rows, num_images=len(source), **summary)
  for split, found in summary.items():
    for label, accuracy in found.items():
      print(f"  {label}: {accuracy:.1%} of the real {split} images")


def label_of(seed: int) -> str:
  """Returns what the files of a seed are called."""
  return f"backbone-s{seed}"


# --- reading the config -----------------------------------------------------


def read(config: ConfigDict) -> dict:
  """Returns the block with the fields of its recipe, and checks their names."""
  given = config.pretrain.to_dict()
  known = (*REQUIRED, *OPTIONAL, *pretraining.EVERY)
  validate(given, known, name="pretrain")
  block = named_recipe.fill(given)
  if block.get("device_augment") is not None:
    block.setdefault("augment", "none")
  validate(block, known, name="pretrain", required=REQUIRED)
  for name, fields in (
    ("moco", pretraining.MOCO),
    ("knn", pretraining.KNN),
    ("mix", pretraining.MIX),
  ):
    validate(block.get(name) or {}, fields, name=f"pretrain.{name}")
  return block


def _is_moco(block: dict) -> bool:
  return pretraining.name_of(block) == "moco"


def _inputs(block: dict) -> tuple[str, ...]:
  return ("generate", "select") if block.get("filter") else ("generate",)


def _locate(block: dict) -> epath.Path:
  return files.locate(block["init"], field="pretrain.init", family="resnet")


def _make_objective(block: dict, num_classes: int, num_steps: int) -> Objective:
  """Returns the objective, with its start if one is given."""
  tx = recipe.make_optimizer(
    num_steps=num_steps, epochs=block["epochs"], **block["optimizer"]
  )
  objective = pretraining.make_objective(
    block, make_classifier, num_classes=num_classes, tx=tx
  )
  if not block.get("init"):
    return objective
  variables, description = files.load_params(_locate(block))
  start = positions.fit_positions(
    variables, description, image_size=block["image_size"]
  )
  return finetune.start_from(objective, start, heads=HEADS)


# --- training ---------------------------------------------------------------


def _train(
  block: dict,
  objective: Objective,
  source: Any,
  *,
  num_classes: int,
  num_steps: int,
  seed: int,
  folder: epath.Path,
) -> dict:
  """Trains once; returns a classifier, averaged if asked, or a backbone."""
  batches = pipeline.train_batches(
    source,
    views.transforms(
      block["augment"],
      image_size=pretraining.source_size(block),
      num_classes=num_classes,
    ),
    batch_size=block["batch_size"],
    seed=seed,
    num_workers=block.get("num_workers", 0),
  )
  state = runs.train(
    objective,
    batches,
    folder=folder,
    label=label_of(seed),
    num_steps=num_steps,
    batch_size=block["batch_size"],
    seed=seed,
    log_every=block["log_every"],
    checkpoint_every=block["checkpoint_every"],
  )
  if isinstance(state, moco.MocoState):
    # As the authors: the encoder of the queries, without its projection.
    return backbone(jax.device_get(state.query))
  return jax.device_get(state.variables if state.ema is None else state.ema)


# --- measuring --------------------------------------------------------------

# Each returns (variables, split) -> top-1 accuracy on real images.


def _by_classifier(block: dict, space: Any, source: Any) -> Any:
  """Measures a classifier by its own logits."""
  del source
  model = make_classifier(num_classes=len(space.classes), **block["model"])
  predict = supervised.predictor(model)

  def measure(variables, split):
    real_images = real.open_real(block[split], space)
    return classify.top1(*_outputs(block, predict, variables, real_images))

  return measure


def _by_neighbours(block: dict, space: Any, source: Any) -> Any:
  """Measures features by the labels of a pool's images that are near."""
  options = pretraining.KNN | (block.get("knn") or {})
  given = options["pool"]
  pool = real.open_real(given, space) if given else source
  # The rows are in the order of their classes: of each, an equal share.
  most = min(options["num_images"], len(pool))
  pool = few_shot.subset(pool, np.linspace(0, len(pool) - 1, most).astype(int))
  predict = supervised.predictor(
    make_classifier(num_classes=None, **block["model"])
  )

  def measure(variables, split):
    real_images = real.open_real(block[split], space)
    features, labels = _outputs(block, predict, variables, pool)
    queries, truth = _outputs(block, predict, variables, real_images)
    votes = knn.vote(
      features,
      labels,
      queries,
      num_classes=len(space.classes),
      k=options["k"],
      temperature=options["temperature"],
    )
    return classify.top1(votes, truth)

  return measure


def _outputs(
  block: dict, predict: Any, variables: dict, source: Any
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what `predict` makes of a source, [n, k], and the labels [n]."""
  outputs, labels = [], []
  for images, found in views.in_order(source, image_size=block["image_size"]):
    outputs.append(supervised.evaluate(predict, variables, images))
    labels.append(found)
  return np.concatenate(outputs), np.concatenate(labels)
