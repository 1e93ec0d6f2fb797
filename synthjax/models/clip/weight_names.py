"""The names of CLIP's weights in other collections than OpenAI's.

Each layout is two functions, to OpenAI's names and back, for weights ordered
as in PyTorch. A name that is not of the layout stays as it is, so that the
conversion reports it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from synthjax.weights import rules

Weights = Mapping[str, np.ndarray]
# (their name, OpenAI's); "{i}" stands for a number.
Pairs = Sequence[tuple[str, str]]


def _rename(weights: Weights, pairs: Pairs) -> dict[str, np.ndarray]:
  """Returns the weights under the second names of `pairs`, tried in order."""
  renames = [(old, new, lambda weight: weight) for old, new in pairs]
  renamed, unmatched = rules.rename(weights, renames)
  return renamed | {name: weights[name] for name in unmatched}


def _swapped(pairs: Pairs) -> Pairs:
  return [(new, old) for old, new in pairs]


def _layer(old: str, new: str, parts: Sequence[str]) -> Pairs:
  return [(f"{old}.{part}", f"{new}.{part}") for part in parts]


# --- Hugging Face's CLIPModel -----------------------------------------------

_AFFINE = ("weight", "bias")


def _block(theirs: str, openai: str) -> Pairs:
  """Returns the names of a transformer's block, q, k and v being one matrix."""
  return [
    (f"{theirs}.self_attn.in_proj.weight", f"{openai}.attn.in_proj_weight"),
    (f"{theirs}.self_attn.in_proj.bias", f"{openai}.attn.in_proj_bias"),
    *_layer(f"{theirs}.self_attn.out_proj", f"{openai}.attn.out_proj", _AFFINE),
    *_layer(f"{theirs}.layer_norm1", f"{openai}.ln_1", _AFFINE),
    *_layer(f"{theirs}.layer_norm2", f"{openai}.ln_2", _AFFINE),
    *_layer(f"{theirs}.mlp.fc1", f"{openai}.mlp.c_fc", _AFFINE),
    *_layer(f"{theirs}.mlp.fc2", f"{openai}.mlp.c_proj", _AFFINE),
  ]


_VISION, _TEXT = "vision_model", "text_model"
_HUGGINGFACE = [
  (f"{_VISION}.embeddings.patch_embedding.weight", "visual.conv1.weight"),
  (f"{_VISION}.embeddings.class_embedding", "visual.class_embedding"),
  (
    f"{_VISION}.embeddings.position_embedding.weight",
    "visual.positional_embedding",
  ),
  # Misspelt in the release.
  *_layer(f"{_VISION}.pre_layrnorm", "visual.ln_pre", _AFFINE),
  *_block(
    f"{_VISION}.encoder.layers.{{i}}", "visual.transformer.resblocks.{i}"
  ),
  *_layer(f"{_VISION}.post_layernorm", "visual.ln_post", _AFFINE),
  ("visual_projection.weight", "visual.proj"),
  (f"{_TEXT}.embeddings.token_embedding.weight", "token_embedding.weight"),
  (f"{_TEXT}.embeddings.position_embedding.weight", "positional_embedding"),
  *_block(f"{_TEXT}.encoder.layers.{{i}}", "transformer.resblocks.{i}"),
  *_layer(f"{_TEXT}.final_layer_norm", "ln_final", _AFFINE),
  ("text_projection.weight", "text_projection"),
]
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
# Arguments of `rules.join_thirds`: OpenAI's `in_proj` holds all three.
_THIRDS = (
  (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
  ".self_attn.in_proj.",
)


def from_huggingface(weights: Weights) -> dict[str, np.ndarray]:
  """Returns a state dict of CLIPModel under OpenAI's names."""
  joined = rules.join_thirds(weights, *_THIRDS)
  return _rename(_transpose(joined), _HUGGINGFACE)


def to_huggingface(weights: Weights) -> dict[str, np.ndarray]:
  """Returns weights of OpenAI's names as a state dict of CLIPModel."""
  renamed = _transpose(_rename(weights, _swapped(_HUGGINGFACE)))
  return rules.split_thirds(renamed, *_THIRDS)


def _transpose(weights: Weights) -> dict[str, np.ndarray]:
  """Transposes the projections, which OpenAI has as [in, out]."""
  return {
    name: np.transpose(weight) if name in _TRANSPOSED else weight
    for name, weight in weights.items()
  }


# --- Hugging Face's FlaxCLIPModel -------------------------------------------

# Permutations of a kernel's axes, by their number.
_TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}
_TO_FLAX = {2: (1, 0), 4: (2, 3, 1, 0)}
_TABLES = ("token_embedding", "position_embedding")


def from_huggingface_flax(weights: Weights) -> dict[str, np.ndarray]:
  """Returns parameters of FlaxCLIPModel, "a/b/kernel", under OpenAI's names."""
  torch = {}
  for path, weight in weights.items():
    layer, _, kind = path.rpartition("/")
    weight = np.asarray(weight)
    if kind == "kernel" and weight.ndim in _TO_TORCH:
      weight = weight.transpose(_TO_TORCH[weight.ndim])
    if layer and kind in ("kernel", "scale", "embedding"):
      path = f"{layer}/weight"
    torch[path.replace("/", ".")] = weight
  return from_huggingface(torch)


def to_huggingface_flax(weights: Weights) -> dict[str, np.ndarray]:
  """Returns weights of OpenAI's names as "a/b/kernel" of FlaxCLIPModel."""
  flax = {}
  for name, weight in to_huggingface(weights).items():
    layer, _, kind = name.rpartition(".")
    if kind == "weight" and layer.endswith(_TABLES):
      kind = "embedding"
    elif kind == "weight" and weight.ndim == 1:
      kind = "scale"
    elif kind == "weight":
      kind, weight = "kernel", weight.transpose(_TO_FLAX[weight.ndim])
    flax[f"{layer}.{kind}".strip(".").replace(".", "/")] = weight
  return flax


# --- timm's resnet50_clip: an image tower -----------------------------------

_NORM = ("weight", "bias", "running_mean", "running_var")


def _conv_bn(theirs: str, conv: str, bn: str) -> Pairs:
  return [
    (f"{theirs}.conv.weight", f"{conv}.weight"),
    *_layer(f"{theirs}.bn", bn, _NORM),
  ]


def _stage(i: int) -> Pairs:
  """Returns the names of a stage: timm counts from 0, OpenAI from 1."""
  theirs, openai = f"stages.{i}.{{i}}", f"visual.layer{i + 1}.{{i}}"
  return [
    *_conv_bn(f"{theirs}.conv1_1x1", f"{openai}.conv1", f"{openai}.bn1"),
    *_conv_bn(f"{theirs}.conv2_kxk", f"{openai}.conv2", f"{openai}.bn2"),
    *_conv_bn(f"{theirs}.conv3_1x1", f"{openai}.conv3", f"{openai}.bn3"),
    *_conv_bn(
      f"{theirs}.shortcut.conv",
      f"{openai}.downsample.0",
      f"{openai}.downsample.1",
    ),
  ]


_TIMM = [
  *_conv_bn("stem.conv{i}", "visual.conv{i}", "visual.bn{i}"),
  *(pair for i in range(4) for pair in _stage(i)),
  ("head.pos_embed", "visual.attnpool.positional_embedding"),
  *_layer("head.q", "visual.attnpool.q_proj", _AFFINE),
  *_layer("head.k", "visual.attnpool.k_proj", _AFFINE),
  *_layer("head.v", "visual.attnpool.v_proj", _AFFINE),
  *_layer("head.proj", "visual.attnpool.c_proj", _AFFINE),
]


def from_timm(weights: Weights) -> dict[str, np.ndarray]:
  """Returns a state dict of timm's resnet50_clip under OpenAI's names."""
  return _rename(weights, _TIMM)


def to_timm(weights: Weights) -> dict[str, np.ndarray]:
  """Returns an image tower of OpenAI's names as timm's resnet50_clip."""
  return _rename(weights, _swapped(_TIMM))
