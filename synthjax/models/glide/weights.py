"""Converts GLIDE's released weights: base.pt and upsample.pt."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.models.glide.model import Glide
from synthjax.runtime.errors import UserError
from synthjax.weights.rules import (
  Rule,
  check_layout,
  conv,
  convert,
  dense,
  norm,
  numbers_in,
  pointwise1d,
  pointwise2d,
  require,
  restore,
)


def _block(torch_name: str, path: str) -> list[Rule]:
  """Returns the rules of a residual block or an attention block."""
  return [
    *norm(f"{torch_name}.in_layers.0", f"{path}/in_layers_0"),
    *dense(f"{torch_name}.in_layers.2", f"{path}/in_layers_2", conv),
    *dense(f"{torch_name}.emb_layers.1", f"{path}/emb_layers_1"),
    *norm(f"{torch_name}.out_layers.0", f"{path}/out_layers_0"),
    *dense(f"{torch_name}.out_layers.3", f"{path}/out_layers_3", conv),
    *dense(
      f"{torch_name}.skip_connection", f"{path}/skip_connection", pointwise2d
    ),
    *norm(f"{torch_name}.norm", f"{path}/norm"),
    *dense(f"{torch_name}.qkv", f"{path}/qkv", pointwise1d),
    *dense(f"{torch_name}.encoder_kv", f"{path}/encoder_kv", pointwise1d),
    *dense(f"{torch_name}.proj_out", f"{path}/proj_out", pointwise1d),
  ]


_TEXT, _UNET = "params/text", "params/unet"
_LAYER = "transformer.resblocks.{i}", f"{_TEXT}/transformer_resblocks_{{i}}"

RULES = [
  Rule("positional_embedding", f"{_TEXT}/positional_embedding"),
  Rule("padding_embedding", f"{_TEXT}/padding_embedding"),
  Rule("token_embedding.weight", f"{_TEXT}/token_embedding/embedding"),
  *norm("final_ln", f"{_TEXT}/final_ln"),
  *dense("transformer_proj", f"{_TEXT}/transformer_proj"),
  *norm(f"{_LAYER[0]}.ln_1", f"{_LAYER[1]}/ln_1"),
  *norm(f"{_LAYER[0]}.ln_2", f"{_LAYER[1]}/ln_2"),
  *dense(f"{_LAYER[0]}.attn.c_qkv", f"{_LAYER[1]}/attn_c_qkv"),
  *dense(f"{_LAYER[0]}.attn.c_proj", f"{_LAYER[1]}/attn_c_proj"),
  *dense(f"{_LAYER[0]}.mlp.c_fc", f"{_LAYER[1]}/mlp_c_fc"),
  *dense(f"{_LAYER[0]}.mlp.c_proj", f"{_LAYER[1]}/mlp_c_proj"),
  *dense("time_embed.{i}", f"{_UNET}/time_embed_{{i}}"),
  *norm("out.0", f"{_UNET}/out_0"),
  *dense("out.2", f"{_UNET}/out_2", conv),
  *dense("input_blocks.0.0", f"{_UNET}/input_blocks_0_0", conv),
  *_block("input_blocks.{i}.{j}", f"{_UNET}/input_blocks_{{i}}_{{j}}"),
  *_block("middle_block.{i}", f"{_UNET}/middle_block_{{i}}"),
  *_block("output_blocks.{i}.{j}", f"{_UNET}/output_blocks_{{i}}_{{j}}"),
]
_OUTPUT_RESIDUAL = r"output_blocks\.(\d+)\.(\d+)\.in_layers\.0\.bias"
_TEXT_LAYER = r"transformer\.resblocks\.(\d+)\.ln_1\.weight"

LAYOUTS = ("glide",)
HEAD_CHANNELS = 64  # of the release's attention everywhere; no weight shows it

# The released networks, by the number of channels that they read.
STAGES = {
  3: dict(stage="base", image_size=64, low_res=None, betas="squared_cosine"),
  6: dict(stage="upsampler", image_size=256, low_res=64, betas="linear"),
}
_INPAINTING = {7: "base_inpaint.pt", 10: "upsample_inpaint.pt"}
_DECISIVE = (
  "token_embedding.weight",
  "positional_embedding",
  "transformer.resblocks.0.ln_1.weight",
  "time_embed.0.weight",
  "input_blocks.0.0.weight",
  "output_blocks.0.0.out_layers.3.weight",
  "out.2.weight",
)


def from_released(
  weights: Mapping[str, np.ndarray],
  *,
  head_channels: int = HEAD_CHANNELS,
  text_heads: int | None = None,
  image_size: int | None = None,
  low_res: int | None = None,
) -> tuple[dict, dict[str, Any]]:
  """Converts a state dict of base.pt or upsample.pt, at any size.

  Args:
    weights: by their released names.
    head_channels: of the image's attention.
    text_heads: of the transformer; None: one for every 64 channels.
    image_size: px; None: 64 for a base and 256 for an upsampler.
    low_res: px of the small image; None: 64 for an upsampler.

  Returns:
    Variables of `Glide`, of the weights' dtypes, and their description, as
    `generators.glide` reads it.

  Raises:
    UserError: about weights of an inpainting model, or listing what is
      missing, unused or misshapen.
  """
  require(weights, _DECISIVE, family="GLIDE")
  channels = np.shape(weights["input_blocks.0.0.weight"])[1]
  if channels not in STAGES:
    variant = _INPAINTING.get(channels, "an unknown variant")
    raise UserError(
      f"These weights read {channels} channels, as {variant} of GLIDE does. "
      "Only the text-to-image models are supported: base.pt (3 channels) and "
      "upsample.pt (6); inpainting is not."
    )
  about = STAGES[channels] | {"kind": "glide"}
  about["image_size"] = image_size or about["image_size"]
  about["low_res"] = (low_res or about["low_res"]) if channels == 6 else None
  sizes = _sizes(weights, head_channels, text_heads)
  model = Glide(**sizes)
  side = 2 ** (len(sizes["channel_mult"]) - 1)  # the smallest that works
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, sizes["text_context"]), jnp.int32)
  like = jax.eval_shape(
    model.init,
    jax.random.key(0),
    images,
    jax.ShapeDtypeStruct((1,), jnp.int32),
    tokens,
    jax.ShapeDtypeStruct(tokens.shape, jnp.bool_),
    images if channels == 6 else None,
  )
  return convert(weights, RULES, like), about | {"model": sizes}


def to_released(
  variables: Mapping, description: Mapping[str, Any], *, layout: str = "glide"
) -> dict[str, np.ndarray]:
  """Returns variables under their released names."""
  del description  # the names follow from the variables
  check_layout("GLIDE", layout, LAYOUTS)
  return restore(variables, RULES)


# Layers of the attention -> the low-rank updates of each; see `models.lora`.
LOW_RANK = dict.fromkeys(
  ("qkv", "encoder_kv", "proj_out", "attn_c_qkv", "attn_c_proj"), 1
)
_TOWER, _REST = "text_encoder.", "unet."  # as diffusers calls the parts


def to_lora_names(kernels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns kernels by their paths under the names that a LoRA's file has."""
  released = restore(
    {"params": traverse_util.unflatten_dict(kernels, sep="/")}, RULES
  )
  is_text = lambda name: name.startswith("transformer.")
  return {
    (_TOWER if is_text(name) else _REST) + name: weight
    for name, weight in released.items()
  }


def from_lora_names(
  weights: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Undoes `to_lora_names`; `like` has the shapes of the kernels.

  Raises:
    UserError: listing every weight that is unused, missing or misshapen.
  """
  named = {
    n.removeprefix(_TOWER).removeprefix(_REST): weights[n] for n in weights
  }
  like = {"params": traverse_util.unflatten_dict(like, sep="/")}
  params = convert(named, RULES, like)["params"]
  return traverse_util.flatten_dict(params, sep="/")


def _sizes(
  weights: Mapping[str, np.ndarray], head_channels: int, text_heads: int | None
) -> dict[str, Any]:
  """Reads the fields of Glide off the shapes and the names."""
  shapes = {name: np.shape(weight) for name, weight in weights.items()}
  vocab_size, text_width = shapes["token_embedding.weight"]
  width = shapes["time_embed.0.weight"][1]
  if text_heads is None:
    text_heads = text_width // HEAD_CHANNELS
  # On the way up, a second residual block ends every level but the last.
  places = numbers_in(weights, _OUTPUT_RESIDUAL)
  ends = sorted(i for i, j in places if j)
  count = len({i for i, _ in places})
  per_level, levels = ends[0] + 1 if ends else count, len(ends) + 1
  firsts = [f"output_blocks.{per_level * i}" for i in range(levels)][::-1]
  wide = [f"{first}.0.out_layers.3.weight" for first in firsts]
  require(weights, wide, family="GLIDE")
  channels = [shapes[name][0] for name in wide]
  problems = []
  if count != levels * per_level:
    problems.append(f"{count} output blocks do not make {levels} equal levels")
  if any(c % width for c in channels):
    problems.append(
      f"the levels' widths {channels} are no multiples of {width}"
    )
  if not text_heads or text_width % text_heads:
    problems.append(f"width {text_width} does not split over {text_heads=}")
  attended = [f"{first}.1.qkv.weight" in weights for first in firsts]
  attending = {c for c, a in zip(channels, attended, strict=True) if a}
  if bad := [c for c in attending | {channels[-1]} if c % head_channels]:
    problems.append(f"widths {sorted(bad)} do not split over {head_channels=}")
  if problems:
    raise UserError("These weights make no GLIDE: " + "; ".join(problems) + ".")
  return dict(
    vocab_size=vocab_size,
    text_context=shapes["positional_embedding"][0],
    text_width=text_width,
    text_layers=len(numbers_in(weights, _TEXT_LAYER)),
    text_heads=text_heads,
    model_channels=width,
    channel_mult=[c // width for c in channels],
    num_res_blocks=per_level - 1,
    attention_downsamples=[2**i for i in range(levels) if attended[i]],
    head_channels=head_channels,
    out_channels=shapes["out.2.weight"][0],
  )
