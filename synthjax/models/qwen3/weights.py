"""Reads Qwen3 in Hugging Face's layout, as far as an encoder of text needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.weights.rules import Rule, linear, numbers_in

_LAYER = "model.layers.{i}", "params/layers_{i}"
RULES = [
  Rule("model.embed_tokens.weight", "params/embed_tokens/embedding"),
  *(
    Rule(f"{_LAYER[0]}.{name}.weight", f"{_LAYER[1]}/{name}/scale")
    for name in ("input_layernorm", "post_attention_layernorm")
  ),
  *(
    Rule(
      f"{_LAYER[0]}.self_attn.{x}_norm.weight",
      f"{_LAYER[1]}/self_attn_{x}_norm/scale",
    )
    for x in "qk"
  ),
  *(
    Rule(
      f"{_LAYER[0]}.{inner}.{name}_proj.weight",
      f"{_LAYER[1]}/{inner}_{name}_proj/kernel",
      linear,
    )
    for inner, names in (
      ("self_attn", ("q", "k", "v", "o")),
      ("mlp", ("gate", "up", "down")),
    )
    for name in names
  ),
]

NEEDED = (
  "hidden_size",
  "intermediate_size",
  "num_attention_heads",
  "num_hidden_layers",
  "num_key_value_heads",
  "vocab_size",
)
# The supported values of fields, where they are given.
FIXED = {
  "attention_bias": (False,),
  "hidden_act": ("silu",),
  "model_type": ("qwen3",),
  "rope_scaling": (None,),
  "use_sliding_window": (False,),
}


def fields(
  settings: Mapping[str, Any], taps: Sequence[int]
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of `model.TextEncoder`, and their problems.

  Args:
    settings: a config.json that has NEEDED.
    taps: the layers behind which tokens are read.
  """
  width, heads = settings["hidden_size"], settings["num_attention_heads"]
  rope = settings.get("rope_parameters") or {}
  problems = []
  if rope.get("rope_type", "default") != "default":
    problems.append(f"rope_type={rope['rope_type']!r}, supported: 'default'")
  if settings["num_hidden_layers"] <= max(taps):  # the last has another norm
    problems.append(
      f"num_hidden_layers={settings['num_hidden_layers']}, but layer "
      f"{max(taps)} is read, and further ones are needed"
    )
  if heads % settings["num_key_value_heads"]:
    problems.append(
      f"num_attention_heads={heads} does not split over "
      f"num_key_value_heads={settings['num_key_value_heads']}"
    )
  return {
    "vocab_size": settings["vocab_size"],
    "width": width,
    "heads": heads,
    "key_heads": settings["num_key_value_heads"],
    "head_dim": settings.get("head_dim") or width // heads,
    "mlp_width": settings["intermediate_size"],
    "taps": list(taps),
    # transformers 5 writes it into rope_parameters.
    "theta": rope.get("rope_theta") or settings.get("rope_theta", 10_000.0),
    "epsilon": settings.get("rms_norm_eps", 1e-6),
  }, problems


def used(
  weights: Mapping[str, np.ndarray], taps: Sequence[int]
) -> dict[str, np.ndarray]:
  """Returns the weights without the layers behind the last that is read."""
  layers = numbers_in(weights, r"model\.layers\.(\d+)\.")
  behind = {f"model.layers.{i}." for (i,) in layers if i >= max(taps)}
  others = (*behind, "model.norm.weight", "lm_head.weight")
  return {k: w for k, w in weights.items() if not k.startswith(others)}
