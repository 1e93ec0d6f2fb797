"""Names of the released CLIP weights, of OpenAI and of other collections.

Every layout is first brought to OpenAI's names and axes, so that sizes are
found and weights are converted in one place; messages speak of those names.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.convert import clip_names
from synthjax.convert.clip_sizes import POSITIONS, image_fields, text_fields
from synthjax.convert.rules import (
  Rule,
  batch_norm,
  conv,
  convert,
  dense,
  linear,
  norm,
  restore,
)
from synthjax.errors import UserError, unknown_names
from synthjax.models import clip


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

# Of OpenAI's names.
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

# To OpenAI's names, and back. open_clip kept them.
LAYOUTS = {
  "openai": (dict, dict),
  "open_clip": (dict, dict),
  "huggingface": (clip_names.from_huggingface, clip_names.to_huggingface),
  "huggingface_flax": (
    clip_names.from_huggingface_flax,
    clip_names.to_huggingface_flax,
  ),
  "timm": (clip_names.from_timm, clip_names.to_timm),
}

# What the archives hold beside the weights.
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
  """Converts a released CLIP of any of the LAYOUTS.

  Two things that weights do not show must be as in OpenAI's models: QuickGELU
  (some models of open_clip have the exact GELU, Hugging Face's `hidden_act`),
  and a text that is read at its largest token. With an `eos_token_id` other
  than 2, Hugging Face reads at the first token of that id: the same place
  where the end of text is the largest id, as in OpenAI's vocabulary.

  Args:
    weights: arrays by their names in OpenAI's archive (also below
      "state_dict", and with "module." in front), in the state dict of Hugging
      Face's CLIPModel, in the nested or flat parameters of its FlaxCLIPModel,
      or in timm's resnet50_clip; or an image tower of OpenAI's names alone.
    vision_heads: of attention; None is the rule of every CLIP of OpenAI, one
      for 64 numbers of the width (of 32 times the width in a ResNet's
      pooling). The shapes do not show it.
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
  """Returns variables of `from_released` under released names.

  The counts of batches that PyTorch's BatchNorm keeps are left out; its
  `load_state_dict` does without them. Nor do released names hold the numbers
  of heads: where they break OpenAI's rule, `from_released` must be told.

  Args:
    variables: of a CLIP, or of an image tower.
    description: as `from_released` returns it.
    layout: one of LAYOUTS. Those of Hugging Face have no ResNet, and timm's
      has nothing but the image tower of one.

  Raises:
    UserError: about a layout that is unknown or has no such model.
  """
  if layout not in LAYOUTS:
    raise unknown_names("layout of CLIP weights", [layout], LAYOUTS)
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
  """Returns what is a weight under OpenAI's names, whatever the layout."""
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
  """Tells the layout by how the names of its weights begin."""
  starts = {
    "huggingface_flax": ("vision_model/", "text_model/"),
    "huggingface": ("vision_model.", "text_model."),
    "timm": ("stem.", "stages."),
  }
  for layout, start in starts.items():
    if any(name.startswith(start) for name in weights):
      return layout
  return "openai"
