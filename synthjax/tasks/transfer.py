"""Finetunes classifiers on real images, from several initialisations."""

import json
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.convert import files
from synthjax.data import few_shot, pipeline, real, spaces, views
from synthjax.errors import UserError, unknown_names
from synthjax.evals import classify, finetuned
from synthjax.models import positions
from synthjax.models.classifiers import HEADS, make_classifier
from synthjax.train import finetune, metrics, recipe, supervised
from synthjax.train import run as runs

# What a recipe holds; `inits` may give each initialisation its own values.
RECIPE = (
  "epochs",
  "batch_size",
  "optimizer",  # see train.recipe.make_optimizer; lr may list several
  "augment",  # of data.views.VIEWS
  "label_smoothing",
  "num_workers",
  "log_every",
  "checkpoint_every",
)
REQUIRED = (
  "train",  # real images: the pool of the shots; see data.real
  "test",  # opened once, at the end
  "inits",  # name of INITS -> what its recipe has of its own
  "shots",  # of each class, several counts; None takes the whole pool
  "seeds",  # of the shots, the head and the order of the batches
  "image_size",  # px
)
OPTIONAL = (
  "validation",  # chooses between several learning rates
  "space",  # of the real images, if not config.space
  "model",  # if not config.pretrain.model
  "weights",  # of the backbone, if not those of `pretrain`
)
INITS = ("random", "pretrained")
_WEIGHTS = ".safetensors"


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields and names, and that the pool has shots enough."""
  block = config.transfer.to_dict()
  validate(block, (*RECIPE, *OPTIONAL), name="transfer", required=REQUIRED)
  if unknown := block["inits"].keys() - set(INITS):
    raise unknown_names("initialisation", sorted(unknown), INITS)
  space = _space(config)
  make_classifier(num_classes=len(space.classes), **_model(config))
  for init, own in block["inits"].items():
    validate(own, RECIPE, name=f"transfer.inits.{init}")
    fields = _recipe(block, init)
    validate(
      {name: fields[name] for name in RECIPE if name in fields},
      RECIPE,
      name=f"transfer.inits.{init}",
      required=("epochs", "batch_size", "optimizer", "augment"),
    )
    views.transforms(fields["augment"], image_size=32, num_classes=2)
    rates = _rates(fields)
    for lr in rates:
      recipe.make_optimizer(
        num_steps=1000,
        epochs=fields["epochs"],
        **fields["optimizer"] | {"lr": lr},
      )
    if len(rates) > 1 and not block.get("validation"):
      raise UserError(
        f"config.transfer lists {len(rates)} learning rates for {init!r}, but "
        "no `validation` images to choose by. Give some, or one rate: the test "
        "images are not for choosing."
      )
  for name in ("train", "validation"):
    if block.get(name) == block["test"]:
      raise UserError(
        f"config.transfer.{name} and config.transfer.test are the same images, "
        f"{block['test']}: choose another split for one of them."
      )
  real.check_pool(block["train"], space, block["shots"])
  if "pretrained" in block["inits"]:
    if block.get("weights"):
      files.load_params(_locate(block))
    elif "pretrain" not in config.tasks:
      artifacts.load(epath.Path(workdir) / "pretrain")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json` and the weights of every finetuned model."""
  block, workdir = config.transfer.to_dict(), epath.Path(workdir)
  folder, space = workdir / "transfer", _space(config)
  given = "pretrained" in block["inits"]
  backbones, backbone_hash = _backbones(block, workdir) if given else ([], None)
  spec = block | {
    "space": spaces.identify(space),
    "model": _model(config),
    "images": {
      name: real.identify(block[name])
      for name in ("train", "validation", "test")
      if block.get(name)
    },
    "backbones": backbone_hash,
  }
  if artifacts.begin(folder, spec):
    return
  runs_of = {
    (init, shots, lr): [
      finetuned.Run(init, shots, lr, s) for s in block["seeds"]
    ]
    for init in INITS
    if init in block["inits"]
    for shots in block["shots"]
    for lr in _rates(_recipe(block, init))
  }
  for same in runs_of.values():
    _finetune(same, spec, space, backbones, folder)
  every = [run for same in runs_of.values() for run in same]

  model = make_classifier(num_classes=len(space.classes), **spec["model"])
  measure = _measurer(model, block["image_size"], folder)
  validation = {}
  if block.get("validation"):
    validation = measure(every, real.open_real(block["validation"], space))
  chosen = finetuned.choose(runs_of, validation)
  tested = measure(chosen, real.open_real(block["test"], space))
  results = {
    "space": space.name,
    "classes": [c.name for c in space.classes],
    **finetuned.summarize(tested, validation),
  }
  with artifacts.replace(folder, "results.json") as path:
    path.write_text(json.dumps(results, indent=2) + "\n")
  rows = {f"{run.label()}{_WEIGHTS}": 1 for run in every}
  rows |= {
    f"{run.label()}_metrics.jsonl": len(
      metrics.read_rows(runs.metrics_file(folder, run.label()))
    )
    for run in every
  }
  rows["results.json"] = len(results["rows"])
  artifacts.finish(folder, spec, rows)
  if jax.process_index() == 0:
    print(finetuned.table(results))


# --- training and measuring -------------------------------------------------


def _finetune(
  same: list[finetuned.Run],
  spec: dict,
  space: Any,
  backbones: list,
  folder: epath.Path,
) -> None:
  """Trains runs that differ by their seed alone, and writes their weights."""
  init, shots, lr, _ = same[0]
  fields, num_classes = _recipe(spec, init), len(space.classes)
  pool = real.open_real(spec["train"], space)
  labels = few_shot.labels_of(pool)
  draw = lambda seed: few_shot.draw(
    labels, num_classes=num_classes, shots=shots, seed=seed
  )
  num_steps = recipe.count_steps(
    len(draw(same[0].seed)),
    epochs=fields["epochs"],
    batch_size=fields["batch_size"],
  )
  # One for all seeds, so that its step is compiled once.
  scratch = supervised.supervised(
    make_classifier(num_classes=num_classes, **spec["model"]),
    recipe.make_optimizer(
      num_steps=num_steps,
      epochs=fields["epochs"],
      **fields["optimizer"] | {"lr": lr},
    ),
    label_smoothing=fields.get("label_smoothing", 0.0),
    augment=supervised.AUGMENTS["none"],  # the pipeline does it
  )
  for number, run in enumerate(same):
    path = folder / f"{run.label()}{_WEIGHTS}"
    if path.exists():
      continue
    objective = scratch
    if init == "pretrained":
      given = files.load_params(backbones[number % len(backbones)])
      start = positions.fit_positions(*given, image_size=spec["image_size"])
      objective = finetune.start_from(scratch, start, heads=HEADS)
    state = runs.train(
      objective,
      pipeline.train_batches(
        few_shot.subset(pool, draw(run.seed)),
        views.transforms(
          fields["augment"],
          image_size=spec["image_size"],
          num_classes=num_classes,
        ),
        batch_size=fields["batch_size"],
        seed=run.seed,
        num_workers=fields.get("num_workers", 0),
      ),
      folder=folder,
      label=run.label(),
      num_steps=num_steps,
      batch_size=fields["batch_size"],
      seed=run.seed,
      log_every=fields.get("log_every", 50),
      checkpoint_every=fields.get("checkpoint_every", 1000),
    )
    description = {
      "kind": "classifier",
      "model": spec["model"],
      "image_size": spec["image_size"],
      "space": space.name,
      "classes": [c.name for c in space.classes],
      "training": {"num_steps": num_steps} | run._asdict(),
    }
    files.save_params(path, jax.device_get(state.variables), description)


def _measurer(model: Any, image_size: int, folder: epath.Path) -> Any:
  """Returns (runs, source) -> {run: top-1 accuracy on the source}."""
  predict = supervised.predictor(model)

  def accuracy(run, source):
    variables, _ = files.load_params(folder / f"{run.label()}{_WEIGHTS}")
    logits, labels = [], []
    for images, found in views.in_order(source, image_size=image_size):
      logits.append(supervised.evaluate(predict, variables, images))
      labels.append(found)
    return classify.top1(np.concatenate(logits), np.concatenate(labels))

  return lambda every, source: {run: accuracy(run, source) for run in every}


# --- reading the config -----------------------------------------------------


def _space(config: ConfigDict) -> Any:
  return spaces.load_space(config.transfer.get("space") or config.space)


def _model(config: ConfigDict) -> dict:
  pretrained = config.get("pretrain", {}).get("model")
  model = config.transfer.get("model") or pretrained
  if model is None:
    raise UserError(
      "config.transfer needs the field `model`, or the block config.pretrain."
    )
  return model.to_dict()


def _recipe(block: dict, init: str) -> dict:
  """Returns the recipe of an initialisation: the common one and its own."""
  own = block["inits"][init]
  fields = {name: block[name] for name in RECIPE if name in block} | own
  fields["optimizer"] = block.get("optimizer", {}) | own.get("optimizer", {})
  return fields


def _rates(fields: dict) -> tuple[float, ...]:
  lr = fields["optimizer"].get("lr")
  if lr is None:
    raise UserError("config.transfer.optimizer lacks lr, a learning rate.")
  return tuple(lr) if isinstance(lr, tuple | list) else (lr,)


def _locate(block: dict) -> epath.Path:
  return files.locate(
    block["weights"], field="transfer.weights", family="resnet"
  )


def _backbones(block: dict, workdir: epath.Path) -> tuple[list, str]:
  """Returns the files of the backbones, taken in turn, and their hash."""
  if block.get("weights"):
    path = _locate(block)
    return [path], files.sha256(path)
  folder = workdir / "pretrain"
  names = [n for n in artifacts.load(folder)["files"] if n.endswith(_WEIGHTS)]
  return [folder / n for n in names], artifacts.digest(folder)
