"""Converts Stable Diffusion 1.x and 2.x, and packs a folder into two files.

A folder in diffusers' layout holds `unet/`, `vae/`, `text_encoder/`,
`tokenizer/` and `scheduler/`, each with a configuration, and the first three
with weights. `folder` reads the configurations.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.models.clip import weight_names as clip_names
from synthjax.models.clip import weights as clip_weights
from synthjax.models.stable_diffusion.folder import describe
from synthjax.models.stable_diffusion.text import TextEncoder
from synthjax.models.stable_diffusion.unet import UNet
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.tokenizers import bpe
from synthjax.weights import files, read
from synthjax.weights.rules import (
  Layout,
  Rule,
  check_layout,
  conv,
  convert,
  dense,
  linear,
  norm,
  pointwise2d,
  restore,
)
from synthjax.weights.snapshots import below, weights_name

KIND = "stable_diffusion"
# The files that `pack` makes.
WEIGHTS, TOKENIZER = "stable_diffusion.safetensors", "tokenizer.json"
# The second writes the autoencoder's attention as diffusers did until 2023.
LAYOUTS = ("diffusers", "diffusers_old")
# Folders of weights, and the networks' names here.
PARTS = {"unet": "unet", "vae": "vae", "text_encoder": "text"}
CONFIGS = {
  "unet": "config.json",
  "vae": "config.json",
  "text_encoder": "config.json",
  "scheduler": "scheduler_config.json",
}
END = "<|endoftext|>"  # pads the prompts of 1.x
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
    UserError: listing the missing or unsupported fields of configurations, or
      every weight that is unused, missing or misshapen, of all networks.
  """
  about = {"kind": KIND, "pad_token": pad_token} | describe(configs)
  like, rules = shapes(about["model"]), _rules(about)
  named = {
    "unet": dict(weights["unet"]),
    "vae": new_vae_names(weights["vae"]),
    "text": openai_names(weights["text_encoder"]),
  }
  params, problems = {}, []
  for folder, part in PARTS.items():
    try:
      converted = convert(named[part], rules[part], like[part])
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
    released["vae"] = old_vae_names(released["vae"])
  return released | {
    "text_encoder": clip_names.to_huggingface(released["text_encoder"])
  }


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
  paths = {part: _weights_file(folder / part) for part in PARTS}
  for part, path in paths.items():
    if path is None:
      problems.append(f"the weights in {part}/")
  for part, name in CONFIGS.items():
    if (folder / part / name).exists():
      configs[part] = read_json(folder / part / name, dict)
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
  paths = [_weights_file(folder / part) for part in PARTS]
  paths += [folder / part / name for part, name in CONFIGS.items()]
  paths += tokenizer_files(folder)
  paths += [folder / "tokenizer" / name for name in _PADS]
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


def wanted(names: Sequence[str]) -> list[str]:
  """Returns the files of a folder that are read, among all that it has.

  Of each network, it is one file of weights, or an index.
  """
  chosen = [f"{part}/{name}" for part, name in CONFIGS.items()]
  chosen += [f"tokenizer/{n}" for n in (*_PADS, *sum(bpe.FORMS, ()))]
  weights = {part: weights_name(below(names, part)) for part in PARTS}
  chosen += [f"{part}/{name}" for part, name in weights.items() if name]
  return [name for name in chosen if name in {*names}]


def _weights_file(folder: epath.Path) -> epath.Path | None:
  """Returns the weights of one network's folder, or their index."""
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  name = weights_name(names)
  return folder / name if name else None


def _pad_token(folder: epath.Path) -> str:
  """Returns the token that fills prompts up."""
  for name in _PADS:
    path = folder / "tokenizer" / name
    token = read_json(path, dict).get("pad_token") if path.exists() else None
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
  return {
    "unet": unet_rules(linear_projection=about["linear_projection"]),
    "vae": vae_rules(),
    "text": clip_weights.RULES,  # named as CLIP's by Hugging Face
  }


# --- the rules of the UNet and the autoencoder --------------------------------

# Old files have convolutions over one place, where newer ones have matrices.
_matrix = Layout(lambda w: w.reshape(w.shape[:2]).T, linear.to_torch)


def _resnet(name: str, path: str) -> list[Rule]:
  return [
    *norm(f"{name}.norm{{k}}", f"{path}/norm{{k}}"),
    *dense(f"{name}.conv{{k}}", f"{path}/conv{{k}}", conv),
    *dense(f"{name}.time_emb_proj", f"{path}/time_emb_proj"),
    *dense(f"{name}.conv_shortcut", f"{path}/conv_shortcut", pointwise2d),
  ]


def _transformer(name: str, path: str, projection: Layout) -> list[Rule]:
  block = f"{name}.transformer_blocks.0", f"{path}/transformer_blocks_0"
  attn = f"{block[0]}.attn{{k}}", f"{block[1]}/attn{{k}}"
  return [
    *norm(f"{name}.norm", f"{path}/norm"),
    *dense(f"{name}.proj_in", f"{path}/proj_in", projection),
    *dense(f"{name}.proj_out", f"{path}/proj_out", projection),
    *norm(f"{block[0]}.norm{{k}}", f"{block[1]}/norm{{k}}"),
    *(
      Rule(f"{attn[0]}.to_{x}.weight", f"{attn[1]}/to_{x}/kernel", linear)
      for x in "qkv"
    ),
    *dense(f"{attn[0]}.to_out.0", f"{attn[1]}/to_out_0"),
    *dense(f"{block[0]}.ff.net.0.proj", f"{block[1]}/ff_net_0_proj"),
    *dense(f"{block[0]}.ff.net.2", f"{block[1]}/ff_net_2"),
  ]


# Where numbered layers lie in a network: (in diffusers, here).
_PLACES = {
  "blocks": ("{way}_blocks.{i}.{what}.{j}", "{way}_blocks_{i}_{what}_{j}"),
  "middle": ("mid_block.{what}.{j}", "mid_block_{what}_{j}"),
}


def _at(what: str, torch: str = "", flax: str = "") -> list[tuple[str, str]]:
  """Returns the places of the layers `what`, as names and paths for rules."""
  numbers = dict(i="{i}", j="{j}", what=what)
  return [
    (
      torch + _PLACES[kind][0].format(way=way, **numbers),
      flax + _PLACES[kind][1].format(way=way, **numbers),
    )
    for kind, way in (("blocks", "down"), ("blocks", "up"), ("middle", ""))
  ]


def _samplers(torch: str, flax: str) -> list[Rule]:
  return [
    rule
    for way in ("down", "up")
    for rule in dense(
      f"{torch}{way}_blocks.{{i}}.{way}samplers.0.conv",
      f"{flax}{way}_blocks_{{i}}_{way}samplers_0_conv",
      conv,
    )
  ]


def unet_rules(*, linear_projection: bool) -> list[Rule]:
  """Returns the rules of the UNet.

  Args:
    linear_projection: whether a transformer's `proj_in` and `proj_out` are
      matrices in the released weights, as in 2.x.
  """
  projection = linear if linear_projection else pointwise2d
  root = "params/"
  rules = [
    *dense("conv_in", "params/conv_in", conv),
    *dense("conv_out", "params/conv_out", conv),
    *norm("conv_norm_out", "params/conv_norm_out"),
    *dense("time_embedding.linear_{i}", "params/time_embedding_linear_{i}"),
    *_samplers("", root),
  ]
  for name, path in _at("resnets", "", root):
    rules += _resnet(name, path)
  for name, path in _at("attentions", "", root):
    rules += _transformer(name, path, projection)
  return rules


def vae_rules() -> list[Rule]:
  """Returns the rules of the autoencoder, with the newer names of attention."""
  rules = [
    *dense("quant_conv", "params/quant_conv", pointwise2d),
    *dense("post_quant_conv", "params/post_quant_conv", pointwise2d),
  ]
  for half in ("encoder", "decoder"):
    root = f"params/{half}"
    rules += [
      *dense(f"{half}.conv_in", f"{root}/conv_in", conv),
      *dense(f"{half}.conv_out", f"{root}/conv_out", conv),
      *norm(f"{half}.conv_norm_out", f"{root}/conv_norm_out"),
      *_samplers(f"{half}.", f"{root}/"),
    ]
    for name, path in _at("resnets", f"{half}.", f"{root}/"):
      rules += _resnet(name, path)
    name = f"{half}.mid_block.attentions.0"
    path = f"{root}/mid_block_attentions_0"
    rules += norm(f"{name}.group_norm", f"{path}/group_norm")
    for layer in _ATTENTION.values():
      here = layer.replace(".", "_")
      rules += dense(f"{name}.{layer}", f"{path}/{here}", _matrix)
  return rules


# The autoencoder's attention: diffusers' names until 2023, and those of now.
_ATTENTION = {
  "query": "to_q",
  "key": "to_k",
  "value": "to_v",
  "proj_attn": "to_out.0",
}


def new_vae_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the autoencoder's weights under the newer names of attention."""
  return _renamed(weights, _ATTENTION)


def old_vae_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the autoencoder's weights under the older names of attention."""
  return _renamed(weights, {new: old for old, new in _ATTENTION.items()})


def _renamed(
  weights: Mapping[str, np.ndarray], names: Mapping[str, str]
) -> dict[str, np.ndarray]:
  layers = "|".join(map(re.escape, names))
  pattern = re.compile(rf"(.+\.attentions\.\d+\.)({layers})(\.(?:weight|bias))")
  return {
    pattern.sub(lambda m: m[1] + names[m[2]] + m[3], name): weight
    for name, weight in weights.items()
  }


_TEXT = "text_model."


def openai_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the text tower's weights under OpenAI's names.

  Recent versions of transformers write them without "text_model." in front.
  """
  named = {
    name if name.startswith(_TEXT) else _TEXT + name: weight
    for name, weight in weights.items()
    if not name.endswith("position_ids")  # numbers, and no weights
  }
  return clip_names.from_huggingface(named)
