"""Tunes CLIP's image encoder with its classifier, or parts of it, from images.

For what stored features cannot show: how much of the encoder to tune (Table 3
of the paper) and what BatchNorm does to it (Table 6). The test images are
opened once, after all training.
"""

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import encoder_tuning, image_tower, linear_head
from synthjax.adapt import encoder_tuning as recipes
from synthjax.adapt.encoder_tuning import Arm
from synthjax.config import check_strategies, read_named, validate
from synthjax.data.generated import drawn_images
from synthjax.data.generated import scores as stored
from synthjax.data.pipeline import few_shot, host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.rows import labels_of, subset
from synthjax.data.real import real_images
from synthjax.encoders import Encoder, check_encoder, load_encoder
from synthjax.evals import accuracy as result_files
from synthjax.evals import arms
from synthjax.labels import spaces
from synthjax.runtime import artifacts, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.training import optimizer
from synthjax.training import recipes as recipe
from synthjax.training import run as runs

PROCESSES = "all"  # they train as one, and the first one writes
KNOWN = recipes.KNOWN
BLOCKS = {"optimizer": optimizer.OPTIMIZER.fields()}


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the arms, and that their images are there or will be."""
  block = config.tune_encoder.to_dict()
  validate(block, KNOWN, name="tune_encoder", required=recipes.REQUIRED)
  wanted = read_arms(block["arms"])
  space = spaces.load_space(config.space)
  check_encoder(**config.encoder.to_dict())
  rungs = encoder_tuning.ladder(_load(config.encoder).variables["params"])
  if unknown := sorted({arm.up_to for arm in wanted} - rungs.keys()):
    raise unknown_names("rung (up_to) of this encoder,", unknown, rungs)
  optimizer.check_optimizer(block["optimizer"], epochs=block["epochs"])
  real_images.check_real(block["test"], space)
  if any(arm.data == "real" for arm in wanted):
    if not block.get("pool") or not block.get("shots"):
      raise UserError("config.tune_encoder needs pool and shots for real arms.")
    real_images.check_pool(block["pool"], space, [block["shots"]])
  if any(arm.data == "synthetic" for arm in wanted) and block.get("strategy"):
    check_strategies(config, [block["strategy"]])
  inputs = _inputs(block, wanted)
  artifacts.check_complete(workdir, inputs, planned=config.tasks)


def read_arms(blocks: Sequence[Mapping[str, Any]]) -> list[Arm]:
  """Reads the arms of a config; see `config.read_named`."""
  return read_named(
    blocks,
    Arm,
    recipes.ARM,
    name="tune_encoder.arms",
    required=recipes.ARM_REQUIRED,
    taken=(arms.ZERO_SHOT,),
  )


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json` and the metrics of every training."""
  block, workdir = config.tune_encoder.to_dict(), epath.Path(workdir)
  folder, space = workdir / "tune_encoder", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  wanted = read_arms(block["arms"])
  spec = {
    "tune_encoder": block,
    "encoder": encoder.identity,
    "real": {
      name: real_images.identify(block[name])
      for name in ("pool", "test")
      if block.get(name)
    },
    "inputs": {
      n: artifacts.digest(workdir / n) for n in _inputs(block, wanted)
    },
    "space": spaces.identify(space),
  }
  if texts := spaces.identify_texts(space):
    spec["texts"] = texts
  if artifacts.begin(folder, spec):
    return
  model = _load(config.encoder, remat=block.get("remat", False))
  head = _zero_shot(encoder, space)
  trained, rows = [], {}
  for arm in wanted:
    tune = _tuner(block, arm, model, head, workdir, space)
    for seed in block["seeds"]:
      state, about = tune(seed)
      trained.append((about, state))
      rows |= runs.count_rows(folder, [_label(arm, seed)])

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  test = real_images.open_real(block["test"], space)
  start = {"encoder": model.variables, "head": head}
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    **arms.compare(
      image_tower.predictor(model),
      start,
      trained,
      {"test": (test, labels_of(test))},
      len(space.classes),
    ),
  }
  rows |= result_files.write(folder, results)
  artifacts.finish(
    folder,
    spec,
    rows,
    test_opened_at=opened_at,
    summary=results["summary"],
  )
  if processes.is_first():
    print(arms.table(results), flush=True)


def _load(block: ConfigDict, *, remat: bool = False) -> image_tower.Tower:
  return image_tower.load(
    block.weights, dtype=block.get("dtype", "float32"), remat=remat
  )


def _zero_shot(encoder: Encoder, space: Any) -> linear_head.Head:
  texts = stored.encode_classes(
    encoder.encode_texts, encoder.logit_scale, space
  )
  return linear_head.init_head(texts.text_features, texts.logit_scale)


def _inputs(block: Mapping[str, Any], wanted: Sequence[Arm]) -> tuple[str, ...]:
  if all(arm.data == "real" for arm in wanted):
    return ()
  return ("generate", "select") if block.get("filter") else ("generate",)


def _label(arm: Arm, seed: int) -> str:
  plain = "".join(c if c.isalnum() else "-" for c in arm.name)
  return f"{plain}-s{seed}"


# --- training ---------------------------------------------------------------


def _tuner(
  block: Mapping[str, Any],
  arm: Arm,
  model: image_tower.Tower,
  head: linear_head.Head,
  workdir: epath.Path,
  space: Any,
) -> Callable[[int], tuple[Any, dict]]:
  """Returns a function that trains an arm with a seed, compiled once.

  It returns what `tower.predictor` takes, and what tells the run apart.
  """
  rungs, tuned = encoder_tuning.ladder(model.variables["params"]), []
  for rung, parts in rungs.items():
    tuned += parts
    if rung == arm.up_to:
      break
  size = len(_source(block, arm, workdir, space, block["seeds"][0]))
  num_steps = recipe.count_steps(
    size, epochs=block["epochs"], batch_size=min(block["batch_size"], size)
  )
  fields = dict(block["optimizer"])
  if arm.lr is not None:
    fields["lr"] = arm.lr
  objective = encoder_tuning.encoder_tuning(
    functools.partial(image_tower.encode, model),
    model.variables,
    head,
    optimizer.make_optimizer(
      num_steps=num_steps, epochs=block["epochs"], **fields
    ),
    tuned=tuned,
    batch_norm=arm.batch_norm,
    soft_weight=0.0 if arm.data == "real" else block.get("soft_weight", 0.5),
    temperature=block.get("temperature", 2.0),
  )
  share = encoder_tuning.share_tuned(
    {"encoder": model.variables["params"], "head": head}, tuned
  )

  def tune(seed):
    source = _source(block, arm, workdir, space, seed)
    state = runs.train(
      objective,
      pipeline.train_batches(
        source,
        [
          functools.partial(image_tower.fit, size=model.image_size),
          functools.partial(
            host_augment.image_and_label, num_classes=len(space.classes)
          ),
        ],
        batch_size=min(block["batch_size"], len(source)),
        seed=seed,
      ),
      folder=workdir / "tune_encoder",
      label=_label(arm, seed),
      num_steps=num_steps,
      batch_size=block["batch_size"],
      seed=seed,
      log_every=block.get("log_every", 20),
      checkpoint_every=block.get("checkpoint_every", 1000),
    )
    variables = {"params": state.params["encoder"]}
    if state.batch_stats:
      variables["batch_stats"] = state.batch_stats
    about = {
      "arm": arm.name,
      "data": arm.data,
      "up_to": arm.up_to,
      "batch_norm": arm.batch_norm,
      "share_tuned": share,
      "seed": seed,
      "num_images": len(source),
    }
    found = {"encoder": variables, "head": state.params["head"]}
    return meshes.fetch(found), about

  return tune


def _source(block, arm, workdir, space, seed) -> Sequence[Any]:
  """Opens the images that an arm learns from."""
  if arm.data == "real":
    pool = real_images.open_real(block["pool"], space)
    rows = few_shot.draw(
      labels_of(pool),
      num_classes=len(space.classes),
      shots=block["shots"],
      seed=seed,
    )
    return subset(pool, rows)
  kept = workdir / "select/selection.jsonl" if block.get("filter") else None
  return drawn_images.open_generated(
    workdir / "generate",
    strategy=block.get("strategy"),
    seed=seed,
    selection=kept,
  )
