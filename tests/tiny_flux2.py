"""FLUX.2-klein with random weights, small enough for a test."""

import json

import jax
import numpy as np
import tiny_sd
from safetensors.numpy import save_file

from synthjax.generators import flux2
from synthjax.models.flux2 import weights as convert

TAPS = (1, 2, 3)  # layers of Qwen3 that are read
WORDS = ("red", "apple", "user", "assistant", "think")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")  # added, but not special

CONFIGS = {
  "transformer": {
    "attention_head_dim": 32,
    "axes_dims_rope": [8, 8, 8, 8],
    "guidance_embeds": False,
    "in_channels": 16,
    "joint_attention_dim": 3 * 24,
    "num_attention_heads": 2,
    "num_layers": 2,
    "num_single_layers": 2,
    "timestep_guidance_channels": 32,
  },
  "vae": {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "latent_channels": 4,
    "layers_per_block": 1,
    "patch_size": [2, 2],
    "up_block_types": ["UpDecoderBlock2D"] * 2,
  },
  "text_encoder": {
    "head_dim": 8,
    "hidden_size": 24,
    "intermediate_size": 40,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1_000_000,
    "vocab_size": 300,
  },
  "scheduler": {"use_dynamic_shifting": True},
  "model_index": {"is_distilled": False},
}


def fill(shapes, seed):
  """Fills {name: shape} as `tiny_sd` does; variances are above 0."""
  weights = tiny_sd.random_weights(shapes, seed)
  return {
    name: 1 + w**2 if name.endswith("running_var") else w
    for name, w in weights.items()
  }


def released():
  """Returns weights of each folder, by their released names."""
  about = convert.describe(CONFIGS, TAPS)
  params = {
    part: tree["params"]
    for part, tree in convert.shapes(about["model"]).items()
  }
  params["latents"] = convert.shapes(about["model"])["vae"]["latents"]
  empty = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)
  weights = convert.to_released({"params": empty})
  return {
    part: fill({k: w.shape for k, w in each.items()}, seed)
    for seed, (part, each) in enumerate(weights.items())
  }


def tokenizer():
  """Returns a byte-level BPE with Qwen's special tokens and a few words."""
  from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
  )

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab, merges = {c: i for i, c in enumerate(letters)}, []
  for word in WORDS:
    for end in range(2, len(word) + 1):
      if word[:end] not in vocab:
        vocab[word[:end]] = len(vocab)
        merges.append((word[: end - 1], word[end - 1]))
  model = Tokenizer(models.BPE(vocab, merges))
  model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  model.decoder = decoders.ByteLevel()
  model.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL])
  model.add_tokens([AddedToken(t) for t in THINK])
  return model


def write_folder(folder, weights, configs=CONFIGS):
  """Writes weights of each part as a folder in diffusers' layout."""
  for part, name in convert.CONFIGS.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(configs[part]))
  for part, arrays in weights.items():
    start = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    arrays = {k: np.ascontiguousarray(w) for k, w in arrays.items()}
    save_file(arrays, folder / part / f"{start}.safetensors")
  (folder / convert.TOKENIZER).parent.mkdir(exist_ok=True)
  (folder / convert.TOKENIZER).write_text(tokenizer().to_str())


def write_flux2(folder, monkeypatch):
  """Writes weights, which the patched module reads; returns its config."""
  monkeypatch.setattr(convert, "TAPS", TAPS)
  monkeypatch.setattr(flux2, "CONTEXT", 32)
  write_folder(folder, released())
  return {
    "name": "flux2",
    "weights": str(folder),
    "sampler": "euler",
    "respacing": 2,
    "image_size": 16,
    "batch_size": 2,
  }
