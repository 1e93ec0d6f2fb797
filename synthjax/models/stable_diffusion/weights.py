"""Converts Stable Diffusion 1.x, 2.x and XL; packs a folder into two files.

A folder in diffusers' layout holds `unet/`, `vae/`, `text_encoder/`,
`tokenizer/` and `scheduler/`, each with a configuration, and the first three
with weights. That of XL has `text_encoder_2/` and `tokenizer_2/` as well.
`folder` reads the configurations.
"""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from synthjax.models.clip import weight_names as clip_names
from synthjax.models.clip import weights as clip_weights
from synthjax.models.stable_diffusion.folder import describe
from synthjax.models.stable_diffusion.text import TextEncoder
from synthjax.models.stable_diffusion.unet import UNet
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.models.stable_diffusion.weight_names import (
  new_vae_names,
  old_vae_names,
  openai_names,
  unet_rules,
  vae_rules,
)
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.tokenizers import bpe
from synthjax.weights import files, read, snapshots
from synthjax.weights.rules import Rule, check_layout, convert, restore
from synthjax.weights.snapshots import below, weights_name

KIND = "stable_diffusion"
# The files that `pack` makes.
WEIGHTS, TOKENIZER = "stable_diffusion.safetensors", "tokenizer.json"
# The second writes the autoencoder's attention as diffusers did until 2023.
LAYOUTS = ("diffusers", "diffusers_old")
SECOND = "text_encoder_2"  # which XL alone has
# Folders of weights, and the networks' names here.
PARTS = {
  "unet": "unet",
  "vae": "vae",
  "text_encoder": "text",
  SECOND: "text_2",
}
CONFIGS = dict.fromkeys(PARTS, "config.json") | {
  "scheduler": "scheduler_config.json"
}
INDEX = "model_index.json"  # only that of XL is read
TOKENIZERS = ("tokenizer", "tokenizer_2")  # of one vocabulary, and two pads
END = "<|endoftext|>"  # pads the prompts of 1.x
# The first of these that names a pad is right: in 2.x they differ.
_PADS = ("special_tokens_map.json", "tokenizer_config.json")


def from_released(
  weights: Mapping[str, Mapping[str, np.ndarray]],
  configs: Mapping[str, Mapping[str, Any]],
  *,
  pad_tokens: Sequence[str] = (END, END),
) -> tuple[dict, dict[str, Any]]:
  """Converts the networks, at any size.

  Args:
    weights: of keys of PARTS, by their released names. The autoencoder's
      attention may have its older or its newer names. The UNet may be absent.
    configs: of all parts and of "scheduler", as their files say; for XL also
      "model_index".
    pad_tokens: fill prompts up, as the files of each tokenizer say.

  Returns:
    Variables, {"params": {"unet", "vae", "text"}} of the weights' dtypes, and
    "text_2" of XL; and their description, as `generators.stable_diffusion`
    reads it: that of `folder.describe`, with "kind" and "pad_token", and
    "pad_token_2" of XL.

  Raises:
    UserError: listing the missing or unsupported fields of configurations, or
      every weight that is unused, missing or misshapen, of all networks.
  """
  about = {"kind": KIND, "pad_token": pad_tokens[0]} | describe(configs)
  if SECOND in configs:
    about["pad_token_2"] = pad_tokens[1]
  params, problems = {}, []
  for folder in weights:
    try:
      params[PARTS[folder]] = convert_part(folder, weights[folder], about)
    except UserError as error:
      problems.append(f"{folder}: {error}")
  if problems:
    raise UserError("\n".join(problems))
  return {"params": params}, about


def convert_part(
  folder: str, weights: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> dict[str, Any]:
  """Converts one network, such as another UNet of the same sizes.

  Args:
    folder: of PARTS.
    weights: by their released names.
    about: the description of the model that it belongs to.

  Returns:
    Its parameters.

  Raises:
    UserError: listing every weight that is unused, missing or misshapen.
  """
  like = shapes({PARTS[folder]: about["model"][PARTS[folder]]})[PARTS[folder]]
  return _convert(folder, weights, about, like["params"])


def _convert(folder, weights, about, like):
  named = {"unet": dict, "vae": new_vae_names}.get(folder, openai_names)
  rules = _rules(PARTS[folder], about)
  return convert(named(weights), rules, {"params": like})["params"]


def to_released(
  variables: Mapping,
  description: Mapping[str, Any],
  *,
  layout: str = "diffusers",
) -> dict[str, dict[str, np.ndarray]]:
  """Returns the weights of each folder under the names of one of LAYOUTS."""
  check_layout("Stable Diffusion", layout, LAYOUTS)
  params = variables["params"]
  released = {
    folder: restore({"params": params[part]}, _rules(part, description))
    for folder, part in PARTS.items()
    if part in params
  }
  if layout == "diffusers_old":
    released["vae"] = old_vae_names(released["vae"])
  return {
    folder: clip_names.to_huggingface(w) if "text" in folder else w
    for folder, w in released.items()
  }


# Layers of the attention -> the low-rank updates of each; see `models.lora`.
LOW_RANK = dict.fromkeys(("to_q", "to_k", "to_v", "to_out_0"), 1) | {
  "attn/in_proj": 3,
  "attn/out_proj": 1,
}
_LINEAR = {"linear_projection": True}  # None of those is a convolution.


def to_lora_names(kernels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns kernels by their paths under the names that a LoRA's file has."""
  params = traverse_util.unflatten_dict(kernels, sep="/")
  return {
    f"{folder}.{name}": weight
    for folder, released in to_released({"params": params}, _LINEAR).items()
    for name, weight in released.items()
  }


def from_lora_names(
  weights: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Undoes `to_lora_names`; `like` has the shapes of the kernels.

  A network of which a file has nothing has zeros, as many LoRAs are of the UNet
  alone.

  Raises:
    UserError: listing every weight that is unused, missing or misshapen.
  """
  params = traverse_util.unflatten_dict(like, sep="/")
  by_folder = {folder: {} for folder, part in PARTS.items() if part in params}
  for name, weight in weights.items():
    folder, _, rest = name.partition(".")
    # A name of no folder is reported among the UNet's.
    known = folder in by_folder
    by_folder[folder if known else "unet"][rest if known else name] = weight
  for folder, named in by_folder.items():
    part = PARTS[folder]
    if named:
      params[part] = _convert(folder, named, _LINEAR, params[part])
    else:
      zeros = lambda x: np.zeros(x.shape, np.float32)
      params[part] = jax.tree.map(zeros, params[part])
  return traverse_util.flatten_dict(params, sep="/")


def _has(folder: epath.Path) -> dict[str, str]:
  """Returns the configurations that a folder should have: some of CONFIGS."""
  is_xl = (folder / SECOND).is_dir()
  return {part: n for part, n in CONFIGS.items() if is_xl or part != SECOND}


def from_folder(
  folder: epath.PathLike, *, unet: bool = True
) -> tuple[dict, dict[str, Any]]:
  """Converts a folder in diffusers' layout.

  Args:
    folder: local or `gs://`. Among files of the same weights, safetensors and
      whole precision come first.
    unet: whether the weights of the UNet are read.

  Returns:
    As `from_released`; float16 stays float16.

  Raises:
    UserError: listing the files that are missing, or as `from_released`.
  """
  folder = epath.Path(folder)
  weights, configs, problems = {}, {}, []
  has = _has(folder)
  paths = {
    part: snapshots.weights_file(folder / part)
    for part in PARTS
    if part in has and (unet or part != "unet")
  }
  for part, path in paths.items():
    if path is None:
      problems.append(f"the weights in {part}/")
  for part, name in has.items():
    if (folder / part / name).exists():
      configs[part] = read_json(folder / part / name, dict)
    else:
      problems.append(f"{part}/{name}")
  second = [folder / TOKENIZERS[1] / name for name in _PADS]
  if SECOND in has and not any(path.exists() for path in second):
    problems.append(f"{TOKENIZERS[1]}/{_PADS[1]}")
  if problems:
    raise UserError(
      f"{folder} is no folder of Stable Diffusion in diffusers' layout: it "
      f"lacks {', '.join(problems)}. A single file of weights (.ckpt or "
      ".safetensors) cannot be read: take the folders of the same release."
    )
  if SECOND in has and (folder / INDEX).exists():
    configs["model_index"] = read_json(folder / INDEX, dict)
  weights = {part: read.read_weights(path) for part, path in paths.items()}
  pads = [_pad_token(folder / name) for name in TOKENIZERS]
  try:
    return from_released(weights, configs, pad_tokens=pads)
  except UserError as error:
    raise UserError(f"{folder} cannot be converted: {error}") from None


def files_of(folder: epath.PathLike, *, unet: bool = True) -> list[epath.Path]:
  """Returns the files that `from_folder` reads, and the tokenizer's."""
  folder = epath.Path(folder)
  has = _has(folder)
  parts = [part for part in PARTS if part in has and (unet or part != "unet")]
  paths = [snapshots.weights_file(folder / part) for part in parts]
  paths += [folder / part / name for part, name in has.items()]
  paths += tokenizer_files(folder)
  places = TOKENIZERS if SECOND in has else TOKENIZERS[:1]
  paths += [folder / place / name for place in places for name in _PADS]
  paths += [folder / INDEX] if SECOND in has else []
  paths = [path for path in paths if path is not None and path.exists()]
  return paths + [part for path in paths for part in read.parts_of(path)]


def tokenizer_files(folder: epath.Path) -> list[epath.Path]:
  """Returns the vocabulary and its merges, or the one file of today."""
  pair = [folder / "tokenizer" / name for name in ("vocab.json", "merges.txt")]
  whole = folder / "tokenizer" / "tokenizer.json"
  return [whole] if whole.exists() and not pair[1].exists() else pair


def read_tokenizer(folder: epath.Path) -> tuple[bpe.Tokenizer, epath.Path]:
  """Returns the tokenizer, and the file that identifies it."""
  path = tokenizer_files(folder)[-1]
  return bpe.load(path), path


def pack(folder: epath.PathLike, output: epath.PathLike) -> None:
  """Converts a folder into one file of weights and one of the tokenizer.

  Args:
    folder: in diffusers' layout.
    output: a folder for WEIGHTS and TOKENIZER, made where there is none.
      float16 stays float16, all else is float32.

  Raises:
    UserError: about files that are missing, or do not convert.
  """
  folder, output = (epath.Path(p).expanduser() for p in (folder, output))
  tokenizer, _ = read_tokenizer(folder)
  variables, about = from_folder(folder)
  about["sources"] = {
    str(pathlib.PurePath(path).relative_to(folder)): files.sha256(path)
    for path in files_of(folder)
  }
  output.mkdir(parents=True, exist_ok=True)
  with replace(output, TOKENIZER) as temporary:
    temporary.write_text(tokenizer.bpe.to_str())
  files.save_params(output / WEIGHTS, variables, about, dtype=None)


def wanted(names: Sequence[str], *, unet: bool = True) -> list[str]:
  """Returns the files of a folder that are read, among all that it has.

  Of each network, it is one file of weights, or an index.
  """
  chosen = [f"{part}/{name}" for part, name in CONFIGS.items()]
  chosen += [f"tokenizer/{n}" for n in (*_PADS, *sum(bpe.FORMS, ()))]
  if f"{SECOND}/{CONFIGS[SECOND]}" in names:
    chosen += [INDEX, *(f"{TOKENIZERS[1]}/{name}" for name in _PADS)]
  parts = [part for part in PARTS if unet or part != "unet"]
  weights = {part: weights_name(below(names, part)) for part in parts}
  chosen += [f"{part}/{name}" for part, name in weights.items() if name]
  return [name for name in chosen if name in {*names}]


wanted_without_unet = partial(wanted, unet=False)


def _pad_token(folder: epath.Path) -> str:
  """Returns the token that fills prompts up, of a tokenizer's folder."""
  for name in _PADS:
    path = folder / name
    token = read_json(path, dict).get("pad_token") if path.exists() else None
    if token:
      return token["content"] if isinstance(token, Mapping) else token
  return END


def make_models(
  model: Mapping[str, Mapping[str, Any]],
  dtype: str = "float32",
  vae_dtype: str = "float32",
) -> dict[str, nn.Module]:
  """Builds the modules of a description's "model".

  Args:
    model: the fields of each.
    dtype: of the activations of UNet and text encoders.
    vae_dtype: of those of the autoencoder.

  Returns:
    "unet", "vae" and "text", and "text_2" of XL.
  """
  return {
    part: _MODULES[part](
      dtype=jnp.dtype(vae_dtype if part == "vae" else dtype),
      **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()},
    )
    for part, fields in model.items()
  }


_MODULES = {
  "unet": UNet,
  "vae": Autoencoder,
  "text": TextEncoder,
  "text_2": TextEncoder,
}


def shapes(model: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the shapes of each network's variables, as `jax.eval_shape`."""
  return {
    part: jax.eval_shape(module.init, jax.random.key(0), *inputs(module))
    for part, module in make_models(model).items()
  }


def inputs(module: nn.Module) -> list[jax.ShapeDtypeStruct]:
  """Returns the shapes of the smallest inputs of one of the modules."""
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  numbers = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  if isinstance(module, TextEncoder):
    return [numbers(1, module.context_length)]
  side = 2 ** (len(module.widths) - 1)
  image = array(1, side, side, module.in_channels)
  if isinstance(module, Autoencoder):
    return [image]
  given = [image, numbers(1), array(1, 1, module.context_dim)]
  if module.pooled_dim:
    given += [array(1, module.pooled_dim), array(1, 6)]
  return given


def _rules(part: str, about: Mapping[str, Any]) -> list[Rule]:
  if part == "unet":
    return unet_rules(linear_projection=about["linear_projection"])
  if part == "vae":
    return vae_rules()
  return clip_weights.RULES  # named as CLIP's by Hugging Face
