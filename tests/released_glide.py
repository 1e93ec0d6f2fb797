"""The names and shapes of GLIDE's released weights, from its block lists.

Written down without a look at our modules, so that tests can compare the two.
R: residual block, A: attention, D and U: residual blocks that resample.
"""

import re

import numpy as np

TEXT_WIDTH, EMBEDDING = 512, 768
MIDDLE = "R768 A768 R768"

BASE = {
  "channels": 3,
  "input": """
    1-3: R192
    4: D192
    5: R192>384 A384
    6-7: R384 A384
    8: D384
    9: R384>576 A576
    10-11: R576 A576
    12: D576
    13: R576>768 A768
    14-15: R768 A768""",
  "output": """
    0-2: R1536>768 A768
    3: R1344>768 A768 U768
    4: R1344>576 A576
    5-6: R1152>576 A576
    7: R960>576 A576 U576
    8: R960>384 A384
    9-10: R768>384 A384
    11: R576>384 A384 U384
    12: R576>192
    13-15: R384>192""",
}
UPSAMPLER = {
  "channels": 6,
  "input": """
    1-2: R192
    3: D192
    4-5: R192
    6: D192
    7: R192>384
    8: R384
    9: D384
    10-11: R384 A384
    12: D384
    13: R384>768 A768
    14: R768 A768
    15: D768
    16-17: R768 A768""",
  "output": """
    0-1: R1536>768 A768
    2: R1536>768 A768 U768
    3-4: R1536>768 A768
    5: R1152>768 A768 U768
    6: R1152>384 A384
    7: R768>384 A384
    8: R768>384 A384 U384
    9-10: R768>384
    11: R576>384 U384
    12: R576>192
    13: R384>192
    14: R384>192 U192
    15-17: R384>192""",
}


def glide(stage: dict) -> dict[str, tuple[int, ...]]:
  """Lists the names and shapes of BASE or UPSAMPLER."""
  shapes = {
    "positional_embedding": (128, TEXT_WIDTH),
    "padding_embedding": (128, TEXT_WIDTH),
    "token_embedding.weight": (50_257, TEXT_WIDTH),
    **_norm("final_ln", TEXT_WIDTH),
    **_layer("transformer_proj", EMBEDDING, TEXT_WIDTH),
    **_layer("time_embed.0", EMBEDDING, 192),
    **_layer("time_embed.2", EMBEDDING, EMBEDDING),
    **_norm("out.0", 192),
    **_layer("out.2", 6, 192, 3, 3),
    **_layer("input_blocks.0.0", 192, stage["channels"], 3, 3),
  }
  for i in range(16):
    name = f"transformer.resblocks.{i}"
    shapes |= _norm(f"{name}.ln_1", 512) | _norm(f"{name}.ln_2", 512)
    shapes |= _layer(f"{name}.attn.c_qkv", 1536, 512)
    shapes |= _layer(f"{name}.attn.c_proj", 512, 512)
    shapes |= _layer(f"{name}.mlp.c_fc", 2048, 512)
    shapes |= _layer(f"{name}.mlp.c_proj", 512, 2048)
  for j, module in enumerate(MIDDLE.split()):
    shapes |= _module(f"middle_block.{j}", module)
  for part in ("input", "output"):
    for line in stage[part].split("\n")[1:]:
      first, last, modules = re.match(r" *(\d+)-?(\d*): (.*)", line).groups()
      for i in range(int(first), int(last or first) + 1):
        for j, module in enumerate(modules.split()):
          shapes |= _module(f"{part}_blocks.{i}.{j}", module)
  return shapes


def noised_clip_image() -> dict[str, tuple[int, ...]]:
  """Lists the names and shapes of clip_image_enc.pt."""
  name = "blocks.input"
  return {
    f"{name}.w_t": (1000, 768),
    f"{name}.patch_proj": (768, 3, 4, 4),
    f"{name}.w_pos": (257, 768),
    f"{name}.ln.g": (768,),
    f"{name}.ln.b": (768,),
  } | _tower(768)


def noised_clip_text() -> dict[str, tuple[int, ...]]:
  """Lists the names and shapes of clip_text_enc.pt."""
  return {
    "blocks.input.w_voc": (65_536, 512),
    "blocks.input.w_pos": (77, 512),
  } | _tower(512)


def small(shapes: dict, seed: int, dtype=np.float32) -> dict[str, np.ndarray]:
  """Fills a list with small numbers, and the scales of norms with ones."""
  rng = np.random.default_rng(seed)
  # Numbers that come again: drawing hundreds of millions takes a minute.
  pool = (0.02 * rng.standard_normal(1_000_003)).astype(dtype)
  weights = {}
  for name, shape in shapes.items():
    scale = len(shape) == 1 and name.endswith((".weight", ".g"))
    values = np.resize(np.roll(pool, rng.integers(len(pool))), shape)
    weights[name] = values + dtype(scale)
  return weights


def _norm(name, width):
  return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _layer(name, out, *rest):
  return {f"{name}.weight": (out, *rest), f"{name}.bias": (out,)}


def _module(name, module):
  """Lists the weights of "R192>384", "A384" or "U384"."""
  widths = [int(width) for width in module[1:].split(">")]
  i, o = widths[0], widths[-1]
  if module[0] == "A":
    return {
      **_norm(f"{name}.norm", o),
      **_layer(f"{name}.qkv", 3 * o, o, 1),
      **_layer(f"{name}.encoder_kv", 2 * o, TEXT_WIDTH, 1),
      **_layer(f"{name}.proj_out", o, o, 1),
    }
  skip = _layer(f"{name}.skip_connection", o, i, 1, 1) if i != o else {}
  return {
    **_norm(f"{name}.in_layers.0", i),
    **_layer(f"{name}.in_layers.2", o, i, 3, 3),
    **_layer(f"{name}.emb_layers.1", 2 * o, EMBEDDING),
    **_norm(f"{name}.out_layers.0", o),
    **_layer(f"{name}.out_layers.3", o, o, 3, 3),
    **skip,
  }


def _tower(width):
  shapes = {}
  for i in range(12):
    name = f"blocks.block_{i}"
    for part in ("f_attn", "f_mlp"):
      shapes |= {
        f"{name}.{part}.ln.g": (width,),
        f"{name}.{part}.ln.b": (width,),
      }
    for part in ("f_q", "f_k", "f_v", "f_c"):
      shapes[f"{name}.f_attn.{part}.w"] = (width, width)
      if part != "f_k":
        shapes[f"{name}.f_attn.{part}.b"] = (width,)
    shapes[f"{name}.f_mlp.f_1.w"] = (4 * width, width)
    shapes[f"{name}.f_mlp.f_1.b"] = (4 * width,)
    shapes[f"{name}.f_mlp.f_2.w"] = (width, 4 * width)
    shapes[f"{name}.f_mlp.f_2.b"] = (width,)
  return shapes | {
    "blocks.output.ln.g": (width,),
    "blocks.output.ln.b": (width,),
    "blocks.output.f.w": (512, width),
  }
