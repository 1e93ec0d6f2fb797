"""Converts Stable Diffusion 1.x and 2.x, and packs a folder into two files.

A folder in diffusers' layout holds `unet/`, `vae/`, `text_encoder/`,
`tokenizer/` and `scheduler/`, each with a configuration, and the first three
with weights. `folder` reads the configurations, `weight_names` has the rules.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.models.clip.weight_names import to_huggingface
from synthjax.models.stable_diffusion import weight_names
from synthjax.models.stable_diffusion.folder import describe
from synthjax.models.stable_diffusion.text import TextEncoder
from synthjax.models.stable_diffusion.unet import UNet
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files, read
from synthjax.weights.rules import Rule, check_layout, convert, restore

KIND = "stable_diffusion"
# The files that `pack` makes.
WEIGHTS, TOKENIZER = "stable_diffusion.safetensors", "tokenizer.json"
# The second writes the autoencoder's attention as diffusers did until 2023.
LAYOUTS = ("diffusers", "diffusers_old")
# Folders of weights, and the networks' names here.
PARTS = {"unet": "unet", "vae": "vae", "text_encoder": "text"}
_WEIGHTS = {
  "unet": "diffusion_pytorch_model",
  "vae": "diffusion_pytorch_model",
  "text_encoder": "model",
}
CONFIGS = {
  "unet": "config.json",
  "vae": "config.json",
  "text_encoder": "config.json",
  "scheduler": "scheduler_config.json",
}
END = "<|endoftext|>"  # pads the prompts of 1.x
VOCABULARY, MERGES = "tokenizer/vocab.json", "tokenizer/merges.txt"
# The first of these that names a pad is right: in 2.x they differ.
_PADS = ("special_tokens_map.json", "tokenizer_config.json")


def from_released(
  weights: Mapping[str, Mapping[str, np.ndarray]],
  configs: Mapping[str, Mapping[str, Any]],
  *,
  pad_token: str = END,
) -> tuple[dict, dict[str, Any]]:
  """Converts the three networks, at any size.

  Args:
    weights: of "unet", "vae" and "text_encoder", by their released names. The
      autoencoder's attention may have its older or its newer names.
    configs: of these and of "scheduler", as their files say.
    pad_token: fills prompts up, as the tokenizer's files say.

  Returns:
    Variables, {"params": {"unet", "vae", "text"}} of the weights' dtypes, and
    their description, as `generators.stable_diffusion` reads it: that of
    `folder.describe`, with "kind" and "pad_token".

  Raises:
    UserError: listing what the configurations lack or what is not supported, or
      every weight that is unused, missing or misshapen, of all networks.
  """
  about = {"kind": KIND, "pad_token": pad_token} | describe(configs)
  wanted, rules = shapes(about["model"]), _rules(about)
  named = {
    "unet": dict(weights["unet"]),
    "vae": weight_names.new_vae_names(weights["vae"]),
    "text": weight_names.openai_names(weights["text_encoder"]),
  }
  params, problems = {}, []
  for folder, part in PARTS.items():
    try:
      converted = convert(named[part], rules[part], wanted[part])
      params[part] = converted["params"]
    except UserError as error:
      problems.append(f"{folder}: {error}")
  if problems:
    raise UserError("\n".join(problems))
  return {"params": params}, about


def to_released(
  variables: Mapping,
  description: Mapping[str, Any],
  *,
  layout: str = "diffusers",
) -> dict[str, dict[str, np.ndarray]]:
  """Returns the weights of each folder under the names of one of LAYOUTS."""
  check_layout("Stable Diffusion", layout, LAYOUTS)
  rules = _rules(description)
  released = {
    folder: restore({"params": variables["params"][part]}, rules[part])
    for folder, part in PARTS.items()
  }
  if layout == "diffusers_old":
    released["vae"] = weight_names.old_vae_names(released["vae"])
  return released | {"text_encoder": to_huggingface(released["text_encoder"])}


def from_folder(folder: epath.PathLike) -> tuple[dict, dict[str, Any]]:
  """Converts a folder in diffusers' layout.

  Args:
    folder: local or `gs://`. Among files of the same weights, safetensors and
      whole precision come first.

  Returns:
    As `from_released`; float16 stays float16.

  Raises:
    UserError: listing the files that are missing, or as `from_released`.
  """
  folder = epath.Path(folder)
  weights, configs, problems = {}, {}, []
  paths = {part: _weights_file(folder / part, part) for part in PARTS}
  for part, path in paths.items():
    if path is None:
      problems.append(f"{part}/{_WEIGHTS[part]}.safetensors")
  for part, name in CONFIGS.items():
    if (folder / part / name).exists():
      configs[part] = _read_json(folder / part / name)
    else:
      problems.append(f"{part}/{name}")
  if problems:
    raise UserError(
      f"{folder} is no folder of Stable Diffusion in diffusers' layout: it "
      f"lacks {', '.join(problems)}. A single file of weights (.ckpt or "
      ".safetensors) cannot be read: take the folders of the same release."
    )
  weights = {part: read.read_weights(path) for part, path in paths.items()}
  try:
    return from_released(weights, configs, pad_token=_pad_token(folder))
  except UserError as error:
    raise UserError(f"{folder} cannot be converted: {error}") from None


def files_of(folder: epath.PathLike) -> list[epath.Path]:
  """Returns the files that `from_folder` reads, and the tokenizer's."""
  folder = epath.Path(folder)
  paths = [_weights_file(folder / part, part) for part in PARTS]
  paths += [folder / part / name for part, name in CONFIGS.items()]
  paths += [folder / VOCABULARY, folder / MERGES]
  paths += [folder / "tokenizer" / name for name in _PADS]
  return [path for path in paths if path is not None and path.exists()]


def pack(folder: epath.PathLike, output: epath.PathLike) -> None:
  """Converts a folder into one file of weights and one of the tokenizer.

  Args:
    folder: in diffusers' layout.
    output: a folder for WEIGHTS and TOKENIZER, made where there is none.
      float16 stays float16, all else is float32.

  Raises:
    UserError: about files that are missing, or do not convert.
  """
  folder, output = epath.Path(folder), epath.Path(output)
  tokenizer = bpe.read(folder / VOCABULARY, folder / MERGES)
  variables, about = from_folder(folder)
  about["sources"] = {
    str(pathlib.PurePath(path).relative_to(folder)): files.sha256(path)
    for path in files_of(folder)
  }
  output.mkdir(parents=True, exist_ok=True)
  with replace(output, TOKENIZER) as temporary:
    temporary.write_text(tokenizer.bpe.to_str())
  files.save_params(output / WEIGHTS, variables, about, dtype=None)


def _weights_file(folder: epath.Path, part: str) -> epath.Path | None:
  stem = _WEIGHTS[part]
  old = "pytorch_model" if part == "text_encoder" else stem
  for name in (
    f"{stem}.safetensors",
    f"{stem}.fp16.safetensors",
    f"{old}.bin",
    f"{old}.fp16.bin",
  ):
    if (folder / name).exists():
      return folder / name
  return None


def _read_json(path: epath.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text())
  except ValueError as error:
    raise UserError(f"{path} is no JSON ({error}): fetch it again.") from None
  if not isinstance(content, dict):
    raise UserError(f"{path} holds no fields: fetch it again.")
  return content


def _pad_token(folder: epath.Path) -> str:
  """Returns the token that fills prompts up."""
  for name in _PADS:
    path = folder / "tokenizer" / name
    token = _read_json(path).get("pad_token") if path.exists() else None
    if token:
      return token["content"] if isinstance(token, Mapping) else token
  return END


def make_models(
  model: Mapping[str, Mapping[str, Any]], dtype: str = "float32"
) -> tuple[UNet, Autoencoder, TextEncoder]:
  """Builds the modules of a description's "model".

  Args:
    model: the fields of each.
    dtype: of the activations, but for the autoencoder's, which are float32.
  """
  fields = {
    part: {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in model[part].items()
    }
    for part in PARTS.values()
  }
  dtype = jnp.dtype(dtype)
  return (
    UNet(**fields["unet"], dtype=dtype),
    Autoencoder(**fields["vae"]),
    TextEncoder(**fields["text"], dtype=dtype),
  )


def shapes(model: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the shapes of each network's variables, as `jax.eval_shape`."""
  unet, vae, text = make_models(model)
  rng, struct = jax.random.key(0), jax.ShapeDtypeStruct
  side = 2 ** (len(unet.widths) - 1)  # the smallest that works
  latents = struct((1, side, side, unet.in_channels), jnp.float32)
  context = struct((1, 1, unet.context_dim), jnp.float32)
  side = 2 ** (len(vae.widths) - 1)
  images = struct((1, side, side, vae.in_channels), jnp.float32)
  number = struct((1,), jnp.int32)
  tokens = struct((1, text.context_length), jnp.int32)
  return {
    "unet": jax.eval_shape(unet.init, rng, latents, number, context),
    "vae": jax.eval_shape(vae.init, rng, images),
    "text": jax.eval_shape(text.init, rng, tokens),
  }


def _rules(about: Mapping[str, Any]) -> dict[str, list[Rule]]:
  linear = about["linear_projection"]
  return {
    "unet": weight_names.unet_rules(linear_projection=linear),
    "vae": weight_names.vae_rules(),
    "text": weight_names.TEXT_RULES,
  }
