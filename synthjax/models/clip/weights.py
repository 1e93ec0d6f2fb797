"""Converts released CLIPs, of OpenAI and of other collections.

Weights of every layout first get OpenAI's names and axes (`weight_names`), so
that there is one place that reads sizes and converts. Messages use these names.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.models.clip import model as clip
from synthjax.models.clip import weight_names
from synthjax.models.clip.resnet import REDUCTION
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
  numbers_in,
  restore,
)

# --- the sizes of a CLIP, from the shapes of its weights (OpenAI's names) ----

POSITIONS = "positional_embedding"
HEAD = 64  # numbers that a head reads, in every CLIP of OpenAI


def image_fields(
  weights: Mapping[str, np.ndarray], heads: int | None
) -> tuple[str, dict[str, Any]]:
  """Returns the kind of the image tower and its fields.

  Args:
    weights: by OpenAI's names.
    heads: None is OpenAI's rule.

  Raises:
    UserError: when the weights do not show the sizes.
  """
  if any(name.startswith("visual.layer") for name in weights):
    tower, pooled = "resnet", "visual.attnpool."
    stages = [f"visual.layer{i}." for i in (1, 2, 3, 4)]
    (width, *_), (places, _), (embed_dim, _), *_ = _shapes(
      weights,
      {
        "visual.layer1.0.conv1.weight": 4,
        f"{pooled}{POSITIONS}": 2,
        f"{pooled}c_proj.weight": 2,
      }
      | {f"{stage}0.conv1.weight": 4 for stage in stages[1:]},
    )
    layers = [_count(weights, stage) for stage in stages]
    patch, step, read = None, REDUCTION, REDUCTION * width
  else:
    tower, blocks = "vit", "visual.transformer.resblocks."
    (width, _, _, patch), (places, _), (_, embed_dim), *_ = _shapes(
      weights,
      {
        "visual.conv1.weight": 4,
        f"visual.{POSITIONS}": 2,
        "visual.proj": 2,
        f"{blocks}0.ln_1.weight": 1,
      },
    )
    layers, step, read = _count(weights, blocks), patch, width
  side = round((places - 1) ** 0.5)
  if side**2 != places - 1:
    raise UserError(
      f"This CLIP's image tower has {places} positions, which is not one more "
      "than a square. Only weights of square images can be converted."
    )
  return tower, {
    "embed_dim": embed_dim,
    "image_size": step * side,
    "patch_size": patch,
    "width": width,
    "layers": layers,
    "heads": heads or _heads(read, "vision_heads"),
  }


def text_fields(
  weights: Mapping[str, np.ndarray], heads: int | None
) -> dict[str, Any]:
  """Returns the fields of CLIP that describe its text tower.

  Arguments and errors are those of `image_fields`.
  """
  blocks = "transformer.resblocks."
  (vocab_size, width), (length, _), *_ = _shapes(
    weights,
    {
      "token_embedding.weight": 2,
      POSITIONS: 2,
      f"{blocks}0.ln_1.weight": 1,
    },
  )
  return {
    "context_length": length,
    "vocab_size": vocab_size,
    "text_width": width,
    "text_layers": _count(weights, blocks),
    "text_heads": heads or _heads(width, "text_heads"),
  }


def _shapes(
  weights: Mapping[str, np.ndarray], ranks: Mapping[str, int]
) -> list[tuple[int, ...]]:
  """Returns the shapes of the weights that sizes are read from.

  Args:
    weights: by OpenAI's names.
    ranks: the number of axes that each of the weights must have.
  """
  lacking = [
    f"{name} with {rank} axes"
    for name, rank in ranks.items()
    if name not in weights or np.ndim(weights[name]) != rank
  ]
  if lacking:
    some = ", ".join(
      f"{name} {np.shape(weights[name])}" for name in sorted(weights)[:6]
    )
    raise UserError(
      "These are not the weights of a CLIP. Its sizes are read from "
      f"{', '.join(ranks)} (OpenAI's names, also of other layouts); there is "
      f"no {', no '.join(lacking)}. Found {len(weights)} weights, such as "
      f"{some or 'none'}. Give the whole state dict of a CLIP, or of the image "
      "tower of one."
    )
  return [np.shape(weights[name]) for name in ranks]


def _count(weights: Mapping[str, np.ndarray], prefix: str) -> int:
  """Counts the layers whose names begin with `prefix` and a number."""
  return 1 + max(numbers_in(weights, re.escape(prefix) + r"(\d+)\."))[0]


def _heads(width: int, field: str) -> int:
  """Returns the heads of OpenAI's rule."""
  if width % HEAD:
    raise UserError(
      f"This CLIP attends with a width of {width}, which does not split into "
      f"heads of {HEAD}, as in OpenAI's models. Pass {field}=... to "
      "from_released."
    )
  return width // HEAD


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

# Entries of the archives that are no weights.
_DROPPED = re.compile(
  r"input_resolution|context_length|vocab_size|attn_mask"
  r"|.*\bnum_batches_tracked|.*\bposition_ids"
)


def from_released(
  weights: Mapping[str, Any],
  *,
  vision_heads: int | None = None,
  text_heads: int | None = None,
) -> tuple[dict, dict[str, Any]]:
  """Converts a released CLIP in any of the LAYOUTS.

  Weights do not show the activation, which must be QuickGELU as in OpenAI's
  models (some of open_clip have the exact GELU), nor the token whose feature is
  read, which must have the largest id. With an `eos_token_id` other than 2,
  Hugging Face reads at the first token of that id, which is the same place
  wherever the end of text has the largest id, as in OpenAI's vocabulary.

  Args:
    weights: arrays by their names in OpenAI's archive (also below
      "state_dict", and with "module." in front), in the state dict of Hugging
      Face's CLIPModel, in the nested or flat parameters of its FlaxCLIPModel,
      or in timm's resnet50_clip; or an image tower of OpenAI's names alone.
    vision_heads: of attention, which the shapes do not show; None is the rule
      of every CLIP of OpenAI, one for 64 numbers of the width (of 32 times the
      width in a ResNet's pooling).
    text_heads: likewise.

  Returns:
    Flax variables, of the dtype of `weights`, and a description for
    `files.save_params`. Its "model" holds the fields of `clip.CLIP`. Without a
    text tower, "kind" is "clip_visual", the variables are those of the image
    tower alone, and "model" holds the fields of
    `clip.IMAGE_TOWERS[description["image_tower"]]`.

  Raises:
    UserError: when the sizes cannot be found, or listing every weight that is
      unused, missing or misshapen.
  """
  weights = _openai_names(weights)
  tower, fields = image_fields(weights, vision_heads)
  size = fields["image_size"]
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  rng = jax.random.key(0)
  if all(name.startswith("visual.") for name in weights):
    like = jax.eval_shape(clip.IMAGE_TOWERS[tower](**fields).init, rng, images)
    like = {kind: {"visual": tree} for kind, tree in like.items()}
    variables = convert(weights, RULES, like)
    variables = {kind: tree["visual"] for kind, tree in variables.items()}
    about = {"kind": "clip_visual", "image_tower": tower, "model": fields}
    return variables, about | {"image_size": size}

  model = {
    f"vision_{key}" if key in ("width", "layers", "heads") else key: value
    for key, value in fields.items()
  }
  model |= {"image_tower": tower} | text_fields(weights, text_heads)
  tokens = jax.ShapeDtypeStruct((1, model["context_length"]), jnp.int32)
  like = jax.eval_shape(clip.CLIP(**model).init, rng, images, tokens)
  variables = convert(weights, RULES, like)
  return variables, {"kind": "clip", "model": model, "image_size": size}


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


def _openai_names(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the weights of any layout under OpenAI's names."""
  weights = weights.get("state_dict", weights)
  weights = traverse_util.flatten_dict(dict(weights), sep="/")
  weights = {
    name.removeprefix("module."): weight for name, weight in weights.items()
  }
  weights = {k: v for k, v in weights.items() if not _DROPPED.fullmatch(k)}
  weights = LAYOUTS[_layout(weights)][0](weights)
  if "conv1.weight" in weights:  # an image tower alone
    weights = {f"visual.{name}": weight for name, weight in weights.items()}
  if np.size(weights.get("logit_scale", ())) == 1:  # some files hold [1]
    scale = np.reshape(weights["logit_scale"], ())
    weights = weights | {"logit_scale": scale}
  return weights


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
