"""Names of Stable Diffusion's weights in diffusers, and back."""

import re
from collections.abc import Mapping

import numpy as np

from synthjax.models.clip import weight_names
from synthjax.models.clip import weights as clip_weights
from synthjax.weights.rules import (
  Layout,
  Rule,
  conv,
  dense,
  linear,
  norm,
  pointwise2d,
)

# Of old files: convolutions over one place, where newer ones have matrices.
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


# (their place, ours) of what is numbered within a network.
_PLACES = {
  "blocks": ("{way}_blocks.{i}.{what}.{j}", "{way}_blocks_{i}_{what}_{j}"),
  "middle": ("mid_block.{what}.{j}", "mid_block_{what}_{j}"),
}


def _at(what: str, torch: str = "", flax: str = "") -> list[tuple[str, str]]:
  """Returns where `what` lies, as names and paths that rules take."""
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
    for theirs, ours in _ATTENTION:
      rules += dense(f"{name}.{theirs}", f"{path}/{ours}", _matrix)
  return rules


_ATTENTION = [
  ("to_q", "to_q"),
  ("to_k", "to_k"),
  ("to_v", "to_v"),
  ("to_out.0", "to_out_0"),
]
# The autoencoder's, as diffusers wrote it until 2023 and as it does now.
_OLD = {
  "query": "to_q",
  "key": "to_k",
  "value": "to_v",
  "proj_attn": "to_out.0",
}
_OLD_NAME = re.compile(
  rf"(.+\.attentions\.\d+\.)({'|'.join(_OLD)})(\.(?:weight|bias))"
)
_NEW_NAME = re.compile(
  r"(.+\.attentions\.\d+\.)(to_[qkv]|to_out\.0)(\.(?:weight|bias))"
)


def new_vae_names(
  weights: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns the autoencoder's weights under the newer names of attention."""
  return {
    _OLD_NAME.sub(lambda m: m[1] + _OLD[m[2]] + m[3], name): weight
    for name, weight in weights.items()
  }


def old_vae_names(
  weights: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns the autoencoder's weights under the older names of attention."""
  old = {new: old for old, new in _OLD.items()}
  return {
    _NEW_NAME.sub(lambda m: m[1] + old[m[2]] + m[3], name): weight
    for name, weight in weights.items()
  }


# The text tower has the names that CLIP's has in Hugging Face's collection, and
# is converted as that is.
TEXT_RULES = clip_weights.RULES
_TEXT = "text_model."


def openai_names(
  weights: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns the text tower's weights under OpenAI's names.

  Recent versions of transformers write them without "text_model." in front.
  """
  named = {
    name if name.startswith(_TEXT) else _TEXT + name: weight
    for name, weight in weights.items()
    if not name.endswith("position_ids")  # numbers, and no weights
  }
  return weight_names.from_huggingface(named)


def huggingface_names(
  weights: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns weights of OpenAI's names as a text tower of Hugging Face."""
  return weight_names.to_huggingface(weights)
