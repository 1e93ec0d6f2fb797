"""Converts SigLIP's released weights: Hugging Face's, and the authors' arrays.

Those of big_vision (.npz) first get the names and axes of Hugging Face's
SiglipModel, so that there is one place that converts.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.siglip import model as siglip
from synthjax.runtime.errors import UserError
from synthjax.weights import rules
from synthjax.weights.rules import Layout, Rule, conv, dense, linear, norm

Weights = Mapping[str, np.ndarray]

# --- the rules of Hugging Face's names ----------------------------------------

_THIRDS = (
  (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
  ".self_attn.in_proj.",
)
# Of the pool alone, Hugging Face has one matrix, and there are three here.
_POOL_THIRDS = (
  (".attention.q_", ".attention.k_", ".attention.v_"),
  ".attention.in_proj_",
)
_TEXT, _IMAGE, _POOL = "text_model", "vision_model", "vision_model.head"
_VISUAL = "params/visual"
_scalar = Layout(lambda w: w.reshape(()), lambda w: w.reshape(1))


def _block(theirs: str, tower: str) -> list[Rule]:
  """Returns the rules of a transformer's block."""
  name, path = f"{theirs}.encoder.layers.{{i}}", f"{tower}/resblocks_{{i}}"
  return [
    *dense(f"{name}.self_attn.in_proj", f"{path}/attn/in_proj"),
    *dense(f"{name}.self_attn.out_proj", f"{path}/attn/out_proj"),
    *norm(f"{name}.layer_norm{{j}}", f"{path}/ln_{{j}}"),
    *dense(f"{name}.mlp.fc1", f"{path}/mlp/c_fc"),
    *dense(f"{name}.mlp.fc2", f"{path}/mlp/c_proj"),
  ]


RULES = [
  Rule(
    f"{_TEXT}.embeddings.token_embedding.weight",
    "params/token_embedding/embedding",
  ),
  Rule(
    f"{_TEXT}.embeddings.position_embedding.weight",
    "params/positional_embedding",
  ),
  *_block(_TEXT, "params/transformer"),
  *norm(f"{_TEXT}.final_layer_norm", "params/ln_final"),
  *dense(f"{_TEXT}.head", "params/head"),
  *dense(f"{_IMAGE}.embeddings.patch_embedding", f"{_VISUAL}/conv1", conv),
  Rule(
    f"{_IMAGE}.embeddings.position_embedding.weight",
    f"{_VISUAL}/positional_embedding",
  ),
  *_block(_IMAGE, f"{_VISUAL}/transformer"),
  *norm(f"{_IMAGE}.post_layernorm", f"{_VISUAL}/ln_post"),
  Rule(f"{_POOL}.probe", f"{_VISUAL}/pool/probe"),
  *(
    rule
    for x in "qkv"
    for rule in (
      Rule(
        f"{_POOL}.attention.{x}_weight", f"{_VISUAL}/pool/{x}/kernel", linear
      ),
      Rule(f"{_POOL}.attention.{x}_bias", f"{_VISUAL}/pool/{x}/bias"),
    )
  ),
  *dense(f"{_POOL}.attention.out_proj", f"{_VISUAL}/pool/out_proj"),
  *norm(f"{_POOL}.layernorm", f"{_VISUAL}/pool/ln"),
  *dense(f"{_POOL}.mlp.fc1", f"{_VISUAL}/pool/mlp/c_fc"),
  *dense(f"{_POOL}.mlp.fc2", f"{_VISUAL}/pool/mlp/c_proj"),
  Rule("logit_scale", "params/logit_scale", _scalar),
  Rule("logit_bias", "params/logit_bias", _scalar),
]


def from_released(
  weights: Weights, *, settings: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Converts a SigLIP or SigLIP 2 of images of one size.

  Weights of Hugging Face show neither the heads nor the pixels that no patch
  covers. They are read from the config, or from the published model that has
  the same sizes, and never guessed.

  Args:
    weights: by the names of Hugging Face's SiglipModel; or of big_vision's
      two towers, with "params/" in front or without.
    settings: of the config.json beside them.

  Returns:
    The variables of a `SigLIP`, and a description for `files.save_params`.

  Raises:
    UserError: when heads or sizes cannot be found, about a config of another
      network, or listing every weight that is unused, missing or misshapen.
  """
  weights, heads = _huggingface_names(weights)
  sizes = _sizes(weights)
  found = sizes | hidden_fields(sizes, settings or {}, heads)
  size, length = found["image_size"], found["context_length"]
  like = jax.eval_shape(
    siglip.SigLIP(**found).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, length), jnp.int32),
  )
  weights = rules.join_thirds(weights, *_THIRDS)
  weights = rules.split_thirds(weights, *_POOL_THIRDS)
  variables = rules.convert(weights, RULES, like)
  return variables, {"kind": "siglip", "model": found, "image_size": size}


def to_released(
  variables: Mapping[str, Any],
  description: Mapping[str, Any],
  layout: str = "huggingface",
) -> dict[str, np.ndarray]:
  """Returns variables as a state dict of Hugging Face's SiglipModel."""
  del description  # the names follow from the variables
  rules.check_layout("SigLIP", layout, ("huggingface",))
  released = rules.split_thirds(rules.restore(variables, RULES), *_THIRDS)
  return rules.join_thirds(released, *_POOL_THIRDS)


# --- fields -------------------------------------------------------------------

_SHOWN = {
  "token": f"{_TEXT}.embeddings.token_embedding.weight",
  "place": f"{_TEXT}.embeddings.position_embedding.weight",
  "text_mlp": f"{_TEXT}.encoder.layers.0.mlp.fc1.weight",
  "patch": f"{_IMAGE}.embeddings.patch_embedding.weight",
  "image_place": f"{_IMAGE}.embeddings.position_embedding.weight",
  "image_mlp": f"{_IMAGE}.encoder.layers.0.mlp.fc1.weight",
}
# What Hugging Face's config has for a tower that does not say.
_DEFAULTS = {
  "num_attention_heads": 12,
  "image_size": 224,
  "hidden_act": "gelu_pytorch_tanh",
  "layer_norm_eps": siglip.EPSILON,
  "vision_use_head": True,
}
_FIXED = ("hidden_act", "layer_norm_eps", "vision_use_head")


def _sizes(weights: Weights) -> dict[str, int]:
  """Returns the fields that the shapes show; the image's whole patches."""
  rules.require(weights, list(_SHOWN.values()), family="SigLIP")
  shapes = {key: np.shape(weights[name]) for key, name in _SHOWN.items()}
  width, _, patch, _ = shapes["patch"]
  side = round(shapes["image_place"][0] ** 0.5)
  if side**2 != shapes["image_place"][0]:
    raise UserError(
      f"This SigLIP's image tower has {shapes['image_place'][0]} positions, "
      "which is no square. Only weights for images of one size can be "
      "converted, not NaFlex's."
    )
  count = lambda tower: len(
    {*rules.numbers_in(weights, rf"{tower}\.encoder\.layers\.(\d+)\.")}
  )
  return {
    "image_size": side * patch,
    "patch_size": patch,
    "vision_width": width,
    "vision_layers": count(_IMAGE),
    "vision_mlp_width": shapes["image_mlp"][0],
    "context_length": shapes["place"][0],
    "vocab_size": shapes["token"][0],
    "text_width": shapes["token"][1],
    "text_layers": count(_TEXT),
    "text_mlp_width": shapes["text_mlp"][0],
  }


def hidden_fields(
  sizes: Mapping[str, int],
  settings: Mapping[str, Any],
  heads: Mapping[str, int],
) -> dict[str, int]:
  """Returns the heads of both towers, and the size of images.

  Args:
    sizes: of `_sizes`.
    settings: of a config.json, empty without one.
    heads: that the weights show.
  """
  if settings:
    stated = _stated(settings, sizes)
    differ = [f for f in heads if heads[f] != stated[f]]
    if differ:
      raise UserError(
        f"The config's {', '.join(differ)} are not those of the weights: "
        f"{stated} against {dict(heads)}. Give the config that came with them."
      )
    return stated
  size = {"image_size": sizes["image_size"]}
  for model in siglip.MODELS.values():
    known = model.keywords
    if all(known[field] == value for field, value in sizes.items()):
      return size | {f: known[f] for f in ("vision_heads", "text_heads")}
  if heads and sizes["patch_size"] in (8, 16, 32):  # they leave no pixels over
    return size | heads
  raise UserError(
    "These weights of a SigLIP do not show the heads of attention, or pixels "
    f"beyond {sizes['image_size']} that no patch covers; and their sizes are "
    f"not those of {', '.join(siglip.MODELS)}. Give the config.json beside "
    "them."
  )


def _stated(
  settings: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, int]:
  """Reads a config.json of Hugging Face."""
  towers = [settings.get(f"{tower}_config") for tower in ("vision", "text")]
  if not all(isinstance(tower, Mapping) for tower in towers):
    raise UserError(
      "The config beside the weights is not of a SigLIP: it has no "
      "vision_config and text_config."
    )
  vision, text = ({**_DEFAULTS, **tower} for tower in towers)
  wrong = [
    f"{name}.{field}={tower[field]!r}, needed {_DEFAULTS[field]!r}"
    for name, tower in (("vision_config", vision), ("text_config", text))
    for field in _FIXED
    if tower[field] != _DEFAULTS[field]
  ]
  if vision["image_size"] // sizes["patch_size"] != (
    sizes["image_size"] // sizes["patch_size"]
  ):
    wrong.append(
      f"vision_config.image_size={vision['image_size']}, but the weights have "
      f"positions for {sizes['image_size']} px"
    )
  for name, tower, width in (
    ("vision_config", vision, sizes["vision_width"]),
    ("text_config", text, sizes["text_width"]),
  ):
    if width % tower["num_attention_heads"]:
      wrong.append(
        f"{name}.num_attention_heads={tower['num_attention_heads']} does not "
        f"divide the width {width}"
      )
  if wrong:
    raise UserError(
      "The config beside these weights of a SigLIP does not fit: "
      + "; ".join(wrong)
    )
  return {
    "image_size": vision["image_size"],
    "vision_heads": vision["num_attention_heads"],
    "text_heads": text["num_attention_heads"],
  }


# --- big_vision's arrays ------------------------------------------------------

_ATTENTION = "MultiHeadDotProductAttention_0"


def _huggingface_names(
  weights: Weights,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """Returns weights under Hugging Face's names, and the heads if shown."""
  weights = {
    name.removeprefix("params/"): weight for name, weight in weights.items()
  }
  query = f"{_ATTENTION}/query/kernel"
  scanned = {"img": "img/Transformer", "txt": "txt/Encoder_0"}
  blocks = {
    tower: next(
      (
        name
        for name in (f"{path}/encoderblock_0", f"{path}/encoderblock")
        if f"{name}/{query}" in weights
      ),
      None,
    )
    for tower, path in scanned.items()
  }
  if None in blocks.values():
    known = {n: w for n, w in weights.items() if not n.endswith("position_ids")}
    return known, {}
  heads = {
    field: np.shape(weights[f"{blocks[tower]}/{query}"])[-2]
    for field, tower in (("vision_heads", "img"), ("text_heads", "txt"))
  }
  weights = _unrolled(weights)
  renamed, unmatched = rules.rename(weights, _BIG_VISION)
  joined = rules.join_thirds(renamed, *_POOL_THIRDS)
  return joined | {name: weights[name] for name in unmatched}, heads


def _unrolled(weights: Weights) -> dict[str, np.ndarray]:
  """Gives each block of a scanned stack its own entries."""
  single = {}
  for name, weight in weights.items():
    before, scan, after = name.partition("/encoderblock/")
    if not scan:
      single[name] = weight
      continue
    for i, of_block in enumerate(weight):
      single[f"{before}/encoderblock_{i}/{after}"] = of_block
  return single


def _same(weight: np.ndarray) -> np.ndarray:
  return weight


def _flat(weight: np.ndarray) -> np.ndarray:
  return weight.reshape(-1)


def _matrix(theirs: str, ours: str) -> list[tuple]:
  """Returns the names of a layer [in, out] and what turns it to [out, in]."""
  return [
    (f"{theirs}/kernel", f"{ours}.weight", np.transpose),
    (f"{theirs}/bias", f"{ours}.bias", _same),
  ]


def _affine(theirs: str, ours: str) -> list[tuple]:
  return [
    (f"{theirs}/scale", f"{ours}.weight", _same),
    (f"{theirs}/bias", f"{ours}.bias", _same),
  ]


def _attention(theirs: str, ours: str, third: str) -> list[tuple]:
  """Returns the names of attention, whose arrays have an axis of heads."""
  to = lambda kernel: kernel.reshape(kernel.shape[0], -1).T  # [d, h, d']
  back = lambda kernel: kernel.reshape(-1, kernel.shape[-1]).T  # [h, d', d]
  names = {"query": "q", "key": "k", "value": "v"}
  return [
    *(
      (f"{theirs}/{name}/kernel", f"{ours}.{x}{third}weight", to)
      for name, x in names.items()
    ),
    *(
      (f"{theirs}/{name}/bias", f"{ours}.{x}{third}bias", _flat)
      for name, x in names.items()
    ),
    (f"{theirs}/out/kernel", f"{ours}.out_proj.weight", back),
    (f"{theirs}/out/bias", f"{ours}.out_proj.bias", _same),
  ]


def _mlp(theirs: str, ours: str) -> list[tuple]:
  return [
    *_matrix(f"{theirs}/MlpBlock_0/Dense_0", f"{ours}.mlp.fc1"),
    *_matrix(f"{theirs}/MlpBlock_0/Dense_1", f"{ours}.mlp.fc2"),
  ]


def _tower(theirs: str, ours: str, last: str) -> list[tuple]:
  block, layer = f"{theirs}/encoderblock_{{i}}", f"{ours}.encoder.layers.{{i}}"
  return [
    *_affine(f"{block}/LayerNorm_0", f"{layer}.layer_norm1"),
    *_affine(f"{block}/LayerNorm_1", f"{layer}.layer_norm2"),
    *_attention(f"{block}/{_ATTENTION}", f"{layer}.self_attn", "_proj."),
    *_mlp(block, layer),
    *_affine(f"{theirs}/encoder_norm", f"{ours}.{last}"),
  ]


_MAP = "img/MAPHead_0"
_BIG_VISION = [
  *_tower("img/Transformer", _IMAGE, "post_layernorm"),
  (
    "img/embedding/kernel",
    f"{_IMAGE}.embeddings.patch_embedding.weight",
    conv.to_torch,
  ),
  (
    "img/embedding/bias",
    f"{_IMAGE}.embeddings.patch_embedding.bias",
    _same,
  ),
  (
    "img/pos_embedding",
    f"{_IMAGE}.embeddings.position_embedding.weight",
    lambda w: w[0],
  ),
  (f"{_MAP}/probe", f"{_POOL}.probe", _same),
  *_attention(f"{_MAP}/{_ATTENTION}", f"{_POOL}.attention", "_"),
  *_affine(f"{_MAP}/LayerNorm_0", f"{_POOL}.layernorm"),
  *_mlp(_MAP, _POOL),
  *_tower("txt/Encoder_0", _TEXT, "final_layer_norm"),
  (
    "txt/Embed_0/embedding",
    f"{_TEXT}.embeddings.token_embedding.weight",
    _same,
  ),
  (
    "txt/pos_embedding",
    f"{_TEXT}.embeddings.position_embedding.weight",
    lambda w: w[0],
  ),
  *_matrix("txt/head", f"{_TEXT}.head"),
  ("t", "logit_scale", _flat),
  ("b", "logit_bias", _flat),
]
