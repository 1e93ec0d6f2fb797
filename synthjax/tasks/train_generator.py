"""Trains a small GLIDE, base and upsampler, on captioned drawings."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.data.pipeline import host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.diffusion import schedule
from synthjax.embedded import captions, world
from synthjax.models.glide.model import Glide
from synthjax.models.pixels import to_unit
from synthjax.runtime import artifacts
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import (
  BELOW_ONE,
  BLOCK,
  COUNT,
  COUNTS,
  POSITIVE,
  SHARE,
  TEXTS,
  WHOLE,
  one_of,
  unknown_names,
)
from synthjax.tokenizers import bpe
from synthjax.training import denoising, metrics, optimizer
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
# fsdp: devices that share one copy of the state; see train.loop.fit.
STAGES = ("base", "upsampler")
KNOWN = {"stages": TEXTS, "base": BLOCK, "upsampler": BLOCK, "fsdp": COUNT}
REQUIRED = {
  "data": BLOCK,  # of `captions.open_captioned`, and the share of plain names
  "image_size": COUNT,  # px
  "betas": one_of(schedule.BETAS),
  "model": BLOCK,
  "optimizer": BLOCK,
  "num_steps": COUNT,
  "batch_size": COUNT,
  "log_every": WHOLE,
  "checkpoint_every": COUNT,
}
STAGE = REQUIRED | {
  "low_res": COUNT,  # px of the image to enlarge; none for the base
  "drop_prompt": SHARE,
  "max_weight": POSITIVE,  # of noisy steps; see synthjax.training.denoising
  "ema_decay": BELOW_ONE,
  "num_workers": WHOLE,
}
MODEL = {
  "text_context": COUNT,
  "text_width": COUNT,
  "text_layers": COUNT,
  "text_heads": COUNT,
  "model_channels": COUNT,
  "channel_mult": COUNTS,
  "num_res_blocks": COUNT,
  "attention_downsamples": COUNTS,
  "head_channels": COUNT,
  "dropout": BELOW_ONE,
}
BLOCKS = dict.fromkeys(STAGES, STAGE)
BLOCKS |= {f"{s}.optimizer": optimizer.OPTIMIZER.fields() for s in STAGES}
BLOCKS |= {f"{stage}.model": MODEL for stage in STAGES}


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields."""
  del workdir
  block = config.train_generator.to_dict()
  validate(block, KNOWN, name="train_generator", required=("stages",))
  if unknown := [stage for stage in block["stages"] if stage not in STAGES]:
    raise unknown_names("stage", unknown, STAGES)
  validate(block, KNOWN, name="train_generator", required=block["stages"])
  for stage in block["stages"]:
    own, name = block[stage], f"train_generator.{stage}"
    validate(own, STAGE, name=name, required=REQUIRED)
    captions.check_captioned(own["data"], name=name)
    validate(own["model"], MODEL, name=f"{name}.model")
    steps = own["num_steps"]
    optimizer.check_optimizer(own["optimizer"], num_steps=steps)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `<stage>.safetensors` and `<stage>_metrics.jsonl` of each stage."""
  block = config.train_generator.to_dict()
  fsdp = block.pop("fsdp", None) or 1  # not of what is trained
  folder = epath.Path(workdir) / "train_generator"
  spec = {"seed": config.seed, "images": captions.digest()} | block
  if artifacts.begin(folder, spec):
    return
  rows = {}
  for stage in block["stages"]:
    rows |= _train(stage, block[stage], config.seed, folder, fsdp)
  artifacts.finish(folder, spec, rows)


def _train(
  stage: str, block: dict, seed: int, folder: epath.Path, fsdp: int
) -> dict[str, int]:
  """Trains one network, writes its averaged weights, returns its files."""
  data = dict(block["data"])
  name_share = data.pop("name_share")
  source = captions.open_captioned(**data)
  tokenizer = bpe.load()
  model = Glide(vocab_size=tokenizer.glide_vocab_size, **block["model"])
  batch_size, num_steps = block["batch_size"], block["num_steps"]
  read = partial(
    read_example,
    image_size=block["image_size"],
    low_res=block.get("low_res"),
    context=model.text_context,
  )
  objective = denoising.denoising(
    partial(_apply, model),
    partial(_init, model),
    optimizer.make_optimizer(num_steps=num_steps, **block["optimizer"]),
    betas=schedule.BETAS[block["betas"]](),
    pad_token=tokenizer.glide_vocab_size - 1,
    drop_prompt=block.get("drop_prompt", 0.2),
    max_weight=block.get("max_weight", 1.0),
    ema_decay=block.get("ema_decay", 0.999),
  )
  state = runs.train(
    objective,
    pipeline.train_batches(
      source,
      [
        host_augment.flip,
        host_augment.jiggle,
        partial(captions.name_more, share=name_share),
        read,
      ],
      batch_size=batch_size,
      seed=seed,
      num_workers=block.get("num_workers", 0),
    ),
    folder=folder,
    label=stage,
    num_steps=num_steps,
    batch_size=batch_size,
    seed=seed,
    log_every=block["log_every"],
    checkpoint_every=block["checkpoint_every"],
    fsdp=fsdp,
  )
  description = {
    "kind": "glide",
    "stage": stage,
    "image_size": block["image_size"],
    "low_res": block.get("low_res"),
    "betas": block["betas"],
    "model": block["model"] | {"vocab_size": tokenizer.glide_vocab_size},
    "training": block | {"seed": seed, "images": captions.digest()},
  }
  files.save_params(
    folder / f"{stage}.safetensors",
    meshes.fetch(state.ema),
    description,
    dtype="float16",
  )
  curve = runs.metrics_file(folder, stage)
  return {
    f"{stage}.safetensors": 1,
    curve.name: len(metrics.read_rows(curve)),
  }


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
