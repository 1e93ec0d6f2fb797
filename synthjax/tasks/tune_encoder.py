"""Tunes CLIP's image encoder with its classifier, or parts of it, from images.

For what stored features cannot show: how much of the encoder to tune (Table 3
of the paper) and what BatchNorm does to it (Table 6). The test images are
opened once, after all training.
"""

import datetime
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import classifier, encoder_tuning, feature_sets
from synthjax.adapt.encoder_tuning import Arm, TuneEncoder
from synthjax.adapt.linear_head import Head
from synthjax.config import schema
from synthjax.config.arguments import check_strategies
from synthjax.data.generated import drawn_images
from synthjax.data.pipeline import few_shot, host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.rows import labels_of, subset
from synthjax.data.real import real_images
from synthjax.encoders import check_texts, load_encoder
from synthjax.evals import accuracy, arms
from synthjax.labels import spaces
from synthjax.runtime import artifacts, processes
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import gathered, lastly, unknown_names
from synthjax.training import loop, recipes
from synthjax.training import run as runs

PROCESSES = "all"  # they train as one, and the first one writes
FIELDS = TuneEncoder


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, the arms, and that their images are there or will be."""
  fields = schema.read(TuneEncoder, config.tune_encoder, "config.tune_encoder")
  name, inputs = "config.tune_encoder", _inputs(fields)
  with gathered() as attempt:
    attempt(_check_rungs, config, fields)
    # This checks the options.
    attempt(fields.optimizer, num_steps=10**9, epochs=fields.epochs)
    if _learns_from(fields, "synthetic") and fields.strategy:
      attempt(check_strategies, config, [fields.strategy])
    attempt(artifacts.check_complete, workdir, inputs, planned=config.tasks)
    space = spaces.load_space(config.space)
    check = real_images.check_real
    attempt(check, fields.test, space, f"{name}.test")
    if _learns_from(fields, "real"):
      shots = [fields.num_shots]
      attempt(check, fields.pool, space, f"{name}.pool", shots=shots)


def _check_rungs(config: ConfigDict, fields: TuneEncoder) -> None:
  """Checks the encoder, and that it has what the arms tune."""
  check_texts(config.space, config.encoder.to_dict())
  tower = _load(config.encoder, remat=fields.remat)
  rungs = encoder_tuning.ladder(tower.variables["params"])
  if unknown := sorted({arm.up_to for arm in fields.arms} - rungs.keys()):
    raise unknown_names("rung (up_to) of this encoder,", unknown, rungs)
  space = spaces.load_space(config.space)
  for arm in {arm.batch_norm: arm for arm in fields.arms}.values():
    lastly(_trace, fields, arm, tower, len(space.classes))


def _trace(
  fields: TuneEncoder, arm: Arm, tower: encoder_tuning.Tower, num_classes: int
) -> None:
  """Traces a step, so that what a device refuses shows before images do."""
  n, size = arm.batch_size or fields.batch_size, tower.image_size
  images = jax.ShapeDtypeStruct((n, size, size, 3), np.uint8)
  labels = jax.ShapeDtypeStruct((n,), np.int32)
  encode = functools.partial(encoder_tuning.encode, tower, train=False)
  features, _ = jax.eval_shape(encode, tower.variables, images)
  head = Head(
    np.zeros((num_classes, features.shape[-1]), np.float32),
    np.zeros(num_classes, np.float32),
  )
  objective, _ = _objective(fields, arm, tower, head, num_steps=10**9)
  loop.trace(objective, {"image": images, "label": labels})


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`, and of every training its weights and metrics."""
  fields = schema.read(TuneEncoder, config.tune_encoder, "config.tune_encoder")
  block, workdir = config.tune_encoder.to_dict(), epath.Path(workdir)
  folder, space = workdir / "tune_encoder", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  splits = {name: block[name] for name in ("pool", "test") if block.get(name)}
  spec = {
    "tune_encoder": block,
    "encoder": encoder.identity,
    "real": {name: real_images.identify(x) for name, x in splits.items()},
    "inputs": {
      name: artifacts.digest(workdir / name) for name in _inputs(fields)
    },
    "space": spaces.identify(space),
  } | real_images.identify_files(splits, space)
  if texts := spaces.identify_texts(space):
    spec["texts"] = texts
  if artifacts.begin(folder, spec):
    return
  model = _load(config.encoder, remat=fields.remat)
  head = feature_sets.zero_shot_head(encoder, space)
  trained, rows = [], {}
  for arm in fields.arms:
    tune = _tuner(fields, arm, model, head, workdir, space)
    for seed in fields.seeds:
      state, about = tune(seed)
      trained.append((about, state))
      label = _label(arm, seed)
      path = folder / f"{label}.safetensors"
      classifier.save_tuned(
        path, model, state["encoder"], state["head"], space.class_names
      )
      rows |= {path.name: 1} | runs.count_rows(folder, [label])

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  test = real_images.open_real(fields.test, space)
  start = {"encoder": model.variables, "head": head}
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    **arms.compare(
      encoder_tuning.predictor(model),
      start,
      trained,
      {"test": (test, labels_of(test))},
      len(space.classes),
    ),
  }
  rows |= accuracy.write(folder, results)
  artifacts.finish(
    folder,
    spec,
    rows,
    test_opened_at=opened_at,
    summary=results["summary"],
    learned=[_label(arm, fields.seeds[0]) for arm in fields.arms],
  )
  if processes.is_first():
    print(arms.table(results), flush=True)


def _load(block: ConfigDict, *, remat: bool = False) -> encoder_tuning.Tower:
  return encoder_tuning.load_tower(
    block.weights, dtype=block.get("dtype", "float32"), remat=remat
  )


def _learns_from(fields: TuneEncoder, data: str) -> bool:
  return any(arm.data == data for arm in fields.arms)


def _inputs(fields: TuneEncoder) -> tuple[str, ...]:
  if not _learns_from(fields, "synthetic"):
    return ()
  return ("generate", "select") if fields.filter else ("generate",)


def _label(arm: Arm, seed: int) -> str:
  plain = "".join(c if c.isalnum() else "-" for c in arm.name)
  return f"{plain}-s{seed}"


# --- training ---------------------------------------------------------------


def _tuner(
  fields: TuneEncoder,
  arm: Arm,
  model: encoder_tuning.Tower,
  head: Head,
  workdir: epath.Path,
  space: Any,
) -> Callable[[int], tuple[Any, dict]]:
  """Returns a function that trains an arm with a seed, compiled once.

  It returns what `encoder_tuning.predictor` takes, and the run's entries of the
  results.
  """
  size = len(_source(fields, arm, workdir, space, fields.seeds[0]))
  batch_size = min(arm.batch_size or fields.batch_size, size)
  num_steps = recipes.count_steps(
    size, epochs=fields.epochs, batch_size=batch_size
  )
  objective, share = _objective(fields, arm, model, head, num_steps)

  def tune(seed):
    source = _source(fields, arm, workdir, space, seed)
    state = runs.train(
      objective,
      pipeline.train_batches(
        source,
        [
          functools.partial(
            encoder_tuning.fit,
            size=model.image_size,
            fit_image=model.family.fit_image,
          ),
          functools.partial(
            host_augment.image_and_label, num_classes=len(space.classes)
          ),
        ],
        batch_size=batch_size,
        seed=seed,
        num_workers=fields.num_workers,
      ),
      fields,
      folder=workdir / "tune_encoder",
      label=_label(arm, seed),
      num_steps=num_steps,
      batch_size=batch_size,
      seed=seed,
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
    tuned_model = {"encoder": variables, "head": state.params["head"]}
    return meshes.fetch(tuned_model), about

  return tune


def _objective(
  fields: TuneEncoder,
  arm: Arm,
  model: encoder_tuning.Tower,
  head: Head,
  num_steps: int,
) -> tuple[loop.Objective, float]:
  """Returns an arm's training, and the share of parameters that it tunes."""
  params = model.variables["params"]
  tuned = encoder_tuning.parts_up_to(params, arm.up_to)
  rate = {} if arm.lr is None else {"lr": arm.lr}
  objective = encoder_tuning.encoder_tuning(
    model,
    head,
    fields.optimizer(num_steps=num_steps, epochs=fields.epochs, **rate),
    tuned=tuned,
    batch_norm=arm.batch_norm,
    soft_weight=0.0 if arm.data == "real" else fields.soft_weight,
    temperature=fields.temperature,
  )
  whole = {"encoder": params, "head": head}
  return objective, encoder_tuning.share_tuned(whole, tuned)


def _source(
  fields: TuneEncoder, arm: Arm, workdir: epath.Path, space: Any, seed: int
) -> Sequence[Any]:
  """Opens the images that an arm learns from."""
  if arm.data == "real":
    pool = real_images.open_real(fields.pool, space)
    rows = few_shot.draw(
      labels_of(pool),
      num_classes=len(space.classes),
      shots=fields.num_shots,
      seed=seed,
    )
    return subset(pool, rows)
  return drawn_images.open_run(
    workdir, kept=fields.filter, strategy=fields.strategy, seed=seed
  )
