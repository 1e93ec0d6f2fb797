"""Finetunes classifiers on real images, from several initialisations."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.data.pipeline import few_shot, host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.rows import labels_of, subset
from synthjax.data.real import real_images
from synthjax.evals import accuracy
from synthjax.labels import spaces
from synthjax.models.classifiers import HEADS, make_classifier
from synthjax.models.vit import model as vit
from synthjax.runtime import artifacts, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import gathered, lastly
from synthjax.training import backbones as pretrained
from synthjax.training import finetune, recipes, supervised
from synthjax.training import run as runs
from synthjax.training.loop import Objective
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
FIELDS = finetune.Transfer
_WEIGHTS = ".safetensors"


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields and names, and that the pool has shots enough."""
  trainings = finetune.read(config.transfer.to_dict())
  space = _space(config)
  check_real, name = real_images.check_real, "config.transfer"
  with gathered() as attempt:
    for fields in trainings.values():
      sizes = {"batch_size": fields.batch_size}
      attempt(meshes.check_devices, name, sizes, fsdp=fields.fsdp)
      host_augment.transforms(fields.augment, image_size=32, num_classes=2)
      for lr in fields.rates:
        objective = _objective(fields, _model(config), space, lr, 10**9)
      lastly(fields.trace, objective)  # rates are no shapes: one does for all
    if "pretrained" in trainings:
      if fields.weights:
        attempt(lambda: files.load_params(_locate(fields.weights)))
      elif "pretrain" not in config.tasks:
        attempt(artifacts.load, epath.Path(workdir) / "pretrain")
    for split in ("train", "validation", "test"):
      if images := getattr(fields, split):
        shots = fields.shots if split == "train" else ()
        attempt(check_real, images, space, f"{name}.{split}", shots=shots)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json` and the weights of every finetuned model."""
  block, workdir = config.transfer.to_dict(), epath.Path(workdir)
  folder, space = workdir / "transfer", _space(config)
  trainings = finetune.read(block)
  common = next(iter(trainings.values()))
  backbones, backbone_hash = {}, None
  if "pretrained" in trainings:
    backbones, backbone_hash = _backbones(common.weights, workdir)
  model = _model(config)
  splits = ("train", "validation", "test")
  images = {name: block[name] for name in splits if block.get(name)}
  spec = block | {
    "space": spaces.identify(space),
    "model": model,
    "images": {name: real_images.identify(x) for name, x in images.items()},
    "backbones": backbone_hash,
  }
  spec |= real_images.identify_files(images, space)
  if artifacts.begin(folder, spec):
    return
  runs_of = {
    (start, shots, lr): [
      finetune.Run(start, shots, lr, seed) for seed in fields.seeds
    ]
    for init, fields in trainings.items()
    for start in (backbones if init == "pretrained" else [init])
    for shots in fields.shots
    for lr in fields.rates
  }
  for same in runs_of.values():
    init = "pretrained" if same[0].init in backbones else "random"
    _finetune(same, trainings[init], model, space, backbones, folder)
  processes.wait_for_all("the weights are written")
  every = [run for same in runs_of.values() for run in same]

  classifier = make_classifier(num_classes=len(space.classes), **model)
  measure = _measurer(classifier, common, folder)
  validation = {}
  if common.validation:
    validation = measure(every, real_images.open_real(common.validation, space))
  chosen = finetune.choose(runs_of, validation)
  tested = measure(chosen, real_images.open_real(common.test, space))
  results = {
    "space": space.name,
    "classes": [c.name for c in space.classes],
    **finetune.summarize(tested, validation, compare=common.compare),
  }
  rows = {f"{run.label()}{_WEIGHTS}": 1 for run in every}
  rows |= runs.count_rows(folder, [run.label() for run in every])
  rows |= accuracy.write(folder, results)
  artifacts.finish(folder, spec, rows, learned=_best_first(chosen))
  if processes.is_first():
    print(finetune.table(results))


# --- training and measuring -------------------------------------------------


def _finetune(
  same: list[finetune.Run],
  fields: finetune.Transfer,
  model: dict,
  space: spaces.LabelSpace,
  backbones: dict[str, list],
  folder: epath.Path,
) -> None:
  """Trains runs that differ by their seed alone, and writes their weights."""
  start, shots, lr, _ = same[0]
  num_classes = len(space.classes)
  pool = real_images.open_real(fields.train, space)
  labels = labels_of(pool)
  draw = lambda seed: few_shot.draw(
    labels, num_classes=num_classes, shots=shots, seed=seed
  )
  num_steps = recipes.count_steps(
    len(draw(same[0].seed)),
    epochs=fields.epochs,
    batch_size=fields.batch_size,
  )
  # One for all seeds, so that its step is compiled once.
  scratch = _objective(fields, model, space, lr, num_steps)
  for number, run in enumerate(same):
    path = folder / f"{run.label()}{_WEIGHTS}"
    if path.exists():
      continue
    objective = scratch
    if start in backbones:
      given = backbones[start][number % len(backbones[start])]
      weights = vit.fit_positions(
        *files.load_params(given), image_size=fields.image_size
      )
      objective = finetune.start_from(scratch, weights, heads=HEADS)
    state = runs.train(
      objective,
      pipeline.train_batches(
        subset(pool, draw(run.seed)),
        host_augment.transforms(
          fields.augment,
          image_size=fields.delivered_size,
          num_classes=num_classes,
        ),
        batch_size=fields.batch_size,
        seed=run.seed,
        num_workers=fields.num_workers,
        repeats=fields.repeats,
      ),
      fields,
      folder=folder,
      label=run.label(),
      num_steps=num_steps,
      batch_size=fields.batch_size,
      seed=run.seed,
    )
    description = {
      "kind": "classifier",
      "model": model,
      "image_size": fields.image_size,
      "crop": fields.crop,
      "space": space.name,
      "classes": list(space.class_names),
      "training": {"num_steps": num_steps} | run._asdict(),
    }
    variables = meshes.fetch(objective.weights(state))
    files.save_params(path, variables, description)


def _objective(
  fields: finetune.Transfer,
  model: dict,
  space: spaces.LabelSpace,
  lr: float,
  num_steps: int,
) -> Objective:
  """Returns the training of one learning rate, from a random start."""
  return fields.supervised(
    make_classifier(num_classes=len(space.classes), **model),
    fields.optimizer(lr=lr, num_steps=num_steps, epochs=fields.epochs),
    trained=HEADS if fields.method == "linear" else None,
  )


def _measurer(model: Any, fields: finetune.Transfer, folder: epath.Path) -> Any:
  """Returns (runs, source) -> {run: top-1 accuracy on the source}."""
  predict = supervised.predictor(model)

  def top1(run, source):
    variables, _ = files.load_params(folder / f"{run.label()}{_WEIGHTS}")
    images = host_augment.in_order(
      source, image_size=fields.image_size, crop=fields.crop
    )
    return accuracy.top1(*supervised.evaluate_all(predict, variables, images))

  return lambda every, source: {run: top1(run, source) for run in every}


def _best_first(chosen: list[finetune.Run]) -> list[str]:
  """Returns the labels of the runs to use: pretrained ones of most shots."""
  many = lambda run: float("inf") if run.shots is None else run.shots
  order = sorted(chosen, key=lambda r: (r.init == "random", -many(r)))
  return [run.label() for run in order]


# --- reading the config -----------------------------------------------------


def _space(config: ConfigDict) -> Any:
  return spaces.load_space(config.transfer.get("space") or config.space)


def _model(config: ConfigDict) -> dict:
  """Returns the model of every start."""
  if given := config.transfer.get("model"):
    return given.to_dict()
  pretrain = config.get("pretrain", ConfigDict()).to_dict()
  return pretrained.model_of(pretrain, task="transfer")


def _locate(weights: str) -> epath.Path:
  return files.locate(
    weights, field="transfer.weights", family=("resnet", "vit")
  )


def _backbones(
  weights: str | None, workdir: epath.Path
) -> tuple[dict[str, list[epath.Path]], str]:
  """Returns the files of each start, taken in turn, and the hash of all."""
  if weights:
    path = _locate(weights)
    return {pretrained.ALONE: [path]}, files.sha256(path)
  folder = workdir / "pretrain"
  return pretrained.backbones(folder), artifacts.digest(folder)
