"""Trains image classifiers from scratch on generated images."""

from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.convert import files
from synthjax.data import generated, pipeline, real, spaces, views
from synthjax.evals import classify
from synthjax.models.classifiers import make_classifier
from synthjax.train import metrics, recipe, supervised
from synthjax.train import run as runs
from synthjax.train.objective import Objective

REQUIRED = (
  "model",  # name, and the sizes that shall differ
  "seeds",  # one training each
  "image_size",  # px
  "augment",  # of data.views.VIEWS
  "epochs",
  "batch_size",
  "optimizer",  # see train.recipe.make_optimizer
  "log_every",
  "checkpoint_every",
)
OPTIONAL = (
  "strategy",  # of the prompts; none takes the images of all
  "filter",  # takes only what `select` has kept
  "validation",  # real images that show what was learnt; see data.real
  "test",  # real images, opened once, at the end
  "label_smoothing",
  "ema_decay",
  "num_workers",
)


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the names in them, and that the images are there."""
  block = config.pretrain.to_dict()
  validate(block, OPTIONAL, name="pretrain", required=REQUIRED)
  space = spaces.load_space(config.space)
  make_classifier(num_classes=len(space.classes), **block["model"])
  views.transforms(block["augment"], image_size=32, num_classes=2)
  recipe.make_optimizer(
    num_steps=1000, epochs=block["epochs"], **block["optimizer"]
  )
  for split in ("validation", "test"):
    if block.get(split):
      real.check_real(block[split], space)
  for name in _inputs(block):
    if name not in config.tasks:
      artifacts.load(epath.Path(workdir) / name)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `backbone-s<seed>.safetensors` and its metrics for each seed."""
  block, workdir = config.pretrain.to_dict(), epath.Path(workdir)
  folder, space = workdir / "pretrain", spaces.load_space(config.space)
  spec = {
    "space": spaces.identify(space),
    "inputs": {n: artifacts.digest(workdir / n) for n in _inputs(block)},
    **block,
  }
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
  objective = _objective(block, len(space.classes), num_steps)
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
      "kind": "classifier",
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
    if block.get("validation"):
      accuracies[label] = _accuracy(block, "validation", space, variables)
    trained[label] = path
  summary = {"validation": accuracies}
  if block.get("test"):
    # Nothing is trained for, or chosen by, what is opened here.
    summary["test"] = {
      label: _accuracy(block, "test", space, files.load_params(path)[0])
      for label, path in trained.items()
    }
  artifacts.finish(folder, spec, rows, num_images=len(source), **summary)
  for split, found in summary.items():
    for label, accuracy in found.items():
      print(f"  {label}: {accuracy:.1%} of the real {split} images")


def label_of(seed: int) -> str:
  """Returns what the files of a seed are called."""
  return f"backbone-s{seed}"


def _inputs(block: dict) -> tuple[str, ...]:
  return ("generate", "select") if block.get("filter") else ("generate",)


def _objective(block: dict, num_classes: int, num_steps: int) -> Objective:
  return supervised.supervised(
    make_classifier(num_classes=num_classes, **block["model"]),
    recipe.make_optimizer(
      num_steps=num_steps, epochs=block["epochs"], **block["optimizer"]
    ),
    label_smoothing=block.get("label_smoothing", 0.0),
    ema_decay=block.get("ema_decay"),
    augment=supervised.AUGMENTS["none"],  # the pipeline does it
  )


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
  """Trains one classifier and returns its variables, averaged if asked."""
  batches = pipeline.train_batches(
    source,
    views.transforms(
      block["augment"], image_size=block["image_size"], num_classes=num_classes
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
  return jax.device_get(state.variables if state.ema is None else state.ema)


def _accuracy(block: dict, split: str, space: Any, variables: dict) -> float:
  """Returns the top-1 accuracy on real images, "validation" or "test"."""
  model = make_classifier(num_classes=len(space.classes), **block["model"])
  predict, logits, labels = supervised.predictor(model), [], []
  source = real.open_real(block[split], space)
  for images, found in views.in_order(source, image_size=block["image_size"]):
    logits.append(supervised.evaluate(predict, variables, images))
    labels.append(found)
  return classify.top1(np.concatenate(logits), np.concatenate(labels))
