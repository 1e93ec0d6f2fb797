"""Reads the configurations in a diffusers folder of Stable Diffusion."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.runtime.errors import UserError

Config = Mapping[str, Any]

# The supported values of fields, where they are given.
_UNET_FIXED = {
  "act_fn": ("silu",),
  "addition_embed_type": (None, "text_time"),
  "center_input_sample": (False,),
  "class_embed_type": (None,),
  "conv_in_kernel": (3,),
  "conv_out_kernel": (3,),
  "downsample_padding": (1,),
  "dual_cross_attention": (False,),
  "encoder_hid_dim": (None,),
  "flip_sin_to_cos": (True,),
  "freq_shift": (0,),
  "mid_block_only_cross_attention": (None, False),
  "mid_block_scale_factor": (1, 1.0),
  "mid_block_type": ("UNetMidBlock2DCrossAttn",),
  "norm_eps": (1e-5,),
  "norm_num_groups": (32,),
  "num_class_embeds": (None,),
  "only_cross_attention": (False,),
  "resnet_time_scale_shift": ("default",),
  "time_cond_proj_dim": (None,),
  "time_embedding_type": ("positional",),
  "timestep_post_act": (None,),
  "reverse_transformer_layers_per_block": (None,),
}
VAE_FIXED = {
  "act_fn": ("silu",),
  "latents_mean": (None,),
  "latents_std": (None,),
  "mid_block_add_attention": (True,),
  "norm_num_groups": (32,),
  "shift_factor": (None, 0, 0.0),
  "use_post_quant_conv": (True,),
  "use_quant_conv": (True,),
}
_TEXT_FIXED = {"hidden_act": ("quick_gelu", "gelu"), "layer_norm_eps": (1e-5,)}
_SCHEDULER_FIXED = {
  "beta_schedule": ("scaled_linear", "linear"),
  "prediction_type": ("epsilon", "v_prediction"),
  "rescale_betas_zero_snr": (False,),
  "timestep_spacing": ("leading", "trailing", "linspace"),
  "thresholding": (False,),
  "clip_sample": (False,),
  "trained_betas": (None,),
  "use_beta_sigmas": (None, False),
  "use_exponential_sigmas": (None, False),
  "use_karras_sigmas": (None, False),
}
_TEXT_NEEDED = (
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "max_position_embeddings",
  "vocab_size",
)

# For each configuration: required fields, and the tables above. XL alone has
# the second text encoder.
_FIXED = {
  "unet": (
    ("block_out_channels", "cross_attention_dim", "attention_head_dim"),
    _UNET_FIXED,
  ),
  "vae": (("block_out_channels",), VAE_FIXED),
  "text_encoder": (_TEXT_NEEDED, _TEXT_FIXED),
  "text_encoder_2": ((*_TEXT_NEEDED, "projection_dim"), _TEXT_FIXED),
  "scheduler": (("beta_start", "beta_end", "beta_schedule"), _SCHEDULER_FIXED),
}


def describe(configs: Mapping[str, Config]) -> dict[str, Any]:
  """Returns the fields of the modules, and what else weights do not show.

  Args:
    configs: the contents of the files of `unet`, `vae`, `text_encoder` and
      `scheduler`. XL has `text_encoder_2` as well, and may have `model_index`.

  Returns:
    Plain data: "model", with the fields of `unet.UNet`, `vae.Autoencoder` and
    `text.TextEncoder` as "unet", "vae" and "text", and "text_2" of XL;
    "image_size" in px; "latent_scale"; "schedule"; "linear_projection"; and of
    XL "zeros_for_empty", whether zeros stand for an empty negative prompt.

  Raises:
    UserError: listing every field that is missing or not supported.
  """
  problems = []
  is_xl = "text_encoder_2" in configs
  for part, (needed, fixed) in _FIXED.items():
    if part == "text_encoder_2" and not is_xl:
      continue
    problems += unfit(part, configs[part], needed, fixed)
  if not problems:
    unet, unet_problems = _unet(configs["unet"])
    problems += unet_problems
    vae, vae_problems = vae_fields(configs["vae"])
    problems += vae_problems
    towers = {"text": "text_encoder"}
    towers |= {"text_2": "text_encoder_2"} if is_xl else {}
    texts = {name: _text(configs[part]) for name, part in towers.items()}
    if is_xl:
      for text in texts.values():
        text["penultimate"] = True
      texts["text_2"]["projection"] = configs["text_encoder_2"][
        "projection_dim"
      ]
    problems += _misfits(unet, vae, texts)
    for name, part in towers.items():
      problems += _text_problems(part, texts[name], configs[part])
  if problems:
    raise UserError(
      "This is no Stable Diffusion 1.x, 2.x or XL that draws from text alone:"
      "\n  " + "\n  ".join(sorted(problems))
    )
  side = 2 ** (len(vae["widths"]) - 1)
  about = {
    "model": {"unet": unet, "vae": vae, **texts},
    "image_size": side * _side(configs["unet"].get("sample_size", 64)),
    # Old files lack it; every released model has this value.
    "latent_scale": configs["vae"].get("scaling_factor") or 0.18215,
    "schedule": _schedule(configs["scheduler"]),
    "linear_projection": bool(configs["unet"].get("use_linear_projection")),
  }
  if is_xl:
    index = configs.get("model_index", {})
    about["zeros_for_empty"] = index.get("force_zeros_for_empty_prompt", True)
  return about


def unfit(
  part: str,
  given: Config,
  needed: Sequence[str],
  fixed: Mapping[str, Sequence[Any]],
) -> list[str]:
  """Returns the fields that a configuration lacks, or that are not supported.

  Args:
    part: whose configuration it is, for the messages.
    given: the configuration.
    needed: fields that it must have.
    fixed: the supported values of fields, where they are given.
  """
  problems = [f"{part}: no {f}" for f in needed if given.get(f) is None]
  return problems + [
    f"{part}: {field}={given[field]!r}, supported: "
    + " or ".join(map(repr, allowed))
    for field, allowed in fixed.items()
    if field in given and _plain(given[field]) not in allowed
  ]


def _plain(value: Any) -> Any:
  """Returns the entry of a list whose entries are all the same."""
  if isinstance(value, Sequence) and not isinstance(value, str) and value:
    return value[0] if len({*map(repr, value)}) == 1 else repr(value)
  return value


def _side(value: Any) -> int:
  return int(value[0] if isinstance(value, Sequence) else value)


def _per_level(value: Any, levels: int) -> list[Any]:
  """Returns a field for each level, which may be given once for all."""
  return list(value) if isinstance(value, Sequence) else [value] * levels


def _unet(settings: Config) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of the UNet, and their problems."""
  widths = list(settings["block_out_channels"])
  # diffusers calls the number of heads attention_head_dim, as old files do.
  heads = settings.get("num_attention_heads") or settings["attention_head_dim"]
  heads = _per_level(heads, len(widths))
  depths = settings.get("transformer_layers_per_block", 1)
  depths = _per_level(depths, len(widths))
  layers = settings.get("layers_per_block", 2)
  default = ["CrossAttnDownBlock2D"] * (len(widths) - 1) + ["DownBlock2D"]
  downs = settings.get("down_block_types", default)
  attention = [kind == "CrossAttnDownBlock2D" for kind in downs]
  mirrored = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention]
  mirrored = mirrored[::-1]
  ups = settings.get("up_block_types", mirrored)
  problems = [
    f"unet: {field} has {len(value)} entries for {len(widths)} levels"
    for field, value in (
      ("down_block_types", downs),
      ("attention_head_dim", heads),
      ("transformer_layers_per_block", depths),
    )
    if len(value) != len(widths)
  ]
  if odd := {*downs} - {"CrossAttnDownBlock2D", "DownBlock2D"}:
    problems.append(
      f"unet: down_block_types has {sorted(odd)}, supported: "
      "'CrossAttnDownBlock2D' or 'DownBlock2D'"
    )
  elif list(ups) != mirrored:
    problems.append(f"unet: up_block_types={ups} does not mirror {downs}")
  if not isinstance(layers, int):
    problems.append(f"unet: layers_per_block={layers}, supported: one number")
  if not all(isinstance(depth, int) for depth in depths):
    problems.append(
      f"unet: transformer_layers_per_block={depths}, supported: one number for "
      "each level"
    )
  for width, count in zip(widths, heads, strict=False):
    if width % 32 or width % count:
      problems.append(
        f"unet: a level of {width} channels does not split into 32 groups and "
        f"{count} heads"
      )
  added = {}
  if settings.get("addition_embed_type"):
    size_dim = settings.get("addition_time_embed_dim") or 256
    width = settings.get("projection_class_embeddings_input_dim") or 0
    added = {"pooled_dim": width - 6 * size_dim, "size_dim": size_dim}
  if depths != [1] * len(widths):  # absent in files that are packed already
    added["depths"] = depths
  return added | {
    "in_channels": settings.get("in_channels", 4),
    "out_channels": settings.get("out_channels", 4),
    "widths": widths,
    "layers": layers,
    "attention": attention,
    "heads": heads,
    "context_dim": settings["cross_attention_dim"],
  }, problems


def vae_fields(settings: Config) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of the autoencoder, and their problems."""
  widths = list(settings["block_out_channels"])
  problems = [
    f"vae: a level of {width} channels does not split into 32 groups"
    for width in widths
    if width % 32
  ]
  for way, kind in (("down", "DownEncoder"), ("up", "UpDecoder")):
    types = settings.get(f"{way}_block_types", [f"{kind}Block2D"] * len(widths))
    if list(types) != [f"{kind}Block2D"] * len(widths):
      problems.append(
        f"vae: {way}_block_types={types}, supported: '{kind}Block2D' for each "
        f"of {len(widths)} levels"
      )
  return {
    "in_channels": settings.get("in_channels", 3),
    "out_channels": settings.get("out_channels", 3),
    "widths": widths,
    "layers": settings.get("layers_per_block", 2),
    "latent_channels": settings.get("latent_channels", 4),
  }, problems


def _text(settings: Config) -> dict[str, Any]:
  return {
    "vocab_size": settings["vocab_size"],
    "context_length": settings["max_position_embeddings"],
    "width": settings["hidden_size"],
    "layers": settings["num_hidden_layers"],
    "heads": settings["num_attention_heads"],
    "activation": settings.get("hidden_act", "quick_gelu"),
  }


def _misfits(unet: Config, vae: Config, texts: Config) -> list[str]:
  """Returns the problems of fields that do not fit each other."""
  problems = []
  latent = vae["latent_channels"]
  if {unet["in_channels"], unet["out_channels"]} != {latent}:
    problems.append(
      f"unet: reads {unet['in_channels']} and predicts {unet['out_channels']} "
      f"channels of latents that have {latent}; models for inpainting, editing "
      "or depth read more, and are not supported"
    )
  widths = [text["width"] for text in texts.values()]
  if unet["context_dim"] != sum(widths):
    problems.append(
      f"unet: cross_attention_dim={unet['context_dim']}, but text_encoder: "
      f"hidden_size={' + '.join(map(str, widths))}"
    )
  pooled = texts.get("text_2", {}).get("projection")
  if unet.get("pooled_dim") != pooled:
    problems.append(
      f"unet: it reads pooled prompts of width {unet.get('pooled_dim')} "
      "(projection_class_embeddings_input_dim less six "
      f"addition_time_embed_dim), but text_encoder_2: projection_dim={pooled}"
    )
  return problems


def _text_problems(part: str, text: Config, raw: Config) -> list[str]:
  """Returns the problems of a text encoder's fields."""
  problems = []
  if text["width"] % text["heads"]:
    problems.append(
      f"{part}: hidden_size={text['width']} does not split over "
      f"{text['heads']} heads"
    )
  if raw.get("intermediate_size", 4 * text["width"]) != 4 * text["width"]:
    problems.append(
      f"{part}: intermediate_size={raw['intermediate_size']}, supported: "
      f"{4 * text['width']}"
    )
  return problems


def _schedule(settings: Config) -> dict[str, Any]:
  """Returns the noise schedule, with diffusers' defaults for missing fields."""
  return {
    "betas": settings["beta_schedule"],
    "first": settings["beta_start"],
    "last": settings["beta_end"],
    "num_steps": settings.get("num_train_timesteps", 1000),
    "prediction": settings.get("prediction_type", "epsilon"),
    "spacing": settings.get("timestep_spacing", "leading"),
    "offset": settings.get("steps_offset", 0),
    "ends_clean": settings.get("set_alpha_to_one", True),
  }
