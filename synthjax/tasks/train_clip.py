"""Trains a small CLIP on captioned drawings."""

from functools import partial

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.data.pipeline import host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.embedded import captions, world
from synthjax.encoders.resize import fit_image
from synthjax.models.clip import model as clip
from synthjax.runtime import artifacts
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import (
  BELOW_ONE,
  BLOCK,
  COUNT,
  COUNTS,
  FLAG,
  WHOLE,
  Kind,
  one_of,
)
from synthjax.tokenizers import bpe
from synthjax.training import contrastive, metrics, optimizer
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes
REQUIRED = {
  "data": BLOCK,  # of `captions.open_captioned`, and the share of plain names
  "model": BLOCK,
  "positives": one_of(contrastive.POSITIVES),
  "ema_decay": BELOW_ONE,
  "optimizer": BLOCK,
  "num_steps": COUNT,
  "batch_size": COUNT,
  "log_every": WHOLE,
  "checkpoint_every": COUNT,
}
KNOWN = REQUIRED | {
  "num_workers": WHOLE,
  "fsdp": COUNT,  # devices that share one copy of the state; train.loop.fit
}
MODEL_NEEDS = dict.fromkeys(
  (
    "embed_dim",
    "context_length",
    "vision_width",
    "vision_heads",
    "text_width",
    "text_layers",
    "text_heads",
    "image_size",
  ),
  COUNT,
)
MODEL = MODEL_NEEDS | {
  # Of a ResNet, those of each stage.
  "vision_layers": Kind(
    lambda x: COUNT.fits(x) or COUNTS.fits(x), f"{COUNT.words}, or several"
  ),
  "patch_size": COUNT,  # none of a ResNet
  "image_tower": one_of(clip.IMAGE_TOWERS),
  "remat": FLAG,
}
BLOCKS = {"optimizer": optimizer.OPTIMIZER.fields(), "model": MODEL}


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields."""
  del workdir
  block = config.train_clip.to_dict()
  validate(block, KNOWN, name="train_clip", required=REQUIRED)
  captions.check_captioned(block["data"], name="train_clip")
  validate(block["model"], MODEL, name="train_clip.model", required=MODEL_NEEDS)
  steps = block["num_steps"]
  optimizer.check_optimizer(block["optimizer"], num_steps=steps)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `clip.safetensors` and `clip_metrics.jsonl`."""
  block = config.train_clip.to_dict()
  fsdp = block.pop("fsdp", None) or 1  # not of what is trained
  folder = epath.Path(workdir) / "train_clip"
  spec = {"seed": config.seed, "images": captions.digest()} | block
  if artifacts.begin(folder, spec):
    return
  data = dict(block["data"])
  name_share = data.pop("name_share")
  tokenizer = bpe.load()
  sizes = block["model"] | {"vocab_size": tokenizer.clip_vocab_size}
  model = clip.CLIP(**sizes)
  batch_size, num_steps = block["batch_size"], block["num_steps"]
  objective = contrastive.contrastive(
    model,
    optimizer.make_optimizer(num_steps=num_steps, **block["optimizer"]),
    ema_decay=block["ema_decay"],
    positives=block["positives"],
    preprocess=clip.preprocess,
  )
  read = partial(
    read_example,
    context=model.context_length,
    image_size=model.image_size,
  )
  state = runs.train(
    objective,
    pipeline.train_batches(
      captions.open_captioned(**data),
      [
        host_augment.flip,
        host_augment.jiggle,
        host_augment.recolour,
        partial(captions.name_more, share=name_share),
        read,
      ],
      batch_size=batch_size,
      seed=config.seed,
      num_workers=block.get("num_workers", 0),
    ),
    folder=folder,
    label="clip",
    num_steps=num_steps,
    batch_size=batch_size,
    seed=config.seed,
    log_every=block["log_every"],
    checkpoint_every=block["checkpoint_every"],
    fsdp=fsdp,
  )
  description = {
    "kind": "clip",
    "image_size": model.image_size,
    "model": sizes,
    "training": block | {"seed": config.seed, "images": captions.digest()},
  }
  variables = {"params": state.ema}
  if state.batch_stats:
    variables["batch_stats"] = state.batch_stats
  files.save_params(
    folder / "clip.safetensors",
    meshes.fetch(variables),
    description,
    dtype="float16",
  )
  curve = runs.metrics_file(folder, "clip")
  rows = {"clip.safetensors": 1, curve.name: len(metrics.read_rows(curve))}
  artifacts.finish(folder, spec, rows)


def read_example(
  example: dict, rng: np.random.Generator, *, context: int, image_size: int
) -> dict:
  """Turns a captioned drawing into a row of a training batch."""
  tokens = bpe.load().clip_tokens([world.sample_caption(example, rng)], context)
  image = fit_image(example["image"], image_size)
  return {"images": image, "tokens": tokens[0]}
