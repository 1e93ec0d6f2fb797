"""Trains backbones on generated images, with their labels or without."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.convert import files
from synthjax.data import (
  amounts,
  few_shot,
  generated,
  pipeline,
  real,
  spaces,
  views,
)
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


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the names in them, and that the images are there."""
  arms = read(config)
  space = spaces.load_space(config.space)
  for block in arms.values():
    _check_arm(block, space)
  common = next(iter(arms.values()))
  pools = [(block.get("knn") or {}).get("pool") for block in arms.values()]
  for images in (common.get("validation"), common.get("test"), *pools):
    if images:
      real.check_real(images, space)
  for name in _inputs(common):
    if name not in config.tasks:
      artifacts.load(epath.Path(workdir) / name)


def _check_arm(block: dict, space: spaces.LabelSpace) -> None:
  views.transforms(block["augment"], image_size=32, num_classes=2)
  if (found := _num_classes(block, space)) not in range(
    1, len(space.classes) + 1
  ):
    raise UserError(
      f"config.pretrain.num_classes={found}, but the label space "
      f"{space.name!r} has {len(space.classes)} classes: choose 1 to that."
    )
  model = make_classifier(num_classes=2, **block["model"])
  if _is_moco(block) and not isinstance(model, resnet.ResNet):
    raise UserError(
      f"config.pretrain.objective='moco' trains a ResNet, not a "
      f"{type(model).__name__}: choose one of {', '.join(resnet.MODELS)}."
    )
  objective = _make_objective(block, len(space.classes), num_steps=1000)
  if block.get("init") or _is_moco(block):
    pretraining.trace(block, objective)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves the weights and the metrics of each arm and seed.

  They are `<arm>-s<seed>.safetensors`, "backbone" where there are no arms.
  """
  arms, workdir = read(config), epath.Path(workdir)
  folder, space = workdir / "pretrain", spaces.load_space(config.space)
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
  drawn = generated.open_generated(
    workdir / "generate",
    strategy=common.get("strategy"),
    selection=(
      workdir / "select/selection.jsonl" if common.get("filter") else None
    ),
  )
  rows, counts, trained, accuracies = {}, {}, {}, {}
  for name, block in arms.items():
    source, num_classes = drawn, _num_classes(block, space)
    if block.get("num_classes") or block.get("images_per_class"):
      source = amounts.take(
        drawn,
        num_classes=num_classes,
        images_per_class=block.get("images_per_class"),
      )
    counts[name] = len(source)
    measure = (_by_neighbours if _is_moco(block) else _by_classifier)(
      block, space, source
    )
    for seed, variables in _train(name, block, source, num_classes, folder):
      label = pretraining.label_of(seed, name)
      description = {
        "kind": "backbone" if _is_moco(block) else "classifier",
        "model": block["model"],
        "image_size": block["image_size"],
        "space": space.name,
        "classes": [c.name for c in space.classes[:num_classes]],
        "training": origin | block | {"seed": seed, "num_images": len(source)},
      }
      path = folder / f"{label}.safetensors"
      files.save_params(path, variables, description)
      curve = runs.metrics_file(folder, label)
      rows |= {path.name: 1, curve.name: len(metrics.read_rows(curve))}
      shown = f"{label}, kNN" if _is_moco(block) else label
      if block.get("validation"):
        accuracies[shown] = measure(variables, "validation")
      trained[shown] = path, measure
  summary = {"validation": accuracies}
  if common.get("test"):
    # Nothing is trained for, or chosen by, what is opened here.
    summary["test"] = {
      shown: measure(files.load_params(path)[0], "test")
      for shown, (path, measure) in trained.items()
    }
  num_images = counts if len(arms) > 1 else counts[next(iter(arms))]
  artifacts.finish(folder, spec, rows, num_images=num_images, **summary)
  for split, found in summary.items():
    for label, accuracy in found.items():
      print(f"  {label}: {accuracy:.1%} of the real {split} images")


# --- reading the config -----------------------------------------------------


def read(config: ConfigDict) -> dict[str, dict]:
  """Returns each arm's block, its recipe filled in, and checks the names."""
  known = pretraining.KNOWN
  given = config.pretrain.to_dict()
  validate(given, known, name="pretrain")
  arms = {}
  for name, fields in pretraining.arms_of(given).items():
    where = "pretrain.arms" if given.get("arms") else "pretrain"
    validate(fields, known, name=where)
    block = named_recipe.fill(fields)
    if block.get("device_augment") is not None:
      block.setdefault("augment", "none")
    validate(block, known, name=where, required=pretraining.REQUIRED)
    for part, allowed in (
      ("moco", pretraining.MOCO),
      ("knn", pretraining.KNN),
      ("mix", pretraining.MIX),
    ):
      validate(block.get(part) or {}, allowed, name=f"{where}.{part}")
    arms[name] = block
  return arms


def _is_moco(block: dict) -> bool:
  return pretraining.name_of(block) == "moco"


def _inputs(block: dict) -> tuple[str, ...]:
  return ("generate", "select") if block.get("filter") else ("generate",)


def _num_classes(block: dict, space: spaces.LabelSpace) -> int:
  return block.get("num_classes") or len(space.classes)


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
  name: str, block: dict, source: Any, num_classes: int, folder: epath.Path
) -> Iterator[tuple[int, dict]]:
  """Trains an arm; yields each seed with its classifier or backbone.

  A classifier is the averaged one if an average is asked for.
  """
  num_steps = recipe.count_steps(
    len(source), epochs=block["epochs"], batch_size=block["batch_size"]
  )
  # One for all seeds, so that its step is compiled once.
  objective = _make_objective(block, num_classes, num_steps)
  view = views.transforms(
    block["augment"],
    image_size=pretraining.source_size(block),
    num_classes=num_classes,
  )
  for seed in block["seeds"]:
    batches = pipeline.train_batches(
      source,
      view,
      batch_size=block["batch_size"],
      seed=seed,
      num_workers=block.get("num_workers", 0),
    )
    state = runs.train(
      objective,
      batches,
      folder=folder,
      label=pretraining.label_of(seed, name),
      num_steps=num_steps,
      batch_size=block["batch_size"],
      seed=seed,
      log_every=block["log_every"],
      checkpoint_every=block["checkpoint_every"],
    )
    if isinstance(state, moco.MocoState):
      # As the authors: the encoder of the queries, without its projection.
      yield seed, backbone(jax.device_get(state.query))
    else:
      averaged = state.variables if state.ema is None else state.ema
      yield seed, jax.device_get(averaged)


# --- measuring --------------------------------------------------------------

# Each returns (variables, split) -> top-1 accuracy on real images.


def _by_classifier(block: dict, space: Any, source: Any) -> Any:
  """Measures a classifier by its own logits."""
  del source
  outputs_of = _outputs(block, len(space.classes))

  def measure(variables, split):
    real_images = real.open_real(block[split], space)
    return classify.top1(*outputs_of(variables, real_images))

  return measure


def _by_neighbours(block: dict, space: Any, source: Any) -> Any:
  """Measures features by the labels of a pool's images that are near."""
  options = pretraining.KNN | (block.get("knn") or {})
  given = options["pool"]
  pool = real.open_real(given, space) if given else source
  # The rows are in the order of their classes: of each, an equal share.
  most = min(options["num_images"], len(pool))
  pool = few_shot.subset(pool, np.linspace(0, len(pool) - 1, most).astype(int))
  outputs_of = _outputs(block, None)

  def measure(variables, split):
    real_images = real.open_real(block[split], space)
    features, labels = outputs_of(variables, pool)
    queries, truth = outputs_of(variables, real_images)
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


def _outputs(block: dict, num_classes: int | None) -> Any:
  """Returns (variables, source) -> logits or features [n, k], labels [n]."""
  model = make_classifier(num_classes=num_classes, **block["model"])
  predict = supervised.predictor(model)
  return lambda variables, source: supervised.evaluate_all(
    predict,
    variables,
    views.in_order(source, image_size=block["image_size"]),
  )
