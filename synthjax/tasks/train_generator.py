"""Trains a small GLIDE, base and upsampler, on captioned drawings."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.config.schema import (
  Arguments,
  BelowOne,
  Count,
  NotNegative,
  Positive,
  Rule,
  Share,
)
from synthjax.diffusion import schedule
from synthjax.embedded import captions, world
from synthjax.models.glide.model import Glide
from synthjax.models.pixels import to_unit
from synthjax.runtime import artifacts
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, gathered
from synthjax.tokenizers import bpe
from synthjax.training import denoising, drawings, loop, optimizer, resident
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
STAGES = ("base", "upsampler")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(resident.Loop):
  """A network of the cascade, and its training."""

  data: captions.Captioned
  image_size: Count  # px
  low_res: Count | None = None  # px of the image to enlarge; none for the base
  betas: Annotated[str, schema.one_of(schedule.BETAS)]
  model: Annotated[
    Any, Arguments(Glide, filled=("vocab_size", "out_channels", "dtype"))
  ]
  low_res_noise: NotNegative = 0.0  # see `denoising.denoising`
  drop_prompt: Share = 0.2
  max_weight: Positive = 1.0  # of noisy steps; see `denoising.denoising`
  ema_decay: BelowOne = 0.999
  optimizer: Annotated[Any, optimizer.OPTIMIZER]

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    for field in ("image_size", "low_res"):
      if (side := getattr(self, field)) and world.SIZE % side:
        yield f"{field}={side} does not divide the {world.SIZE} px of a drawing"
    try:
      self.optimizer(num_steps=self.num_steps)
    except UserError as error:
      yield str(error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainGenerator:
  """config.train_generator."""

  stages: Annotated[
    tuple[Annotated[str, schema.one_of(STAGES)], ...],
    Rule(len, f"one stage or more, as {STAGES}"),
  ]
  base: Stage | None = None
  upsampler: Stage | None = None
  fsdp: Count | None = None  # of all stages; see `runs.Loop`

  def problems(self) -> Iterable[str]:
    for stage in self.stages:
      if getattr(self, stage) is None:
        yield f"stages={self.stages} names {stage}, but its block is missing"

  def stage(self, name: str) -> Stage:
    """Returns the fields of a stage, with those of all."""
    stage = getattr(self, name)
    return dataclasses.replace(stage, fsdp=self.fsdp or stage.fsdp)


FIELDS = TrainGenerator


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields, and traces a step of each stage."""
  del workdir
  fields = schema.read(
    TrainGenerator, config.train_generator, "config.train_generator"
  )
  with gathered() as attempt:
    for name in fields.stages:
      stage, where = fields.stage(name), f"config.train_generator.{name}"
      sizes = {"batch_size": stage.batch_size}
      attempt(meshes.check_devices, where, sizes, fsdp=stage.fsdp)
  for name in fields.stages:
    objective, dataset = make_training(
      getattr(fields, name), config.seed, most=1
    )
    loop.trace(objective, dataset.example())


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `<stage>.safetensors` and `<stage>_metrics.jsonl` of each stage."""
  fields = schema.read(
    TrainGenerator, config.train_generator, "config.train_generator"
  )
  block = config.train_generator.to_dict()
  block.pop("fsdp", None)  # it changes nothing of the result
  folder = epath.Path(workdir) / "train_generator"
  about = {"seed": config.seed, "images": captions.digest()}
  spec = about | block
  if artifacts.begin(folder, spec):
    return
  for name in fields.stages:
    stage = fields.stage(name)
    weights = _train(name, stage, config.seed, folder)
    description = {
      "kind": "glide",
      "stage": name,
      "image_size": stage.image_size,
      "low_res": stage.low_res,
      "betas": stage.betas,
      "model": block[name]["model"]
      | {"vocab_size": make_model(stage).vocab_size},
      "training": block[name] | about,
    }
    files.save_params(
      folder / f"{name}.safetensors", weights, description, dtype="float16"
    )
  rows = {f"{name}.safetensors": 1 for name in fields.stages}
  artifacts.finish(folder, spec, rows | runs.count_rows(folder, fields.stages))


def _train(name: str, stage: Stage, seed: int, folder: epath.Path) -> Any:
  """Trains one network; returns its averaged weights, on the host."""
  objective, dataset = make_training(stage, seed)
  state = runs.train(
    objective,
    dataset,
    stage,
    folder=folder,
    label=name,
    num_steps=stage.num_steps,
    batch_size=stage.batch_size,
    seed=seed,
  )
  return meshes.fetch(state.ema)


def make_training(
  stage: Stage, seed: int, most: int | None = None
) -> tuple[loop.Objective, resident.Resident]:
  """Returns what `runs.train` takes for a stage: its objective and drawings.

  Args:
    stage: of the cascade.
    seed: of the captions.
    most: drawings; None is all.
  """

  model = make_model(stage)

  def encode(texts):
    tokens, mask = bpe.load().glide_tokens(texts, model.text_context)
    return {"tokens": tokens, "mask": mask}

  def draw(arrays, rng):
    batch = drawings.draw(
      arrays,
      rng,
      batch_size=stage.batch_size,
      view=sharp_view if stage.low_res else view,
    )
    batch["image"] = drawings.shrink(batch["image"], stage.image_size)
    if stage.low_res:
      batch["low_res"] = drawings.shrink(batch["image"], stage.low_res)
    return batch

  objective = resident.resident(
    make_objective(stage),
    draw,
    steps_per_call=stage.steps_here,
    fsdp=stage.fsdp,
  )
  arrays = drawings.load(stage.data, encode, seed=seed, most=most)
  return objective, resident.Resident(arrays, stage.fsdp)


def make_model(stage: Stage) -> Glide:
  """Returns the network of a stage, for the embedded tokenizer."""
  return stage.model(vocab_size=bpe.load().glide_vocab_size)


def make_objective(stage: Stage) -> loop.Objective:
  """Returns a stage's objective, of batches of images and tokens."""
  model = make_model(stage)
  return denoising.denoising(
    partial(_apply, model),
    partial(_init, model),
    stage.optimizer(num_steps=stage.num_steps),
    betas=schedule.BETAS[stage.betas](),
    pad_token=model.vocab_size - 1,
    drop_prompt=stage.drop_prompt,
    max_weight=stage.max_weight,
    ema_decay=stage.ema_decay,
    low_res_noise=stage.low_res_noise,
  )


def view(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Moves and mirrors a drawing of which the base learns."""
  moves, flips = jax.random.split(rng)
  return drawings.flip(drawings.jiggle(image, moves), flips)


def sharp_view(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Does so by whole pixels: an upsampler draws edges as sharp as it saw."""
  moves, flips = jax.random.split(rng)
  return drawings.flip(drawings.shift(image, moves), flips)


def _init(model: Glide, rng: jax.Array, batch: dict) -> Any:
  first = jax.tree.map(lambda x: x[:1], batch)
  low_res = first.get("low_res")
  return model.init(
    rng,
    to_unit(first["image"]),
    jnp.zeros(1),
    first["tokens"],
    first["mask"],
    None if low_res is None else to_unit(low_res),
  )["params"]


def _apply(model, params, x, t, tokens, mask, low_res, rng):
  return model.apply(
    {"params": params},
    x,
    t,
    tokens,
    mask,
    low_res,
    train=True,
    rngs={"dropout": rng},
  )
