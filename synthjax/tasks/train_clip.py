"""Trains a small CLIP on captioned drawings."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

import jax
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.config.schema import Arguments, BelowOne
from synthjax.embedded import captions
from synthjax.encoders.resize import fit_images
from synthjax.models.clip import model as clip
from synthjax.runtime import artifacts
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.training import contrastive, drawings, loop, optimizer, resident
from synthjax.training import run as runs
from synthjax.weights import files

PROCESSES = "all"  # they train as one, and the first one writes


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainClip(resident.Loop):
  """config.train_clip."""

  data: captions.Captioned
  model: Annotated[Any, Arguments(clip.CLIP, filled=("vocab_size", "dtype"))]
  positives: Annotated[str, schema.one_of(contrastive.POSITIVES)]
  ema_decay: BelowOne
  optimizer: Annotated[Any, optimizer.OPTIMIZER]

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    try:
      self.optimizer(num_steps=self.num_steps)
    except UserError as error:
      yield str(error)


FIELDS = TrainClip


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields, and traces a step."""
  del workdir
  fields = schema.read(TrainClip, config.train_clip, "config.train_clip")
  sizes = {"batch_size": fields.batch_size}
  meshes.check_devices("config.train_clip", sizes, fsdp=fields.fsdp)
  _, objective, dataset = make_training(fields, config.seed, most=1)
  loop.trace(objective, dataset.example())


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
  model, objective, dataset = make_training(fields, config.seed)
  state = runs.train(
    objective,
    dataset,
    fields,
    folder=folder,
    label="clip",
    num_steps=fields.num_steps,
    batch_size=fields.batch_size,
    seed=config.seed,
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
      "model": block["model"] | {"vocab_size": model.vocab_size},
      "training": block | about,
    },
    dtype="float16",
  )
  rows = {"clip.safetensors": 1} | runs.count_rows(folder, ["clip"])
  artifacts.finish(folder, spec, rows)


def make_training(
  fields: TrainClip, seed: int, most: int | None = None
) -> tuple[clip.CLIP, loop.Objective, resident.Resident]:
  """Returns the model, and what `runs.train` takes to train it.

  Args:
    fields: config.train_clip.
    seed: of the captions.
    most: drawings; None is all.
  """
  words = bpe.load()
  model = fields.model(vocab_size=words.clip_vocab_size)

  def draw(arrays, rng):
    batch = drawings.draw(arrays, rng, batch_size=fields.batch_size, view=view)
    images = fit_images(batch.pop("image"), model.image_size)
    return batch | {"images": images}

  objective = contrastive.contrastive(
    model,
    fields.optimizer(num_steps=fields.num_steps),
    ema_decay=fields.ema_decay,
    positives=fields.positives,
    preprocess=clip.preprocess,
  )
  objective = resident.resident(
    objective, draw, steps_per_call=fields.steps_here, fsdp=fields.fsdp
  )
  arrays = drawings.load(
    fields.data,
    lambda texts: {"tokens": words.clip_tokens(texts, model.context_length)},
    seed=seed,
    most=most,
  )
  return model, objective, resident.Resident(arrays, fields.fsdp)


def view(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Changes a drawing as a style might that training never sees."""
  moves, flips, colours, erased = jax.random.split(rng, 4)
  image = drawings.jiggle(image, moves, shift=0.1, scale=0.2, degrees=12)
  image = drawings.recolour(drawings.flip(image, flips), colours)
  return drawings.cut_out(image, erased, share=0.3)
