"""Names of the released ViTs: timm's and DeiT's, and Hugging Face's."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.models.classifiers import describe, make_classifier
from synthjax.models.vit import model as vit
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights import rules
from synthjax.weights.rules import Rule, conv


class Names(NamedTuple):
  """How a layout calls the parts of a ViT; "{i}" is the number of a block."""

  cls_token: str
  pos_embed: str
  patches: str
  block: str
  norm1: str
  qkv: str
  proj: str
  norm2: str
  fc1: str
  fc2: str
  norm: str
  head: str


LAYOUTS = {
  "timm": Names(
    cls_token="cls_token",
    pos_embed="pos_embed",
    patches="patch_embed.proj",
    block="blocks.{i}",
    norm1="norm1",
    qkv="attn.qkv",
    proj="attn.proj",
    norm2="norm2",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
    norm="norm",
    head="head",
  ),
  # Without "vit.", which ViTForImageClassification puts before all but the
  # head; and with q, k and v as one, as they are here once merged.
  "huggingface": Names(
    cls_token="embeddings.cls_token",
    pos_embed="embeddings.position_embeddings",
    patches="embeddings.patch_embeddings.projection",
    block="encoder.layer.{i}",
    norm1="layernorm_before",
    qkv="attention.attention.qkv",
    proj="attention.output.dense",
    norm2="layernorm_after",
    fc1="intermediate.dense",
    fc2="output.dense",
    norm="layernorm",
    head="classifier",
  ),
}
_PREFIX = "vit."
_THIRDS = ("query", "key", "value")


def from_released(
  weights: Mapping[str, np.ndarray], *, heads: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the variables of a ViT and what they are variables of.

  Args:
    weights: by the names of timm or Hugging Face, with or without a head. Of
      DeiT's files, what is below their key "model".
    heads: of the attention, which the weights do not show; None takes width /
      64, as in every released ViT.

  Returns:
    `params`, of which `models.classifiers.backbone` drops the head and
    `models.vit.resize_positions` changes the image size; and the description,
    whose `model` and `num_classes` (None without a head) are arguments of
    `make_classifier`.

  Raises:
    UserError: listing what is missing, unused or misshapen.
  """
  weights = _merged(weights)
  names = _layout_of(weights)
  sizes, grid = read_sizes(weights, names, heads)
  head = weights.get(f"{names.head}.weight")
  num_classes = None if head is None else len(head)
  description = {
    "kind": "classifier",
    "model": describe(vit.MODELS, sizes),
    "image_size": grid * sizes["patch_size"],
    "num_classes": num_classes,
  }
  model = make_classifier(num_classes=num_classes, **description["model"])
  size = description["image_size"]
  images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  like = jax.eval_shape(model.init, jax.random.key(0), images)
  return rules.convert(weights, rules_of(names), like), description


def to_released(
  variables: Mapping[str, Any],
  description: Mapping[str, Any],
  layout: str = "timm",
) -> dict[str, np.ndarray]:
  """Returns the variables under their released names: the way back.

  Args:
    variables: `params`.
    description: of `from_released`; the names need nothing of it.
    layout: one of LAYOUTS. "huggingface" writes ViTForImageClassification, or
      ViTModel without its pooler where the variables have no head.

  Raises:
    UserError: for an unknown layout, or variables that are not a ViT's.
  """
  del description
  if layout not in LAYOUTS:
    raise unknown_names("layout of ViT weights", [layout], LAYOUTS)
  names = LAYOUTS[layout]
  released = rules.restore(variables, rules_of(names))
  if layout == "timm":
    return released
  prefix = _PREFIX if f"{names.head}.weight" in released else ""
  return split_qkv(
    {
      name if name.startswith(f"{names.head}.") else prefix + name: weight
      for name, weight in released.items()
    }
  )


def rules_of(names: Names) -> list[Rule]:
  """Returns the rules of a layout, with q, k and v as one matrix."""
  block = lambda part: f"{names.block}.{part}"
  path = "params/blocks_{i}"
  return [
    Rule(names.cls_token, "params/cls_token"),
    Rule(names.pos_embed, "params/pos_embed"),
    *rules.dense(names.patches, "params/patch_embed/proj", conv),
    *rules.norm(block(names.norm1), f"{path}/norm1"),
    *rules.dense(block(names.qkv), f"{path}/attn/qkv"),
    *rules.dense(block(names.proj), f"{path}/attn/proj"),
    *rules.norm(block(names.norm2), f"{path}/norm2"),
    *rules.dense(block(names.fc1), f"{path}/mlp/fc1"),
    *rules.dense(block(names.fc2), f"{path}/mlp/fc2"),
    *rules.norm(names.norm, "params/norm"),
    *rules.dense(names.head, "params/head"),
  ]


def _merged(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns Hugging Face's names as in LAYOUTS; timm's stay as they are.

  The pooler behind ViTModel is not the classifier's, and is dropped.
  """
  return merge_qkv(
    {
      name.removeprefix(_PREFIX): weight
      for name, weight in weights.items()
      if not name.removeprefix(_PREFIX).startswith("pooler.")
    }
  )


def merge_qkv(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Joins Hugging Face's queries, keys and values to one weight each.

  What does not come in threes of a shape stays, so that the rules complain
  about it.
  """
  merged = dict(weights)
  for name in [name for name in merged if ".attention.query." in name]:
    thirds = [name.replace("query", third) for third in _THIRDS]
    shapes = {np.shape(merged.get(third)) for third in thirds}
    if len(shapes) == 1:
      whole = np.concatenate([merged.pop(third) for third in thirds])
      merged[name.replace("query", "qkv")] = whole
  return merged


def split_qkv(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Parts what `merge_qkv` has joined."""
  split = {}
  for name, weight in weights.items():
    if ".qkv." in name:
      thirds = zip(_THIRDS, np.split(weight, 3), strict=True)
      split |= {name.replace("qkv", third): w for third, w in thirds}
    else:
      split[name] = weight
  return split


def _layout_of(weights: Mapping[str, np.ndarray]) -> Names:
  """Returns the names of the layout that holds all sizes."""
  looked_for = []
  for names in LAYOUTS.values():
    fc1 = f"{names.block.format(i=0)}.{names.fc1}.weight"
    decisive = (names.pos_embed, f"{names.patches}.weight", fc1)
    if all(name in weights for name in decisive):
      return names
    looked_for.append(", ".join(decisive))
  found = ", ".join(sorted(weights)[:5]) or "none at all"
  raise UserError(
    "These are not the weights of a ViT as timm and Hugging Face call them. "
    f"Looked for {'; or for '.join(looked_for)}. Names found: {found}. Of "
    'DeiT\'s files, give what is below "model".'
  )


def read_sizes(
  weights: Mapping[str, np.ndarray], names: Names, heads: int | None
) -> tuple[dict[str, Any], int]:
  """Returns the fields of the module, and the grid's side.

  Args:
    weights: with q, k and v as one matrix.
    names: of the layout; the weights have those that tell the sizes.
    heads: see `from_released`.

  Raises:
    UserError: about shapes or heads that are not those of a ViT.
  """
  patches = np.shape(weights[f"{names.patches}.weight"])
  positions = np.shape(weights[names.pos_embed])
  length, width = (1, 0, *positions)[-2:]
  grid, heads = math.isqrt(max(length - 1, 0)), heads or width // 64
  if positions != (1, grid**2 + 1, width) or not grid or len(patches) != 4:
    raise UserError(
      f"{names.pos_embed} has the shape {positions} and {names.patches}.weight "
      f"{patches}; a ViT with a class token and square images has [1, 1 + g g, "
      "d] for g x g patches and [d, 3, p, p]. Others, such as those with a "
      "distillation token or registers, cannot be converted."
    )
  if not heads or width % heads:
    raise UserError(
      f"The ViT is {width} wide, which does not split over {heads} heads: give "
      "from_released the heads that it was trained with."
    )
  block = re.compile(re.escape(names.block).replace(r"\{i\}", r"(\d+)") + r"\.")
  hidden = len(weights[f"{names.block.format(i=0)}.{names.fc1}.weight"])
  sizes = {
    "patch_size": patches[-1],
    "width": width,
    "depth": 1 + max(int(m[1]) for name in weights if (m := block.match(name))),
    "heads": heads,
    "mlp_ratio": hidden / width,
  }
  return sizes, grid
