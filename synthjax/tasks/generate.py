"""Draws labelled images for every prompt, as shards that TFDS opens."""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.convert import files
from synthjax.data import shards, spaces
from synthjax.errors import UserError, unknown_names
from synthjax.generators import Generator, clip_guidance, glide
from synthjax.text import prompts as texts
from synthjax.train.metrics import say

GENERATORS = {"glide": glide.load}
GENERATOR_FIELDS = (
  "name",
  "base",
  "upsampler",
  "tokenizer",
  "guidance_scale",
  "clip_guidance",
  "batch_size",
  "dtype",
)
STAGE_FIELDS = ("weights", "sampler", "respacing", "start")
CLIP_FIELDS = ("image_weights", "text_weights", "tokenizer")  # and scale
FIELDS = ("images_per_class", "seeds", "shard_size")
NAME = "synthjax_images"


class Row(NamedTuple):
  """One image to draw."""

  id: str
  label: int
  class_name: str
  prompt: str
  seed: int
  number: int  # of the images of this prompt and seed


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the blocks' fields, and that the weights are there."""
  del workdir
  validate(config.generate, FIELDS, name="generate", required=FIELDS)
  block = config.generator
  validate(block, GENERATOR_FIELDS, name="generator", required=("name",))
  if block.name not in GENERATORS:
    raise unknown_names("generator", [block.name], GENERATORS)
  for stage in ("base", "upsampler"):
    validate(block[stage], STAGE_FIELDS, name=f"generator.{stage}")
    _weights(block, stage)
  clip = block.get("clip_guidance")
  clip_guidance.check(block.get("guidance_scale"), clip)
  if clip is not None:
    name = "generator.clip_guidance"
    validate(clip, [*CLIP_FIELDS, "scale"], name=name, required=CLIP_FIELDS)
    _clip_weights(clip)
  if config.generate.shard_size < 1 or config.generate.images_per_class < 1:
    raise UserError(
      "config.generate.images_per_class and shard_size must be 1 or more; "
      f"found {config.generate.images_per_class} and "
      f"{config.generate.shard_size}."
    )


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves shards of image, label, prompt, seed and id."""
  block = config.generate.to_dict()
  source = epath.Path(workdir) / "prompts"
  generator = load(config.generator)
  space = spaces.load_space(config.space)
  folder = epath.Path(workdir) / "generate"
  spec = {
    "generate": block,
    "generator": generator.identity,
    "prompts": artifacts.digest(source),
  }
  if artifacts.begin(folder, spec):
    return
  rows = plan(
    [texts.Prompt(**row) for row in texts.read(source / texts.FILE)],
    images_per_class=block["images_per_class"],
    seeds=block["seeds"],
  )
  size = block["shard_size"]
  pieces = [rows[i : i + size] for i in range(0, len(rows), size)]
  began, drawn, done = time.monotonic(), 0, 0
  for index, piece in enumerate(pieces):
    name = shards.shard_name(index, len(pieces), name=NAME)
    if (folder / name).exists():
      shards.check_rows(folder / name, len(piece))
    else:
      shards.write_shard(
        folder, index, len(pieces), draw(generator, piece), name=NAME
      )
      drawn += len(piece)
    done += len(piece)
    rate = drawn / (time.monotonic() - began)
    left = (len(rows) - done) / rate / 60 if rate else 0.0
    say(
      f"generate: {done}/{len(rows)} images  {rate:.1f} images/s  "
      f"{left:.1f} min left",
      last=done == len(rows),
    )
  described = shards.write_dataset_info(
    folder,
    [len(piece) for piece in pieces],
    {c.id: c.name for c in space.classes},
    description=f"Images of {len(space.classes)} classes drawn by synthjax.",
    name=NAME,
    image_size=generator.image_size,
  )
  written = {
    shards.shard_name(i, len(pieces), name=NAME): len(piece)
    for i, piece in enumerate(pieces)
  }
  artifacts.finish(folder, spec, written | described)


def load(block: ConfigDict) -> Generator:
  """Builds the generator that a config's block describes."""
  options = block.to_dict()
  for stage in ("base", "upsampler"):
    options[stage]["weights"] = _weights(block, stage)
  if options.get("clip_guidance") is not None:
    options["clip_guidance"] |= _clip_weights(block.clip_guidance)
  return GENERATORS[options.pop("name")](**options)


def plan(
  prompts: Sequence[texts.Prompt],
  *,
  images_per_class: int,
  seeds: Sequence[int],
) -> list[Row]:
  """Lists every image: by strategy, seed, class, prompt, number.

  The images of a class are dealt out to its prompts in turn, so that none has
  more than one image more than another.
  """
  groups: dict[str, dict[int, list[texts.Prompt]]] = {}
  for prompt in prompts:
    classes = groups.setdefault(prompt.strategy, {})
    classes.setdefault(prompt.label, []).append(prompt)
  rows = []
  for classes in groups.values():
    for seed in seeds:
      for label in sorted(classes):
        own = classes[label]
        for i, prompt in enumerate(own):
          count = len(range(i, images_per_class, len(own)))
          rows += [
            Row(
              id=f"{prompt.id}-s{seed}-{number}",
              label=label,
              class_name=prompt.class_name,
              prompt=prompt.text,
              seed=seed,
              number=number,
            )
            for number in range(count)
          ]
  return rows


def draw(generator: Generator, rows: Sequence[Row]) -> list[dict]:
  """Draws images, as examples of a shard."""
  images = generator.draw([row.prompt for row in rows], image_keys(rows))
  return [
    {
      "image": image,
      "label": row.label,
      "prompt": row.prompt,
      "seed": row.seed,
      "id": row.id,
    }
    for image, row in zip(images, rows, strict=True)
  ]


def image_keys(rows: Sequence[Row]) -> jax.Array:
  """Makes the key of each image from its seed, class, prompt and number.

  So an image is the same whatever was drawn before it or beside it, on however
  many devices.
  """
  data = np.empty((len(rows), 2), np.uint32)
  for i, row in enumerate(rows):
    who = json.dumps([row.seed, row.class_name, row.prompt, row.number])
    data[i] = np.frombuffer(hashlib.sha256(who.encode()).digest()[:8], "<u4")
  return jax.random.wrap_key_data(data, impl="threefry2x32")


def _weights(block: ConfigDict, stage: str) -> str:
  path = files.locate(
    block[stage].get("weights"),
    field=f"generator.{stage}.weights",
    family=block.name,
  )
  return str(path)


def _clip_weights(block: ConfigDict) -> dict[str, str]:
  """Finds the weights of both towers of the noised CLIP."""
  return {
    field: str(
      files.locate(
        block.get(field),
        field=f"generator.clip_guidance.{field}",
        family="noised_clip",
      )
    )
    for field in ("image_weights", "text_weights")
  }
