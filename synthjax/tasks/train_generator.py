"""Trains a small GLIDE, base and upsampler, on captioned drawings."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.config.schema import (
  Arguments,
  BelowOne,
  Count,
  Positive,
  Rule,
  Share,
)
from synthjax.data.pipeline import host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.diffusion import schedule
from synthjax.embedded import captions, world
from synthjax.models.glide.model import Glide
from synthjax.models.pixels import to_unit
from synthjax.runtime import artifacts
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.training import denoising, optimizer
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
STAGES = ("base", "upsampler")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(runs.Loop):
  """A network of the cascade, and its training."""

  data: captions.Captioned
  image_size: Count  # px
  low_res: Count | None = None  # px of the image to enlarge; none for the base
  betas: Annotated[str, schema.one_of(schedule.BETAS)]
  model: Annotated[
    Any, Arguments(Glide, filled=("vocab_size", "out_channels", "dtype"))
  ]
  drop_prompt: Share = 0.2
  max_weight: Positive = 1.0  # of noisy steps; see `denoising.denoising`
  ema_decay: BelowOne = 0.999
  optimizer: Annotated[Any, optimizer.OPTIMIZER]
  num_steps: Count
  batch_size: Count

  def problems(self) -> Iterable[str]:
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


FIELDS = TrainGenerator


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields."""
  del workdir
  schema.read(TrainGenerator, config.train_generator, "config.train_generator")


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
    stage = getattr(fields, name)
    stage = dataclasses.replace(stage, fsdp=fields.fsdp or stage.fsdp)
    weights = _train(name, stage, config.seed, folder)
    vocab_size = bpe.load().glide_vocab_size
    description = {
      "kind": "glide",
      "stage": name,
      "image_size": stage.image_size,
      "low_res": stage.low_res,
      "betas": stage.betas,
      "model": block[name]["model"] | {"vocab_size": vocab_size},
      "training": block[name] | about,
    }
    files.save_params(
      folder / f"{name}.safetensors", weights, description, dtype="float16"
    )
  rows = {f"{name}.safetensors": 1 for name in fields.stages}
  artifacts.finish(folder, spec, rows | runs.count_rows(folder, fields.stages))


def _train(name: str, stage: Stage, seed: int, folder: epath.Path) -> Any:
  """Trains one network; returns its averaged weights, on the host."""
  vocab_size = bpe.load().glide_vocab_size
  model = stage.model(vocab_size=vocab_size)
  read = partial(
    read_example,
    image_size=stage.image_size,
    low_res=stage.low_res,
    context=model.text_context,
  )
  objective = denoising.denoising(
    partial(_apply, model),
    partial(_init, model),
    stage.optimizer(num_steps=stage.num_steps),
    betas=schedule.BETAS[stage.betas](),
    pad_token=vocab_size - 1,
    drop_prompt=stage.drop_prompt,
    max_weight=stage.max_weight,
    ema_decay=stage.ema_decay,
  )
  state = runs.train(
    objective,
    pipeline.train_batches(
      stage.data.open(),
      [
        host_augment.flip,
        host_augment.jiggle,
        partial(captions.name_more, share=stage.data.name_share),
        read,
      ],
      batch_size=stage.batch_size,
      seed=seed,
      num_workers=stage.num_workers,
    ),
    folder=folder,
    label=name,
    num_steps=stage.num_steps,
    batch_size=stage.batch_size,
    seed=seed,
    log_every=stage.log_every,
    checkpoint_every=stage.checkpoint_every,
    fsdp=stage.fsdp,
  )
  return meshes.fetch(state.ema)


def read_example(
  example: dict,
  rng: np.random.Generator,
  *,
  image_size: int,
  low_res: int | None,
  context: int,
) -> dict:
  """Turns a captioned drawing into a row of a training batch."""
  tokens, mask = bpe.load().glide_tokens(
    [world.sample_caption(example, rng)], context
  )
  image = host_augment.shrink(example["image"], image_size)
  row = {"image": image, "tokens": tokens[0], "mask": mask[0]}
  if low_res:
    row["low_res"] = host_augment.shrink(image, low_res)
  return row


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
