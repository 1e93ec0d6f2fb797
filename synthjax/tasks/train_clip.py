"""Trains a small CLIP on captioned drawings."""

from functools import partial

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.convert import files
from synthjax.data import augment, captions, embedded, pipeline
from synthjax.encoders.resize import fit_image
from synthjax.models import clip
from synthjax.text import tokenize
from synthjax.train import contrastive, metrics, optimizer
from synthjax.train import mesh as meshes
from synthjax.train import run as runs

PROCESSES = "all"  # they train as one, and the first one writes
KNOWN = (
  "data",
  "model",
  "positives",
  "ema_decay",
  "optimizer",
  "num_steps",
  "batch_size",
  "num_workers",
  "log_every",
  "checkpoint_every",
  "fsdp",  # devices that share one copy of the state; see train.loop.fit
)
BLOCKS = {"optimizer": optimizer.FIELDS}


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields."""
  del workdir
  validate(config.train_clip, KNOWN, name="train_clip", required=("model",))


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
  tokenizer = tokenize.load()
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
        augment.flip,
        augment.jiggle,
        augment.recolour,
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
  tokens = tokenize.load().clip_tokens(
    [embedded.sample_caption(example, rng)], context
  )
  image = fit_image(example["image"], image_size)
  return {"images": image, "tokens": tokens[0]}
