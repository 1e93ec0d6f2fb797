"""Converts released CLIPs, of OpenAI and of other collections.

Weights of every layout first get OpenAI's names and axes (`weight_names`), so
that there is one place that converts. Messages use these names.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.models.clip import fields, weight_names
from synthjax.models.clip import model as clip
from synthjax.models.clip.fields import POSITIONS
from synthjax.runtime.errors import UserError
from synthjax.weights.rules import (
  Rule,
  batch_norm,
  check_layout,
  conv,
  convert,
  dense,
  linear,
  norm,
  restore,
)

# --- the rules of OpenAI's names ---------------------------------------------


def _block(tower: str) -> list[Rule]:
  """Returns the rules of a transformer's block."""
  name = f"{tower}transformer.resblocks.{{i}}"
  path = f"params/{tower}transformer.resblocks_{{i}}".replace(".", "/")
  attn = f"{path}/attn/in_proj"
  return [
    Rule(f"{name}.attn.in_proj_weight", f"{attn}/kernel", linear),
    Rule(f"{name}.attn.in_proj_bias", f"{attn}/bias"),
    *dense(f"{name}.attn.out_proj", f"{path}/attn/out_proj"),
    *norm(f"{name}.ln_{{j}}", f"{path}/ln_{{j}}"),
    *dense(f"{name}.mlp.c_fc", f"{path}/mlp/c_fc"),
    *dense(f"{name}.mlp.c_proj", f"{path}/mlp/c_proj"),
  ]


def _attnpool(x: str) -> list[Rule]:
  """Returns the rules of a projection of the ResNet's pooling."""
  return dense(f"visual.attnpool.{x}_proj", f"params/visual/attnpool/{x}_proj")


_LAYER = "visual.layer{i}.{j}", "visual/layer{i}_{j}"
_VISUAL = "params/visual"

RULES = [
  Rule("token_embedding.weight", "params/token_embedding/embedding"),
  Rule(POSITIONS, f"params/{POSITIONS}"),
  *_block(""),
  *norm("ln_final", "params/ln_final"),
  Rule("text_projection", "params/text_projection"),
  Rule("logit_scale", "params/logit_scale"),
  # Both image towers have a "conv1".
  Rule("visual.conv{i}.weight", f"{_VISUAL}/conv{{i}}/kernel", conv),
  Rule("visual.class_embedding", f"{_VISUAL}/class_embedding"),
  Rule(f"visual.{POSITIONS}", f"{_VISUAL}/{POSITIONS}"),
  *norm("visual.ln_pre", f"{_VISUAL}/ln_pre"),
  *_block("visual."),
  *norm("visual.ln_post", f"{_VISUAL}/ln_post"),
  Rule("visual.proj", f"{_VISUAL}/proj"),
  *batch_norm("visual.bn{i}", "visual/bn{i}"),
  Rule(
    f"{_LAYER[0]}.conv{{k}}.weight",
    f"params/{_LAYER[1]}/conv{{k}}/kernel",
    conv,
  ),
  *batch_norm(f"{_LAYER[0]}.bn{{k}}", f"{_LAYER[1]}/bn{{k}}"),
  Rule(
    f"{_LAYER[0]}.downsample.0.weight",
    f"params/{_LAYER[1]}/downsample_0/kernel",
    conv,
  ),
  *batch_norm(f"{_LAYER[0]}.downsample.1", f"{_LAYER[1]}/downsample_1"),
  Rule(f"visual.attnpool.{POSITIONS}", f"{_VISUAL}/attnpool/{POSITIONS}"),
  *(rule for x in "qkvc" for rule in _attnpool(x)),
]

# Functions to OpenAI's names and back. open_clip kept them.
LAYOUTS = {
  "openai": (dict, dict),
  "open_clip": (dict, dict),
  "huggingface": (weight_names.from_huggingface, weight_names.to_huggingface),
  "huggingface_flax": (
    weight_names.from_huggingface_flax,
    weight_names.to_huggingface_flax,
  ),
  "timm": (weight_names.from_timm, weight_names.to_timm),
}

_MARK = "input_resolution"  # an entry of OpenAI's archives, and no others
# Entries of the archives that are no weights.
_DROPPED = re.compile(
  r"input_resolution|context_length|vocab_size|attn_mask"
  r"|.*\bnum_batches_tracked|.*\bposition_ids"
)


def from_released(
  weights: Mapping[str, Any],
  *,
  settings: Mapping[str, Any] | None = None,
  model: str | None = None,
  vision_heads: int | None = None,
  text_heads: int | None = None,
  activation: str | None = None,
) -> tuple[dict, dict[str, Any]]:
  """Converts a released CLIP in any of the LAYOUTS.

  Weights show neither the heads nor the activation. They are read from the
  arguments, then from the config, then from the network that they are said to
  be; at last by OpenAI's rule, where only OpenAI's archives (or timm's network)
  have such entries. Otherwise they are asked for, and never guessed.

  Nor do weights show the token whose feature is read, which must have the
  largest id. With an `eos_token_id` other than 2, Hugging Face reads at the
  first token of that id, which is the same place wherever the end of text has
  the largest id, as in OpenAI's vocabulary.

  Args:
    weights: arrays by their names in OpenAI's archive (also below
      "state_dict", and with "module." in front), in the state dict of Hugging
      Face's CLIPModel, in the nested or flat parameters of its FlaxCLIPModel,
      or in timm's resnet50_clip; or an image tower of OpenAI's names alone.
    settings: of the config.json beside them; see `fields.read_config`.
    model: a key of `clip.MODELS` that they are said to be; it counts where
      their sizes are its own.
    vision_heads: of attention (in a ResNet, of its pooling).
    text_heads: likewise.
    activation: a key of `vit.ACTIVATIONS`, of the transformers.

  Returns:
    Flax variables, of the dtype of `weights`, and a description for
    `files.save_params`. Its "model" holds the fields of `clip.CLIP`. Without a
    text tower, "kind" is "clip_visual", the variables are those of the image
    tower alone, and "model" holds the fields of
    `clip.IMAGE_TOWERS[description["image_tower"]]`.

  Raises:
    UserError: when sizes, heads or activation cannot be found, about a config
      of another network, or listing every weight that is unused, missing or
      misshapen.
  """
  weights, by_rule = _openai_names(weights)
  sizes, alone = fields.image_fields(weights), True
  if not all(name.startswith("visual.") for name in weights):
    sizes, alone = sizes | fields.text_fields(weights), False
  stated = fields.read_config(settings) if settings else {}
  fields.check_sizes(sizes, stated)
  given = {
    "vision_heads": vision_heads,
    "text_heads": text_heads,
    "activation": activation,
  }
  sources = [given, stated, fields.known_fields(sizes, model)]
  if by_rule:
    sources.append(fields.openai_rule(sizes))
  found = sizes | fields.hidden_fields(sizes, sources)
  size = found["image_size"]
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  rng = jax.random.key(0)
  if alone:
    tower = found.pop("image_tower")
    found = {k.removeprefix("vision_"): value for k, value in found.items()}
    like = jax.eval_shape(clip.IMAGE_TOWERS[tower](**found).init, rng, images)
    like = {kind: {"visual": tree} for kind, tree in like.items()}
    variables = convert(weights, RULES, like)
    variables = {kind: tree["visual"] for kind, tree in variables.items()}
    about = {"kind": "clip_visual", "image_tower": tower, "model": found}
    return variables, about | {"image_size": size}

  tokens = jax.ShapeDtypeStruct((1, found["context_length"]), jnp.int32)
  like = jax.eval_shape(clip.CLIP(**found).init, rng, images, tokens)
  variables = convert(weights, RULES, like)
  return variables, {"kind": "clip", "model": found, "image_size": size}


def to_released(
  variables: Mapping, description: Mapping[str, Any], layout: str = "openai"
) -> dict[str, np.ndarray]:
  """Returns variables under the released names of one of LAYOUTS.

  The numbers of batches that PyTorch's BatchNorm counts are left out; its
  `load_state_dict` does without them.

  Args:
    variables: of a CLIP, or of an image tower.
    description: as `from_released` returns it.
    layout: Hugging Face's have no ResNet, and timm's has only the image tower
      of one.

  Raises:
    UserError: about a layout that is unknown or has no such model.
  """
  check_layout("CLIP", layout, LAYOUTS)
  kind = description["kind"]
  tower = description.get("image_tower") or description["model"].get(
    "image_tower", "vit"
  )
  if layout.startswith("huggingface") and tower != "vit":
    raise UserError(
      f"The layout {layout!r} has no CLIP with the image tower {tower!r}, only "
      "with 'vit'; choose 'openai' or 'open_clip'."
    )
  if layout == "timm" and (kind, tower) != ("clip_visual", "resnet"):
    raise UserError(
      "The layout 'timm' holds the image tower 'resnet' alone, but found a "
      f"{kind!r} with {tower!r}: choose 'openai', or give the variables below "
      "'visual' and the description of a 'clip_visual'."
    )
  if kind == "clip_visual":
    variables = {key: {"visual": tree} for key, tree in variables.items()}
  return LAYOUTS[layout][1](restore(variables, RULES))


def _openai_names(
  weights: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], bool]:
  """Returns the weights of any layout under OpenAI's names.

  The flag is whether only networks of OpenAI's rule come in such a file.
  """
  weights = weights.get("state_dict", weights)
  weights = traverse_util.flatten_dict(dict(weights), sep="/")
  weights = {
    name.removeprefix("module."): weight for name, weight in weights.items()
  }
  layout = _layout(weights)
  by_rule = _MARK in weights or layout == "timm"
  weights = {k: v for k, v in weights.items() if not _DROPPED.fullmatch(k)}
  weights = LAYOUTS[layout][0](weights)
  if "conv1.weight" in weights:  # an image tower alone
    weights = {f"visual.{name}": weight for name, weight in weights.items()}
  if np.size(weights.get("logit_scale", ())) == 1:  # some files hold [1]
    scale = np.reshape(weights["logit_scale"], ())
    weights = weights | {"logit_scale": scale}
  return weights, by_rule


def _layout(weights: Mapping[str, Any]) -> str:
  """Returns the layout, which the beginnings of the names show."""
  starts = {
    "huggingface_flax": ("vision_model/", "text_model/"),
    "huggingface": ("vision_model.", "text_model."),
    "timm": ("stem.", "stages."),
  }
  for layout, start in starts.items():
    if any(name.startswith(start) for name in weights):
      return layout
  return "openai"
