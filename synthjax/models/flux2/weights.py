"""Converts FLUX.2-klein from a folder in diffusers' layout.

It holds `transformer/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/` and
`model_index.json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.models.flux2 import latents
from synthjax.models.flux2.transformer import EPSILON, Transformer
from synthjax.models.qwen3 import weights as qwen3
from synthjax.models.qwen3.model import Qwen3
from synthjax.models.stable_diffusion.folder import (
  VAE_FIXED,
  unfit,
  vae_fields,
)
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.models.stable_diffusion.weight_names import vae_rules
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.weights import read
from synthjax.weights.rules import Rule, convert, linear, restore
from synthjax.weights.snapshots import below, weights_file, weights_name

KIND = "flux2"
# Folders of weights, and the networks' names here.
PARTS = {"transformer": "transformer", "vae": "vae", "text_encoder": "text"}
INDEX = "model_index.json"
CONFIGS = {part: f"{part}/config.json" for part in PARTS} | {
  "scheduler": "scheduler/scheduler_config.json",
  "model_index": INDEX,
}
TOKENIZER = "tokenizer/tokenizer.json"
# The layers of Qwen3 behind which prompts are read, whatever its size.
TAPS = (9, 18, 27)

# For each configuration: required fields, and the supported values of others,
# where they are given. Weights show the rest, or do not depend on it.
_FIXED = {
  "transformer": (
    (
      "attention_head_dim",
      "axes_dims_rope",
      "in_channels",
      "joint_attention_dim",
      "num_attention_heads",
      "num_layers",
      "num_single_layers",
    ),
    {"eps": (EPSILON,), "guidance_embeds": (False,), "patch_size": (1,)},
  ),
  "vae": (
    ("block_out_channels", "latent_channels"),
    VAE_FIXED
    | {
      "batch_norm_eps": (latents.EPSILON,),
      "decoder_block_out_channels": (None,),
      "patch_size": (latents.SIDE,),
    },
  ),
  "text_encoder": (qwen3.NEEDED, qwen3.FIXED),
  "scheduler": (
    (),
    {
      "invert_sigmas": (False,),
      "num_train_timesteps": (1000,),
      "shift_terminal": (None, 0),
      "stochastic_sampling": (False,),
      "time_shift_type": ("exponential",),
      "use_beta_sigmas": (None, False),
      "use_dynamic_shifting": (True,),
      "use_exponential_sigmas": (None, False),
      "use_karras_sigmas": (None, False),
    },
  ),
  "model_index": ((), {}),
}


def describe(
  configs: Mapping[str, Mapping[str, Any]], taps: Sequence[int] = TAPS
) -> dict[str, Any]:
  """Returns the fields of the modules, and what else weights do not show.

  Args:
    configs: the contents of the files of CONFIGS.
    taps: see TAPS.

  Returns:
    Plain data: "kind"; "model", with the fields of `transformer.Transformer`,
    `vae.Autoencoder` and `qwen3.Qwen3` as "transformer", "vae" and
    "text"; and "distilled", whether it is walked without guidance.

  Raises:
    UserError: listing every field that is missing or not supported.
  """
  problems = []
  for part, (needed, fixed) in _FIXED.items():
    problems += unfit(part, configs[part], needed, fixed)
  if not problems:
    transformer = _transformer(configs["transformer"])
    vae, vae_problems = vae_fields(configs["vae"])
    text, text_problems = qwen3.fields(configs["text_encoder"], taps)
    problems += vae_problems
    problems += [f"text_encoder: {problem}" for problem in text_problems]
    problems += _misfits(transformer, vae, text)
  if problems:
    raise UserError(
      "This is no FLUX.2-klein:\n  " + "\n  ".join(sorted(problems))
    )
  return {
    "kind": KIND,
    "model": {"transformer": transformer, "vae": vae, "text": text},
    "distilled": bool(configs["model_index"].get("is_distilled")),
  }


def _transformer(settings: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "in_channels": settings["in_channels"],
    "heads": settings["num_attention_heads"],
    "head_dim": settings["attention_head_dim"],
    "double_blocks": settings["num_layers"],
    "single_blocks": settings["num_single_layers"],
    "context_dim": settings["joint_attention_dim"],
    "time_dim": settings.get("timestep_guidance_channels", 256),
    "mlp_ratio": settings.get("mlp_ratio", 3.0),
    "axes": list(settings["axes_dims_rope"]),
    "theta": settings.get("rope_theta", 2000),
  }


def _misfits(
  transformer: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping
) -> list[str]:
  """Returns the problems of fields that do not fit each other."""
  axes, head = transformer["axes"], transformer["head_dim"]
  channels = latents.SIDE**2 * vae["latent_channels"]
  tapped = len(text["taps"]) * text["width"]
  return [
    f"transformer: {field}, but {other}"
    for fits, field, other in (
      (
        len(axes) == 4 and sum(axes) == head,
        f"axes_dims_rope={axes}",
        f"needed are four of together attention_head_dim={head}",
      ),
      (
        transformer["in_channels"] == channels,
        f"in_channels={transformer['in_channels']}",
        f"a patch of vae: latent_channels has {channels}",
      ),
      (
        transformer["context_dim"] == tapped,
        f"joint_attention_dim={transformer['context_dim']}",
        f"{len(text['taps'])} layers of text_encoder: hidden_size have "
        f"{tapped}",
      ),
    )
    if not fits
  ]


def from_released(
  weights: Mapping[str, Mapping[str, np.ndarray]],
  configs: Mapping[str, Mapping[str, Any]],
  taps: Sequence[int] = TAPS,
) -> tuple[dict, dict[str, Any]]:
  """Converts the networks, at any size.

  Args:
    weights: of each of PARTS, by their released names.
    configs: as `describe`.
    taps: see TAPS.

  Returns:
    Variables, {"params": {"transformer", "vae", "text", "latents"}} of the
    weights' dtypes, the last as `latents.pack` takes it; and the description.

  Raises:
    UserError: as `describe`, or listing every weight that is unused, missing or
      misshapen, of all networks.
  """
  about = describe(configs, taps)
  like, params, problems = shapes(about["model"]), {}, []
  for folder, part in PARTS.items():
    of_part = weights[folder]
    if part == "text":
      of_part = qwen3.used(of_part, taps)
    of_part = {k: w for k, w in of_part.items() if "num_batches" not in k}
    try:
      got = convert(of_part, RULES[part], like[part])
    except UserError as error:
      problems.append(f"{folder}: {error}")
    else:
      params |= {part: got["params"]}
      params |= {k: w for k, w in got.items() if k == "latents"}
  if problems:
    raise UserError("\n".join(problems))
  return {"params": params}, about


def to_released(variables: Mapping) -> dict[str, dict[str, np.ndarray]]:
  """Returns the weights of each folder under their released names."""
  params = variables["params"]
  trees = {part: {"params": params[part]} for part in PARTS.values()}
  trees["vae"] |= {"latents": params["latents"]}
  return {
    folder: restore(trees[part], RULES[part]) for folder, part in PARTS.items()
  }


def _transformer_rules() -> list[Rule]:
  modulations = (
    *("double_stream_modulation_img", "double_stream_modulation_txt"),
    *("single_stream_modulation", "norm_out"),
  )
  outside = (
    *("x_embedder", "context_embedder", "proj_out"),
    *(f"time_guidance_embed.timestep_embedder.linear_{i}" for i in (1, 2)),
    *(f"{name}.linear" for name in modulations),
  )
  double = (
    *(f"attn.to_{x}" for x in "qkv"),
    *(f"attn.add_{x}_proj" for x in "qkv"),
    *("attn.to_out.0", "attn.to_add_out"),
    *(f"ff{s}.linear_{x}" for s in ("", "_context") for x in ("in", "out")),
  )
  norms = [f"attn.norm_{x}" for x in "qk"]
  added = [f"attn.norm_added_{x}" for x in "qk"]
  here = lambda name: name.replace(".", "_")
  rules = [
    Rule(f"{name}.weight", f"params/{here(name)}/kernel", linear)
    for name in outside
  ]
  for block, matrices, scales in (
    ("transformer_blocks", double, norms + added),
    (
      "single_transformer_blocks",
      ("attn.to_qkv_mlp_proj", "attn.to_out"),
      norms,
    ),
  ):
    place = f"{block}.{{i}}", f"params/{block}_{{i}}"
    rules += [
      Rule(f"{place[0]}.{m}.weight", f"{place[1]}/{here(m)}/kernel", linear)
      for m in matrices
    ]
    rules += [
      Rule(f"{place[0]}.{s}.weight", f"{place[1]}/{here(s)}/scale")
      for s in scales
    ]
  return rules


RULES = {
  "transformer": _transformer_rules(),
  "vae": [
    *vae_rules(),
    Rule("bn.running_mean", "latents/mean"),
    Rule("bn.running_var", "latents/var"),
  ],
  "text": qwen3.RULES,
}


# --- modules ------------------------------------------------------------------

_MODULES = {
  "transformer": Transformer,
  "vae": Autoencoder,
  "text": Qwen3,
}


def make_models(
  model: Mapping[str, Mapping[str, Any]],
  dtype: str = "float32",
  vae_dtype: str = "float32",
) -> dict[str, nn.Module]:
  """Builds the modules of a description's "model"; see `describe`."""
  return {
    part: _MODULES[part](
      dtype=jnp.dtype(vae_dtype if part == "vae" else dtype),
      **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()},
    )
    for part, fields in model.items()
  }


def shapes(model: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the shapes of each network's variables, as `jax.eval_shape`.

  Those of the autoencoder have "latents" beside "params".
  """
  made = {
    part: jax.eval_shape(module.init, jax.random.key(0), *inputs(module))
    for part, module in make_models(model).items()
  }
  channels = latents.SIDE**2 * model["vae"]["latent_channels"]
  statistic = jax.ShapeDtypeStruct((channels,), jnp.float32)
  return made | {
    "vae": {**made["vae"], "latents": {"mean": statistic, "var": statistic}}
  }


def inputs(module: nn.Module) -> list[jax.ShapeDtypeStruct]:
  """Returns the shapes of the smallest inputs of one of the modules."""
  array = lambda *shape, of=jnp.float32: jax.ShapeDtypeStruct(shape, of)
  if isinstance(module, Qwen3):
    return [array(1, 1, of=jnp.int32), array(1, 1, of=bool)]
  if isinstance(module, Autoencoder):
    side = 2 ** (len(module.widths) - 1)
    return [array(1, side, side, module.in_channels)]
  image = array(1, 1, 1, module.in_channels)
  return [image, array(1), array(1, 1, module.context_dim)]


# --- folders ------------------------------------------------------------------


def from_folder(folder: epath.PathLike) -> tuple[dict, dict[str, Any]]:
  """Converts a folder; returns as `from_released`.

  Raises:
    UserError: listing the files that are missing, or as `from_released`.
  """
  folder = epath.Path(folder)
  paths = {part: weights_file(folder / part) for part in PARTS}
  lacking = [f"the weights in {k}/" for k, path in paths.items() if not path]
  names = *CONFIGS.values(), TOKENIZER
  lacking += [name for name in names if not (folder / name).exists()]
  if lacking:
    raise UserError(
      f"{folder} is no folder of FLUX.2-klein in diffusers' layout: it lacks "
      f"{', '.join(lacking)}. A single file of weights cannot be read."
    )
  configs = {k: read_json(folder / name, dict) for k, name in CONFIGS.items()}
  weights = {part: read.read_weights(path) for part, path in paths.items()}
  try:
    return from_released(weights, configs, TAPS)
  except UserError as error:
    raise UserError(f"{folder} cannot be converted: {error}") from None


def files_of(folder: epath.PathLike) -> list[epath.Path]:
  """Returns the files that `from_folder` reads, and the tokenizer's."""
  folder = epath.Path(folder)
  paths = [weights_file(folder / part) for part in PARTS]
  paths += [folder / name for name in (*CONFIGS.values(), TOKENIZER)]
  return paths + [part for path in paths for part in read.parts_of(path)]


def wanted(names: Sequence[str]) -> list[str]:
  """Returns the files of a folder that are read, among all that it has.

  Of each network, it is one file of weights, or an index.
  """
  chosen = [*CONFIGS.values(), TOKENIZER]
  weights = {part: weights_name(below(names, part)) for part in PARTS}
  chosen += [f"{part}/{name}" for part, name in weights.items() if name]
  return [name for name in chosen if name in {*names}]
