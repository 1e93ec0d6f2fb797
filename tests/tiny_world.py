"""Small stand-ins for what a run makes: weights, drawn images, configs."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from synthjax.data.generated import shards
from synthjax.models.clip import model as clip
from synthjax.prompts import strategies as prompts
from synthjax.runtime import artifacts
from synthjax.tokenizers import bpe
from synthjax.weights import files

SPACE = {
  "name": "tiny",
  "classes": [
    {"id": 0, "name": "bird species", "subcategories": ["animal-bird"]},
    {"id": 1, "name": "fresh fruit", "subcategories": ["food-fruit"]},
    {"id": 2, "name": "drink", "subcategories": ["drink"]},
  ],
  "templates": ["a drawing of {}.", "{}."],
  "prompts": ["a drawing of {}", "a picture of {}"],
}


def write_space(folder: pathlib.Path, **changes) -> str:
  """Writes a label space of three classes and returns its path."""
  path = folder / "space.json"
  path.write_text(json.dumps(SPACE | changes))
  return str(path)


@functools.cache
def clip_params(seed: int, sizes: tuple) -> dict:
  """Draws the parameters of a CLIP, once for each seed and sizes."""
  sizes = dict(sizes)
  side = sizes["image_size"]
  images = jnp.zeros((1, side, side, 3))
  tokens = jnp.zeros((1, sizes["context_length"]), int)
  init = jax.jit(clip.CLIP(**sizes).init)
  return init(jax.random.key(seed), images, tokens)["params"]


def write_clip(path: pathlib.Path, *, seed: int = 0, **sizes) -> str:
  """Writes a CLIP of random weights for 32 px and returns its path."""
  sizes = {
    "embed_dim": 16,
    "image_size": 32,
    "patch_size": 16,
    "vision_width": 16,
    "vision_layers": 1,
    "vision_heads": 2,
    "context_length": 12,
    "vocab_size": bpe.load().clip_vocab_size,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
  } | sizes
  params, side = clip_params(seed, tuple(sizes.items())), sizes["image_size"]
  description = {"kind": "clip", "model": sizes, "image_size": side}
  files.save_params(path, params, description)
  return str(path)


def encoder_block(weights: str) -> dict:
  """Returns config.encoder for the weights of `write_clip`."""
  return dict(
    name="clip",
    weights=weights,
    tokenizer="embedded:tokenizer.json",
    batch_size=8,
  )


def write_prompts(workdir: pathlib.Path, *, strategies=("basic",)) -> None:
  """Completes the task `prompts` for the three classes."""
  rows = [
    prompts.Prompt(f"{s}-{c['id']}-0", c["id"], c["name"], c["name"], s)
    for s in strategies
    for c in SPACE["classes"]
  ]
  spec = {"prompts": {"strategies": strategies}}
  artifacts.begin(workdir / "prompts", spec)
  prompts.write(workdir / "prompts", rows)
  artifacts.finish(workdir / "prompts", spec, {prompts.FILE: len(rows)})


def write_images(
  workdir: pathlib.Path,
  *,
  strategies=("basic",),
  seeds=(0,),
  per_class: int = 4,
  shard_size: int = 7,
  labels=(0, 1, 2),
  salt: int = 0,
) -> None:
  """Completes the task `generate` with images of noise, tinted by class."""
  rng, rows = np.random.default_rng(salt), []
  for strategy in strategies:
    for seed in seeds:
      for label in labels:
        for number in range(per_class):
          image = rng.integers(0, 160, (32, 32, 3), dtype=np.uint8)
          image[..., label % 3] += 90
          rows.append(
            {
              "image": image,
              "label": label,
              "prompt": "something",
              "seed": seed,
              "id": f"{strategy}-{label}-0-s{seed}-{number}",
            }
          )
  folder, spec = workdir / "generate", {"salt": salt, "rows": len(rows)}
  artifacts.begin(folder, spec)
  pieces = [rows[i : i + shard_size] for i in range(0, len(rows), shard_size)]
  written = {}
  for i, piece in enumerate(pieces):
    name = shards.shard_name(i, len(pieces), name="synthjax_images")
    written[name] = shards.write_shard(
      folder, i, len(pieces), piece, name="synthjax_images"
    )
  artifacts.finish(folder, spec, written)


def make_config(folder: pathlib.Path, **blocks) -> ml_collections.ConfigDict:
  """Returns a config with the space and encoder of this file."""
  config = ml_collections.ConfigDict()
  config.tasks = ()
  config.seed = 0
  config.space = write_space(folder)
  config.encoder = encoder_block(write_clip(folder / "clip.safetensors"))
  for name, block in blocks.items():
    config[name] = block
  return config
