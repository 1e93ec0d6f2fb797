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

from synthjax.adapt import classifier, encoder_tuning, feature_sets, lora
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
from synthjax.training.lora import WithFrozen

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
    sizes = _batch_sizes(fields, len(space.classes))
    attempt(meshes.check_devices, name, sizes, fsdp=fields.fsdp)
    check = real_images.check_real
    attempt(check, fields.test, space, f"{name}.test")
    if _learns_from(fields, "real"):
      shots = [fields.num_shots]
      attempt(check, fields.pool, space, f"{name}.pool", shots=shots)


def _batch_sizes(fields: TuneEncoder, num_classes: int) -> dict[str, int]:
  """Returns the batches of the arms, by what makes them so large."""
  found = {}
  for arm in fields.arms:
    batch_size = arm.batch_size or fields.batch_size
    few = (fields.num_shots or 0) * num_classes
    if arm.data != "synthetic" and 0 < few < batch_size:
      found[f"arms: real images of {arm.name!r}"] = few
    else:
      found["arms.batch_size" if arm.batch_size else "batch_size"] = batch_size
  return found


def _check_rungs(config: ConfigDict, fields: TuneEncoder) -> None:
  """Checks the encoder, and that it has what the arms tune."""
  check_texts(config.space, config.encoder.to_dict())
  tower = _load(config.encoder, remat=fields.remat)
  rungs = encoder_tuning.ladder(tower.variables["params"])
  parts = [arm for arm in fields.arms if not arm.lora]
  if unknown := sorted({arm.up_to for arm in parts} - rungs.keys()):
    raise unknown_names("rung (up_to) of this encoder,", unknown, rungs)
  space = spaces.load_space(config.space)
  for arm in {arm.batch_norm: arm for arm in parts}.values():
    lastly(_trace, fields, arm, tower, len(space.classes))
  for arm in fields.arms:
    if arm.lora:
      lastly(_trace_lora, config, fields, arm, space)


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


def _trace_lora(
  config: ConfigDict, fields: TuneEncoder, arm: Arm, space: Any
) -> None:
  """Does so for updates of both towers."""
  towers = _load_towers(config.encoder, fields, arm, space)
  seeds, size = _groups(fields, arm)[0], towers.module.image_size
  objective, _ = _lora_objective(fields, arm, towers)
  sets = 1 + (arm.data == "mix")
  shape = (arm.batch_size or fields.batch_size, len(seeds), sets)
  images = jax.ShapeDtypeStruct((*shape, size, size, 3), np.uint8)
  labels = jax.ShapeDtypeStruct(shape, np.int32)
  rows = {"image": images, "label": labels}
  batch = {"rows": rows, "frozen": towers.variables}
  loop.trace(objective, batch, lora.keys_of(seeds))


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
      name: artifacts.digest(workdir / name, repairable=True)
      for name in _inputs(fields)
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
    if arm.lora:
      towers = _load_towers(config.encoder, fields, arm, space)
      tune = _lora_tuner(fields, arm, towers, workdir, space)
    else:
      tune = _tuner(fields, arm, model, head, workdir, space)
    for seed in fields.seeds:
      state, about = tune(seed)
      trained.append((about, state))
      label = _label(arm, seed)
      path = folder / f"{label}.safetensors"
      classifier.save_tuned(
        path, model, state["encoder"], state["head"], space.class_names
      )
      rows |= {path.name: 1}
    labels = [_label(arm, *seeds) for seeds in _groups(fields, arm)]
    rows |= runs.count_rows(folder, labels)

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
  return any(arm.data in (data, "mix") for arm in fields.arms)


def _inputs(fields: TuneEncoder) -> tuple[str, ...]:
  if not _learns_from(fields, "synthetic"):
    return ()
  return ("generate", "select") if fields.filter else ("generate",)


def _label(arm: Arm, *seeds: int) -> str:
  plain = "".join(c if c.isalnum() else "-" for c in arm.name)
  return f"{plain}-s{'-'.join(map(str, seeds))}"


def _groups(fields: TuneEncoder, arm: Arm) -> list[tuple[int, ...]]:
  """Returns the seeds that are trained together."""
  if arm.lora and arm.lora.together:
    return [fields.seeds]
  return [(seed,) for seed in fields.seeds]


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


def _lora_tuner(
  fields: TuneEncoder,
  arm: Arm,
  towers: lora.Towers,
  workdir: epath.Path,
  space: Any,
) -> Callable[[int], tuple[Any, dict]]:
  """Does what `_tuner` does for low-rank updates, of several seeds at once."""
  kinds = ("real", "synthetic") if arm.data == "mix" else (arm.data,)
  open_source = functools.cache(
    lambda kind, seed: _source(fields, arm, workdir, space, seed, kind)
  )
  sizes = [len(open_source(kind, fields.seeds[0])) for kind in kinds]
  batch_size = min(arm.batch_size or fields.batch_size, *sizes)
  num_steps = arm.lora.steps_per_shot * fields.num_shots
  transforms = host_augment.transforms(
    arm.lora.augmentation,
    image_size=towers.module.image_size,
    num_classes=len(space.classes),
  )

  objective, share = _lora_objective(fields, arm, towers, num_steps)
  place = meshes.shard(meshes.make_mesh(fields.fsdp), towers.variables)
  frozen = jax.device_put(towers.variables, place)

  @functools.cache
  def train(seeds):
    batches = lambda kind, seed: pipeline.train_batches(
      open_source(kind, seed),
      transforms,
      batch_size=batch_size,
      seed=seed,
      num_workers=fields.num_workers,
    )
    dataset = pipeline.beside(
      [
        pipeline.beside([batches(kind, seed) for kind in kinds])
        for seed in seeds
      ]
    )
    state = runs.train(
      objective,
      WithFrozen(dataset, frozen),
      fields,
      folder=workdir / "tune_encoder",
      label=_label(arm, *seeds),
      num_steps=num_steps,
      batch_size=batch_size,
      seed=seeds[0],
      rngs=lora.keys_of(seeds),
      held=frozen,
    )
    return meshes.fetch(state.params)

  def tune(seed):
    (seeds,) = (group for group in _groups(fields, arm) if seed in group)
    updates = jax.tree.map(lambda x: x[seeds.index(seed)], train(seeds))
    about = {
      "arm": arm.name,
      "data": arm.data,
      "up_to": "lora",
      "batch_norm": "frozen",
      "share_tuned": share,
      "seed": seed,
      "num_images": sum(len(open_source(kind, seed)) for kind in kinds),
    }
    return lora.merged(towers, updates, arm.lora.scale), about

  return tune


def _lora_objective(
  fields: TuneEncoder,
  arm: Arm,
  towers: lora.Towers,
  num_steps: int = 10**9,
) -> tuple[loop.Objective, float]:
  """Returns the training of updates, and their share of all parameters."""
  rate = {} if arm.lr is None else {"lr": arm.lr}
  share = arm.lora.real_weight
  objective = lora.lora_tuning(
    towers,
    fields.optimizer(num_steps=num_steps, **rate),
    arm.lora,
    weights=(share, 1 - share) if arm.data == "mix" else (1.0,),
  )
  return objective, lora.share_tuned(towers, arm.lora.rank)


def _load_towers(
  block: ConfigDict, fields: TuneEncoder, arm: Arm, space: Any
) -> lora.Towers:
  return lora.load_towers(
    block.weights,
    [space.sentence(arm.lora.template, each) for each in space.classes],
    tokenizer=block.get("tokenizer"),
    dtype=block.get("dtype", "float32"),
    remat=fields.remat,
  )


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
  fields: TuneEncoder,
  arm: Arm,
  workdir: epath.Path,
  space: Any,
  seed: int,
  data: str | None = None,
) -> Sequence[Any]:
  """Opens the images that an arm learns from, of a kind if it has several."""
  if (data or arm.data) == "real":
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
