"""Converts ViTs, by the names of timm and DeiT or by Hugging Face's."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.models.classifiers import describe, make_classifier
from synthjax.models.vit import model as vit
from synthjax.runtime.errors import UserError
from synthjax.weights import rules
from synthjax.weights.rules import Rule, conv


class Names(NamedTuple):
  """The names of a ViT's layers in a layout; "{i}" is the number of a block."""

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
# Arguments of `rules.join_thirds`, for Hugging Face's names.
THIRDS = (
  (".attention.query.", ".attention.key.", ".attention.value."),
  ".attention.qkv.",
)


def from_released(
  weights: Mapping[str, np.ndarray], *, heads: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the `params` of a ViT, and their description.

  `models.classifiers.backbone` drops the head and `vit.model.resize_positions`
  changes the image size. The description's `model` and `num_classes` (None
  without a head) are arguments of `make_classifier`.

  Args:
    weights: by the names of timm or Hugging Face, with or without a head. Give
      what DeiT's files hold under the key "model".
    heads: of the attention, which the weights do not show; None takes width /
      64, as in every released ViT.

  Raises:
    UserError: listing what is missing, unused or misshapen.
  """
  # The pooler behind ViTModel does not belong to the classifier.
  weights = {
    name.removeprefix(_PREFIX): weight
    for name, weight in weights.items()
    if not name.removeprefix(_PREFIX).startswith("pooler.")
  }
  weights = rules.join_thirds(weights, *THIRDS)
  names = LAYOUTS[
    rules.find_layout(
      weights,
      {layout: decisive(names) for layout, names in LAYOUTS.items()},
      family="a ViT as timm and Hugging Face call them",
      advice='Give what DeiT\'s files hold under the key "model".',
    )
  ]
  sizes, grid = read_sizes(weights, names, heads)
  head = weights.get(f"{names.head}.weight")
  description = {
    "kind": "classifier",
    "model": describe(vit.MODELS, sizes),
    "image_size": grid * sizes["patch_size"],
    "num_classes": None if head is None else len(head),
  }
  model = make_classifier(
    num_classes=description["num_classes"], **description["model"]
  )
  size = description["image_size"]
  images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  like = jax.eval_shape(model.init, jax.random.key(0), images)
  return rules.convert(weights, rules_of(names), like), description


def to_released(
  variables: Mapping[str, Any],
  description: Mapping[str, Any],
  layout: str = "timm",
) -> dict[str, np.ndarray]:
  """Returns variables under the released names of one of LAYOUTS.

  "huggingface" has the names of ViTForImageClassification, or without a head
  those of ViTModel without its pooler.
  """
  del description  # the names follow from the variables
  rules.check_layout("ViT", layout, LAYOUTS)
  names = LAYOUTS[layout]
  released = rules.restore(variables, rules_of(names))
  if layout == "timm":
    return released
  prefix = _PREFIX if f"{names.head}.weight" in released else ""
  released = {
    name if name.startswith(f"{names.head}.") else prefix + name: weight
    for name, weight in released.items()
  }
  return rules.split_thirds(released, *THIRDS)


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


def decisive(names: Names) -> list[str]:
  """Returns the names of the weights that show the sizes of a ViT."""
  fc1 = f"{names.block.format(i=0)}.{names.fc1}.weight"
  return [names.pos_embed, f"{names.patches}.weight", fc1]


def read_sizes(
  weights: Mapping[str, np.ndarray], names: Names, heads: int | None
) -> tuple[dict[str, Any], int]:
  """Returns the fields of the module, and the grid's side.

  Args:
    weights: with q, k and v as one matrix.
    names: of the layout; the weights have all of `decisive(names)`.
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
  block = names.block.replace(".", r"\.").format(i=r"(\d+)") + r"\."
  hidden = len(weights[f"{names.block.format(i=0)}.{names.fc1}.weight"])
  sizes = {
    "patch_size": patches[-1],
    "width": width,
    "depth": 1 + max(rules.numbers_in(weights, block))[0],
    "heads": heads,
    "mlp_ratio": hidden / width,
  }
  return sizes, grid
