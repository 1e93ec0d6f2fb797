"""Finetunes classifiers on real images, from several initialisations."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.data.pipeline import few_shot, host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.rows import labels_of, subset
from synthjax.data.real import real_images
from synthjax.evals import accuracy as classify
from synthjax.evals import accuracy as result_files
from synthjax.evals import finetuned
from synthjax.labels import spaces
from synthjax.models.classifiers import HEADS, make_classifier
from synthjax.models.vit import model as vit
from synthjax.runtime import artifacts, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import (
  BLOCK,
  UserError,
  check_values,
  unknown_names,
)
from synthjax.training import backbones as pretrained
from synthjax.training import (
  finetune,
  pretraining,
  pretraining_fields,
  recipes,
  supervised,
)
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
KNOWN = finetune.KNOWN
BLOCKS = {"optimizer": finetune.OPTIMIZER, "mix": pretraining_fields.MIX}
# "pretrained" stands for every arm of `pretrain`, by its name.
INITS = {"random": BLOCK, "pretrained": BLOCK}
_WEIGHTS = ".safetensors"


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields and names, and that the pool has shots enough."""
  block = config.transfer.to_dict()
  validate(block, KNOWN, name="transfer", required=finetune.TASK)
  if unknown := block["inits"].keys() - set(INITS):
    raise unknown_names("initialisation", sorted(unknown), INITS)
  check_values("config.transfer.inits", block["inits"], INITS)
  space = _space(config)
  make_classifier(num_classes=len(space.classes), **_model(config))
  for init in block["inits"]:
    _check_recipe(block, init)
  for name in ("train", "validation"):
    if block.get(name) == block["test"]:
      raise UserError(
        f"config.transfer.{name} and config.transfer.test are the same images, "
        f"{block['test']}: choose another split for one of them."
      )
  real_images.check_pool(block["train"], space, block["shots"])
  for each in real_images.splits_of(block).values():
    real_images.check_real(each, space)
  if "pretrained" in block["inits"]:
    if block.get("weights"):
      files.load_params(_locate(block))
    elif "pretrain" not in config.tasks:
      artifacts.load(epath.Path(workdir) / "pretrain")


def _check_recipe(block: dict, init: str) -> None:
  name = f"transfer.inits.{init}"
  validate(block["inits"][init], finetune.RECIPE, name=name)
  fields = finetune.recipe_of(block, init)
  if missing := [n for n in finetune.REQUIRED if n not in fields]:
    raise UserError(
      f"config.{name} lacks {', '.join(missing)}, and so does config.transfer."
    )
  host_augment.transforms(fields["augment"], image_size=32, num_classes=2)
  validate(fields.get("mix") or {}, pretraining_fields.MIX, name=f"{name}.mix")
  if problems := pretraining_fields.contradictions(fields):
    raise UserError(f"config.{name} contradicts itself: {'; '.join(problems)}.")
  rates = finetune.rates_of(fields)
  for lr in rates:
    recipes.check_optimizer(
      fields["optimizer"] | {"lr": lr}, epochs=fields["epochs"]
    )
  if len(rates) > 1 and not block.get("validation"):
    raise UserError(
      f"config.transfer lists {len(rates)} learning rates for {init!r}, but "
      "no `validation` images to choose by. Give some, or one rate: the test "
      "images are not for choosing."
    )


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json` and the weights of every finetuned model."""
  block, workdir = config.transfer.to_dict(), epath.Path(workdir)
  fsdp = block.pop("fsdp", None) or 1  # not of what is trained
  folder, space = workdir / "transfer", _space(config)
  given = "pretrained" in block["inits"]
  backbones, backbone_hash = _backbones(block, workdir) if given else ({}, None)
  spec = block | {
    "space": spaces.identify(space),
    "model": _model(config),
    "images": {
      name: real_images.identify(block[name])
      for name in ("train", "validation", "test")
      if block.get(name)
    },
    "backbones": backbone_hash,
  }
  if artifacts.begin(folder, spec):
    return
  runs_of = {
    (start, shots, lr): [
      finetuned.Run(start, shots, lr, s) for s in block["seeds"]
    ]
    for init in INITS
    if init in block["inits"]
    for start in (backbones if init == "pretrained" else [init])
    for shots in block["shots"]
    for lr in finetune.rates_of(finetune.recipe_of(block, init))
  }
  for same in runs_of.values():
    _finetune(same, spec, space, backbones, folder, fsdp)
  processes.wait_for_all("the weights are written")
  every = [run for same in runs_of.values() for run in same]

  model = make_classifier(num_classes=len(space.classes), **spec["model"])
  measure = _measurer(model, block["image_size"], folder)
  validation = {}
  if block.get("validation"):
    validation = measure(
      every, real_images.open_real(block["validation"], space)
    )
  chosen = finetuned.choose(runs_of, validation)
  tested = measure(chosen, real_images.open_real(block["test"], space))
  results = {
    "space": space.name,
    "classes": [c.name for c in space.classes],
    **finetuned.summarize(
      tested, validation, compare=block.get("compare") or ()
    ),
  }
  rows = {f"{run.label()}{_WEIGHTS}": 1 for run in every}
  rows |= runs.count_rows(folder, [run.label() for run in every])
  rows |= result_files.write(folder, results)
  artifacts.finish(folder, spec, rows)
  if processes.is_first():
    print(finetuned.table(results))


# --- training and measuring -------------------------------------------------


def _finetune(
  same: list[finetuned.Run],
  spec: dict,
  space: Any,
  backbones: dict[str, list],
  folder: epath.Path,
  fsdp: int,
) -> None:
  """Trains runs that differ by their seed alone, and writes their weights."""
  start, shots, lr, _ = same[0]
  init = "pretrained" if start in backbones else "random"
  fields, num_classes = finetune.recipe_of(spec, init), len(space.classes)
  pool = real_images.open_real(spec["train"], space)
  labels = labels_of(pool)
  draw = lambda seed: few_shot.draw(
    labels, num_classes=num_classes, shots=shots, seed=seed
  )
  num_steps = recipes.count_steps(
    len(draw(same[0].seed)),
    epochs=fields["epochs"],
    batch_size=fields["batch_size"],
  )
  # One for all seeds, so that its step is compiled once.
  tx = recipes.make_optimizer(
    num_steps=num_steps,
    epochs=fields["epochs"],
    **fields["optimizer"] | {"lr": lr},
  )
  scratch = pretraining.supervised(
    fields | {"model": spec["model"]},
    make_classifier,
    num_classes,
    tx,
    trained=HEADS if fields.get("method") == "linear" else None,
  )
  for number, run in enumerate(same):
    path = folder / f"{run.label()}{_WEIGHTS}"
    if path.exists():
      continue
    objective = scratch
    if start in backbones:
      given = backbones[start][number % len(backbones[start])]
      weights = vit.fit_positions(
        *files.load_params(given), image_size=spec["image_size"]
      )
      objective = finetune.start_from(scratch, weights, heads=HEADS)
    state = runs.train(
      objective,
      pipeline.train_batches(
        subset(pool, draw(run.seed)),
        host_augment.transforms(
          fields["augment"],
          image_size=pretraining_fields.source_size(fields),
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
      fsdp=fsdp,
    )
    description = {
      "kind": "classifier",
      "model": spec["model"],
      "image_size": spec["image_size"],
      "space": space.name,
      "classes": [c.name for c in space.classes],
      "training": {"num_steps": num_steps} | run._asdict(),
    }
    files.save_params(path, meshes.fetch(state.variables), description)


def _measurer(model: Any, image_size: int, folder: epath.Path) -> Any:
  """Returns (runs, source) -> {run: top-1 accuracy on the source}."""
  predict = supervised.predictor(model)

  def accuracy(run, source):
    variables, _ = files.load_params(folder / f"{run.label()}{_WEIGHTS}")
    images = host_augment.in_order(source, image_size=image_size)
    return classify.top1(*supervised.evaluate_all(predict, variables, images))

  return lambda every, source: {run: accuracy(run, source) for run in every}


# --- reading the config -----------------------------------------------------


def _space(config: ConfigDict) -> Any:
  return spaces.load_space(config.transfer.get("space") or config.space)


def _model(config: ConfigDict) -> dict:
  """Returns the model of every start."""
  if given := config.transfer.get("model"):
    return given.to_dict()
  pretrain = config.get("pretrain", ConfigDict()).to_dict()
  return pretrained.model_of(pretrain, task="transfer")


def _locate(block: dict) -> epath.Path:
  return files.locate(
    block["weights"], field="transfer.weights", family="resnet"
  )


def _backbones(block: dict, workdir: epath.Path) -> tuple[dict, str]:
  """Returns the files of each start, taken in turn, and the hash of all."""
  if block.get("weights"):
    path = _locate(block)
    return {pretrained.ALONE: [path]}, files.sha256(path)
  folder = workdir / "pretrain"
  return pretrained.backbones(folder), artifacts.digest(folder)
