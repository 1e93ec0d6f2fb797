"""Converts the noised CLIP: clip_image_enc.pt and clip_text_enc.pt."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.glide.noised_clip import ImageEncoder, TextEncoder
from synthjax.runtime.errors import UserError
from synthjax.weights.rules import (
  Rule,
  check_layout,
  conv,
  convert,
  linear,
  numbers_in,
  require,
  restore,
)

LAYOUTS = ("glide",)
HEAD_WIDTH = 64  # of both released towers; no weight shows it


def _norm(torch_name: str, path: str) -> list[Rule]:
  return [
    Rule(f"{torch_name}.g", f"{path}/scale"),
    Rule(f"{torch_name}.b", f"{path}/bias"),
  ]


def _dense(torch_name: str, path: str) -> list[Rule]:
  return [
    Rule(f"{torch_name}.w", f"{path}/kernel", linear),
    Rule(f"{torch_name}.b", f"{path}/bias"),
  ]


_BLOCK = "blocks.block_{i}", "params/block_{i}"
_INPUT, _OUTPUT = "params/input", "params/output"

RULES = [
  *(
    Rule(f"blocks.input.{name}", f"{_INPUT}/{name}")
    for name in ("w_voc", "w_t", "w_pos")
  ),
  Rule("blocks.input.patch_proj", f"{_INPUT}/patch_proj/kernel", conv),
  *_norm("blocks.input.ln", f"{_INPUT}/ln"),
  *_norm(f"{_BLOCK[0]}.f_attn.ln", f"{_BLOCK[1]}/f_attn/ln"),
  *_norm(f"{_BLOCK[0]}.f_mlp.ln", f"{_BLOCK[1]}/f_mlp/ln"),
  *_dense(f"{_BLOCK[0]}.f_attn.f_q", f"{_BLOCK[1]}/f_attn/f_q"),
  *_dense(f"{_BLOCK[0]}.f_attn.f_k", f"{_BLOCK[1]}/f_attn/f_k"),
  *_dense(f"{_BLOCK[0]}.f_attn.f_v", f"{_BLOCK[1]}/f_attn/f_v"),
  *_dense(f"{_BLOCK[0]}.f_attn.f_c", f"{_BLOCK[1]}/f_attn/f_c"),
  *_dense(f"{_BLOCK[0]}.f_mlp.f_1", f"{_BLOCK[1]}/f_mlp/f_1"),
  *_dense(f"{_BLOCK[0]}.f_mlp.f_2", f"{_BLOCK[1]}/f_mlp/f_2"),
  *_norm("blocks.output.ln", f"{_OUTPUT}/ln"),
  Rule("blocks.output.f.w", f"{_OUTPUT}/f/kernel", linear),
]
_LAYER = r"blocks\.block_(\d+)\.f_attn\.ln\.g"
_DECISIVE = {
  "image": (
    "blocks.input.w_t",
    "blocks.input.patch_proj",
    "blocks.input.w_pos",
    "blocks.output.f.w",
  ),
  "text": ("blocks.input.w_voc", "blocks.input.w_pos", "blocks.output.f.w"),
}
TOWERS = {"image": ImageEncoder, "text": TextEncoder}


def from_released(
  weights: Mapping[str, np.ndarray], *, heads: int | None = None
) -> tuple[dict, dict[str, Any]]:
  """Converts the state dict of either tower, at any size.

  Args:
    weights: by their released names.
    heads: of the attention; None: one for every 64 channels.

  Returns:
    Variables of `noised_clip.ImageEncoder` or `TextEncoder`, of the weights'
    dtypes, and their description: kind "noised_clip", the tower, the fields of
    the module.

  Raises:
    UserError: listing what is missing, unused or misshapen.
  """
  tower = "text" if "blocks.input.w_voc" in weights else "image"
  require(weights, _DECISIVE[tower], family="GLIDE's noised CLIP")
  places, width = np.shape(weights["blocks.input.w_pos"])
  heads = heads or width // HEAD_WIDTH
  if not heads or width % heads:
    raise UserError(
      f"width {width} does not split over {heads=}; give the number of heads, "
      "which the weights do not show."
    )
  sizes = {
    "width": width,
    "layers": len(numbers_in(weights, _LAYER)),
    "heads": heads,
    "embed_dim": np.shape(weights["blocks.output.f.w"])[0],
  }
  if tower == "image":
    patch_size = np.shape(weights["blocks.input.patch_proj"])[-1]
    side = round((places - 1) ** 0.5)  # in patches; one place is the timestep
    sizes |= {
      "image_size": side * patch_size,
      "patch_size": patch_size,
      "timesteps": len(weights["blocks.input.w_t"]),
    }
  else:
    sizes |= {
      "vocab_size": len(weights["blocks.input.w_voc"]),
      "context": places,
    }
  description = {"kind": "noised_clip", "tower": tower, "model": sizes}
  return convert(weights, RULES, _shapes(tower, sizes)), description


def to_released(
  variables: Mapping, description: Mapping[str, Any], *, layout: str = "glide"
) -> dict[str, np.ndarray]:
  """Returns variables under their released names."""
  del description  # the names follow from the variables
  check_layout("noised CLIP", layout, LAYOUTS)
  return restore(variables, RULES)


def _shapes(tower: str, sizes: Mapping[str, Any]) -> dict:
  """Returns the shapes of a tower's variables."""
  if tower == "image":
    side = sizes["image_size"]
    inputs = [
      jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
      jax.ShapeDtypeStruct((1,), jnp.int32),
    ]
  else:
    inputs = [jax.ShapeDtypeStruct((1, sizes["context"]), jnp.int32)]
  model = TOWERS[tower](**sizes)
  return jax.eval_shape(model.init, jax.random.key(0), *inputs)
