"""Trains a small CLIP on captioned drawings."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.config.schema import Arguments, BelowOne, Count
from synthjax.data.pipeline import host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.embedded import captions, world
from synthjax.encoders.resize import fit_image
from synthjax.models.clip import model as clip
from synthjax.runtime import artifacts
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.training import contrastive, optimizer
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainClip(runs.Loop):
  """config.train_clip."""

  data: captions.Captioned
  model: Annotated[Any, Arguments(clip.CLIP, filled=("vocab_size", "dtype"))]
  positives: Annotated[str, schema.one_of(contrastive.POSITIVES)]
  ema_decay: BelowOne
  optimizer: Annotated[Any, optimizer.OPTIMIZER]
  num_steps: Count
  batch_size: Count

  def problems(self) -> Iterable[str]:
    try:
      self.optimizer(num_steps=self.num_steps)
    except UserError as error:
      yield str(error)


FIELDS = TrainClip


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields."""
  del workdir
  schema.read(TrainClip, config.train_clip, "config.train_clip")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `clip.safetensors` and `clip_metrics.jsonl`."""
  fields = schema.read(TrainClip, config.train_clip, "config.train_clip")
  block = config.train_clip.to_dict()
  block.pop("fsdp", None)  # it changes nothing of the result
  folder = epath.Path(workdir) / "train_clip"
  about = {"seed": config.seed, "images": captions.digest()}
  spec = about | block
  if artifacts.begin(folder, spec):
    return
  vocab_size = bpe.load().clip_vocab_size
  model = fields.model(vocab_size=vocab_size)
  objective = contrastive.contrastive(
    model,
    fields.optimizer(num_steps=fields.num_steps),
    ema_decay=fields.ema_decay,
    positives=fields.positives,
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
      fields.data.open(),
      [
        host_augment.flip,
        host_augment.jiggle,
        host_augment.recolour,
        partial(captions.name_more, share=fields.data.name_share),
        read,
      ],
      batch_size=fields.batch_size,
      seed=config.seed,
      num_workers=fields.num_workers,
    ),
    folder=folder,
    label="clip",
    num_steps=fields.num_steps,
    batch_size=fields.batch_size,
    seed=config.seed,
    log_every=fields.log_every,
    checkpoint_every=fields.checkpoint_every,
    fsdp=fields.fsdp,
  )
  variables = {"params": state.ema}
  if state.batch_stats:
    variables["batch_stats"] = state.batch_stats
  files.save_params(
    folder / "clip.safetensors",
    meshes.fetch(variables),
    {
      "kind": "clip",
      "image_size": model.image_size,
      "model": block["model"] | {"vocab_size": vocab_size},
      "training": block | about,
    },
    dtype="float16",
  )
  rows = {"clip.safetensors": 1} | runs.count_rows(folder, ["clip"])
  artifacts.finish(folder, spec, rows)


def read_example(
  example: dict, rng: np.random.Generator, *, context: int, image_size: int
) -> dict:
  """Turns a captioned drawing into a row of a training batch."""
  tokens = bpe.load().clip_tokens([world.sample_caption(example, rng)], context)
  image = fit_image(example["image"], image_size)
  return {"images": image, "tokens": tokens[0]}
