"""The names of Stable Diffusion's weights: rules, and those of other times."""

import re
from collections.abc import Mapping

import numpy as np

from synthjax.models.clip import weight_names as clip_names
from synthjax.weights.rules import (
  Layout,
  Rule,
  conv,
  dense,
  linear,
  norm,
  pointwise2d,
)

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
  block = (
    f"{name}.transformer_blocks.{{b}}",
    f"{path}/transformer_blocks_{{b}}",
  )
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
      matrices in the released weights, as since 2.x.
  """
  projection = linear if linear_projection else pointwise2d
  root = "params/"
  rules = [
    *dense("conv_in", "params/conv_in", conv),
    *dense("conv_out", "params/conv_out", conv),
    *norm("conv_norm_out", "params/conv_norm_out"),
    *dense("time_embedding.linear_{i}", "params/time_embedding_linear_{i}"),
    *dense("add_embedding.linear_{i}", "params/add_embedding_linear_{i}"),
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


_TEXT, _PROJECTION = "text_model.", "text_projection."


def openai_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns a text tower's weights under OpenAI's names.

  Recent versions of transformers write them without "text_model." in front.
  """
  named = {
    name if name.startswith((_TEXT, _PROJECTION)) else _TEXT + name: weight
    for name, weight in weights.items()
    if not name.endswith("position_ids")  # numbers, and no weights
  }
  return clip_names.from_huggingface(named)
