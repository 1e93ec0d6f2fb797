"""A GLIDE of random weights, small enough for a test."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.models.glide.model import Glide
from synthjax.tokenizers import bpe
from synthjax.weights import files

SIZES = {
  "text_context": 8,
  "text_width": 16,
  "text_layers": 1,
  "text_heads": 2,
  "model_channels": 32,
  "channel_mult": (1, 1),
  "num_res_blocks": 1,
  "attention_downsamples": (2,),
  "head_channels": 16,
  "dropout": 0.0,
}


@functools.cache
def shapes_of(side: int, low_res: int | None) -> dict:
  """Returns the shapes of a stage's parameters."""
  model = Glide(vocab_size=bpe.load().glide_vocab_size, **SIZES)
  tokens = jnp.zeros((1, SIZES["text_context"]), int)
  small = None if low_res is None else jnp.zeros((1, low_res, low_res, 3))
  x = jnp.zeros((1, side, side, 3))
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), x, jnp.zeros(1), tokens, tokens > 0, small
  )
  return shapes["params"]


def write_glide(folder: pathlib.Path) -> dict:
  """Writes base and upsampler and returns config.generator."""
  vocab_size = bpe.load().glide_vocab_size
  block = {
    "name": "glide",
    "tokenizer": "embedded:tokenizer.json",
    "guidance_scale": 2.0,
    "batch_size": 4,
    "dtype": "float32",
  }
  stages = (("base", 8, None), ("upsampler", 16, 8))
  for seed, (stage, side, low_res) in enumerate(stages):
    path = folder / f"{stage}.safetensors"
    files.save_params(
      path,
      fill(shapes_of(side, low_res), seed),
      {
        "kind": "glide",
        "stage": stage,
        "image_size": side,
        "low_res": low_res,
        "betas": "linear",
        "model": SIZES | {"vocab_size": vocab_size},
      },
    )
    block[stage] = {"weights": str(path), "sampler": "ddim", "respacing": "3"}
  return block


def fill(shapes, seed):
  """Fills shapes with small numbers, none zero: each weight has a say."""
  rng = np.random.default_rng(seed)
  flat = traverse_util.flatten_dict(shapes)
  return traverse_util.unflatten_dict(
    {
      path: rng.normal(0, 0.2, shape.shape).astype(np.float32)
      for path, shape in flat.items()
    }
  )
