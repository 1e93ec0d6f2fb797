"""Stable Diffusion with random weights, small enough for a test."""

import functools
import json
import zlib

import jax
import numpy as np
from safetensors.numpy import save_file

from synthjax.models.stable_diffusion import weights as convert
from synthjax.models.stable_diffusion.folder import describe
from synthjax.tokenizers import bpe
from synthjax.weights import files


def random_weights(shapes, seed):
  """Fills {name: shape} so that values neither grow nor vanish.

  Each weight follows from its name, its shape and the seed, so that two
  libraries can be given the same ones and nobody needs to store them.
  """
  weights = {}
  for name, shape in shapes.items():
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    noise = rng.standard_normal(shape)
    if len(shape) > 1:
      noise /= np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):  # a normalisation's
      noise = 1 + 0.1 * noise
    else:
      noise *= 0.1
    weights[name] = noise.astype(np.float32)
  return weights


WIDTHS = [32, 64]
# Of 1.x, 2.x and XL, as far as they differ.
VERSIONS = {
  "v1": {
    "unet": {"attention_head_dim": 2, "cross_attention_dim": 32},
    "text_encoder": {
      "hidden_act": "quick_gelu",
      "hidden_size": 32,
      "num_attention_heads": 4,
    },
    "scheduler": {"prediction_type": "epsilon"},
  },
  "v2": {
    "unet": {
      "attention_head_dim": [2, 4],
      "cross_attention_dim": 48,
      "use_linear_projection": True,
    },
    "text_encoder": {
      "hidden_act": "gelu",
      "hidden_size": 48,
      "num_attention_heads": 3,
    },
    "scheduler": {"prediction_type": "v_prediction"},
  },
  "xl": {
    "unet": {
      "addition_embed_type": "text_time",
      "addition_time_embed_dim": 8,
      "attention_head_dim": [2, 4],
      "cross_attention_dim": 80,
      "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
      "projection_class_embeddings_input_dim": 24 + 6 * 8,
      "transformer_layers_per_block": [1, 2],
      "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
      "use_linear_projection": True,
    },
    "vae": {"scaling_factor": 0.13025},
    "text_encoder": {
      "hidden_act": "quick_gelu",
      "hidden_size": 32,
      "num_attention_heads": 4,
    },
    "text_encoder_2": {
      "hidden_act": "gelu",
      "hidden_size": 48,
      "num_attention_heads": 3,
      "num_hidden_layers": 3,
      "projection_dim": 24,
    },
    "model_index": {"force_zeros_for_empty_prompt": True},
  },
}


def configs(version="v1", vocab_size=64):
  """Returns the contents of the configurations of a folder."""
  common = {
    "unet": {
      "block_out_channels": WIDTHS,
      "layers_per_block": 1,
      "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
      "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
      "sample_size": 8,
    },
    "vae": {
      "block_out_channels": WIDTHS,
      "down_block_types": ["DownEncoderBlock2D"] * 2,
      "up_block_types": ["UpDecoderBlock2D"] * 2,
      "layers_per_block": 1,
    },
    "text_encoder": {
      "max_position_embeddings": 12,
      "num_hidden_layers": 2,
      "vocab_size": vocab_size,
    },
    "scheduler": {
      "beta_start": 0.00085,
      "beta_end": 0.012,
      "beta_schedule": "scaled_linear",
      "steps_offset": 1,
      "set_alpha_to_one": False,
      "clip_sample": False,
    },
  }
  of_version = VERSIONS[version]
  common["text_encoder_2"] = common["text_encoder"]
  return {
    part: common.get(part, {}) | of_version.get(part, {})
    for part in {**common, **of_version}
    if part in of_version or not part.endswith("_2")
  }


def released(version="v1", vocab_size=64):
  """Returns weights of each folder, by their released names, and configs."""
  settings = configs(version, vocab_size)
  about = describe(settings)
  variables = {
    "params": {
      part: tree["params"]
      for part, tree in convert.shapes(about["model"]).items()
    }
  }
  empty = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), variables)
  weights = {
    part: random_weights({k: w.shape for k, w in each.items()}, seed)
    for seed, (part, each) in enumerate(
      convert.to_released(empty, about).items()
    )
  }
  return weights, settings


def write_file(folder, version="v1"):
  """Writes weights for the embedded tokenizer; returns config.generator."""
  vocab_size = bpe.load().clip_vocab_size
  weights, settings = released(version, vocab_size)
  variables, about = convert.from_released(weights, settings)
  path = folder / f"{version}.safetensors"
  files.save_params(path, variables, about)
  return {
    "weights": str(path),
    "tokenizer": "embedded:tokenizer.json",
    "sampler": "ddim",
    "respacing": 2,
    "guidance_scale": 3.0,
    "batch_size": 2,
    "dtype": "float32",
  }


PADS = {
  "v1": ("<|endoftext|>",),
  "v2": ("!",),
  "xl": ("<|endoftext|>", "!"),
}


def write_folder(folder, version="v1", *, dtype=np.float32, old_names=False):
  """Writes a folder in diffusers' layout, with words that mean nothing."""
  merges, vocab = made_up_words()
  weights, settings = released(version, len(vocab))
  if old_names:
    weights["vae"] = convert.old_vae_names(weights["vae"])
  for part, file in convert.CONFIGS.items():
    if part in settings:
      (folder / part).mkdir(parents=True)
      (folder / part / file).write_text(json.dumps(settings[part]))
  if "model_index" in settings:
    index = json.dumps(settings["model_index"])
    (folder / convert.INDEX).write_text(index)
  for part, of_part in weights.items():
    arrays = {k: np.ascontiguousarray(w, dtype) for k, w in of_part.items()}
    file = "model" if "text" in part else "diffusion_pytorch_model"
    save_file(arrays, folder / part / f"{file}.safetensors")
  for name, pad in zip(convert.TOKENIZERS, PADS[version], strict=False):
    (folder / name).mkdir()
    (folder / name / "merges.txt").write_text(merges)
    (folder / name / "vocab.json").write_text(json.dumps(vocab))
    special = json.dumps({"pad_token": pad})
    (folder / name / "special_tokens_map.json").write_text(special)
  return weights, settings


@functools.cache
def made_up_words():
  """Returns merges.txt and vocab.json, as large as CLIP's."""
  letters = bpe._byte_letters()
  tokens = letters + [letter + "</w>" for letter in letters]
  pairs = [(a, b) for a in letters for b in letters][:48_894]
  tokens += [a + b for a, b in pairs]
  vocab = {token: i for i, token in enumerate(tokens)}
  vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
  lines = ["#version: 0.2", *(f"{a} {b}" for a, b in pairs)]
  return "\n".join(lines) + "\n", vocab
