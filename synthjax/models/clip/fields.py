"""Finds the fields of a released CLIP: sizes in its weights, heads elsewhere.

Weights have OpenAI's names here. They show neither the heads of attention nor
the activation, which the config beside them states.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.models.clip import model as clip
from synthjax.models.clip.resnet import REDUCTION
from synthjax.models.clip.vit import ACTIVATIONS
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights.rules import numbers_in

# --- sizes, from the shapes of the weights ------------------------------------

POSITIONS = "positional_embedding"
HEAD = 64  # numbers that a head reads, in every CLIP of OpenAI


def image_fields(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns the fields of CLIP that describe its image tower, but its heads.

  Args:
    weights: by OpenAI's names.

  Raises:
    UserError: when the weights do not show the sizes.
  """
  if any(name.startswith("visual.layer") for name in weights):
    tower, pooled = "resnet", "visual.attnpool."
    stages = [f"visual.layer{i}." for i in (1, 2, 3, 4)]
    (width, *_), (places, _), (embed_dim, _), *_ = _shapes(
      weights,
      {
        "visual.layer1.0.conv1.weight": 4,
        f"{pooled}{POSITIONS}": 2,
        f"{pooled}c_proj.weight": 2,
      }
      | {f"{stage}0.conv1.weight": 4 for stage in stages[1:]},
    )
    layers = [_count(weights, stage) for stage in stages]
    patch, step = None, REDUCTION
  else:
    tower, blocks = "vit", "visual.transformer.resblocks."
    (width, _, _, patch), (places, _), (_, embed_dim), *_ = _shapes(
      weights,
      {
        "visual.conv1.weight": 4,
        f"visual.{POSITIONS}": 2,
        "visual.proj": 2,
        f"{blocks}0.ln_1.weight": 1,
      },
    )
    layers, step = _count(weights, blocks), patch
  side = round((places - 1) ** 0.5)
  if side**2 != places - 1:
    raise UserError(
      f"This CLIP's image tower has {places} positions, which is not one more "
      "than a square. Only weights of square images can be converted."
    )
  return {
    "image_tower": tower,
    "embed_dim": embed_dim,
    "image_size": step * side,
    "patch_size": patch,
    "vision_width": width,
    "vision_layers": layers,
  }


def text_fields(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns the fields of CLIP that describe its text tower, but its heads.

  Arguments and errors are those of `image_fields`.
  """
  blocks = "transformer.resblocks."
  (vocab_size, width), (length, _), *_ = _shapes(
    weights,
    {
      "token_embedding.weight": 2,
      POSITIONS: 2,
      f"{blocks}0.ln_1.weight": 1,
    },
  )
  return {
    "context_length": length,
    "vocab_size": vocab_size,
    "text_width": width,
    "text_layers": _count(weights, blocks),
  }


def _shapes(
  weights: Mapping[str, np.ndarray], ranks: Mapping[str, int]
) -> list[tuple[int, ...]]:
  """Returns the shapes of the weights that sizes are read from.

  Args:
    weights: by OpenAI's names.
    ranks: the number of axes that each of the weights must have.
  """
  lacking = [
    f"{name} with {rank} axes"
    for name, rank in ranks.items()
    if name not in weights or np.ndim(weights[name]) != rank
  ]
  if lacking:
    some = ", ".join(
      f"{name} {np.shape(weights[name])}" for name in sorted(weights)[:6]
    )
    raise UserError(
      "These are not the weights of a CLIP. Its sizes are read from "
      f"{', '.join(ranks)} (OpenAI's names, also of other layouts); there is "
      f"no {', no '.join(lacking)}. Found {len(weights)} weights, such as "
      f"{some or 'none'}. Give the whole state dict of a CLIP, or of the image "
      "tower of one."
    )
  return [np.shape(weights[name]) for name in ranks]


def _count(weights: Mapping[str, np.ndarray], prefix: str) -> int:
  """Counts the layers whose names begin with `prefix` and a number."""
  return 1 + max(numbers_in(weights, re.escape(prefix) + r"(\d+)\."))[0]


# --- what no shape shows ------------------------------------------------------

HIDDEN = ("vision_heads", "text_heads", "activation")


def hidden_fields(
  sizes: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """Returns the heads of a network, and its activation where it has one.

  Args:
    sizes: the fields that the weights show.
    sources: fields that are stated, the most trusted first. None is no answer.

  Raises:
    UserError: about what nothing states, or what cannot be.
  """
  read, hidden = _attended(sizes), {}
  # A ResNet alone has no transformer.
  alone = {*read} == {"vision_heads"} and sizes["image_tower"] == "resnet"
  wanted = [*read] if alone else [*read, "activation"]
  for source in reversed(sources):
    hidden |= {k: source[k] for k in wanted if source.get(k) is not None}
  if lacking := [field for field in wanted if field not in hidden]:
    raise UserError(
      f"The weights of a CLIP do not show its {', '.join(lacking)}, and "
      "nothing states them. Put the config.json (or open_clip_config.json) of "
      "their publisher beside them, or give "
      + " ".join(f"--{field}=..." for field in lacking)
      + f". The activation is one of {', '.join(ACTIVATIONS)}; OpenAI's models "
      f"have quick_gelu, and heads of {HEAD}: "
      + ", ".join(f"{field}={n // HEAD}" for field, n in read.items())
      + "."
    )
  for field, width in read.items():
    heads = hidden[field]
    if not isinstance(heads, int) or heads < 1 or width % heads:
      raise UserError(
        f"{field}={heads!r} does not divide the width of {width}."
      )
  if hidden.get("activation", "quick_gelu") not in ACTIVATIONS:
    raise unknown_names("activation", [hidden["activation"]], ACTIVATIONS)
  if hidden.get("activation") == "quick_gelu":
    del hidden["activation"]  # the default, which older files leave out
  return hidden


def known_fields(sizes: Mapping[str, Any], model: str | None) -> dict[str, Any]:
  """Returns what a key of `clip.MODELS` has, if its sizes are these."""
  if model is None:
    return {}
  made = clip.MODELS[model]()
  as_made = {
    k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()
  }
  if any(getattr(made, field) != value for field, value in as_made.items()):
    return {}
  return {field: getattr(made, field) for field in HIDDEN}


def openai_rule(sizes: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what OpenAI's code reads from the sizes of its archives."""
  heads = {field: width // HEAD for field, width in _attended(sizes).items()}
  return heads | {"activation": "quick_gelu"}


def _attended(sizes: Mapping[str, Any]) -> dict[str, int]:
  """Returns the width that the heads of each tower share."""
  pooled = REDUCTION if sizes["image_tower"] == "resnet" else 1
  widths = {"vision_heads": pooled * sizes["vision_width"]}
  if "text_width" in sizes:
    widths["text_heads"] = sizes["text_width"]
  return widths


def check_sizes(sizes: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
  """Raises a UserError about a config of another network."""
  others = [
    f"{field}={value} (the weights have {sizes[field]})"
    for field, value in settings.items()
    if field in sizes and value != sizes[field]
  ]
  if others:
    raise UserError(
      "the config beside these weights is that of others: "
      f"{', '.join(others)}. Give the config that belongs to them."
    )


# --- the configs of publishers ------------------------------------------------

Config = Mapping[str, Any]


def read_config(settings: Config) -> dict[str, Any]:
  """Returns the fields of `model.CLIP` that a config states.

  Args:
    settings: of Hugging Face's CLIPModel (and of the image tower alone), or of
      open_clip, whole or its "model_cfg".

  Returns:
    "vision_heads", "text_heads" and "activation"; also the sizes that it
    states, to be compared with those of the weights. Fields that are left out
    have the defaults of the library.

  Raises:
    UserError: listing every setting of a network that `model.CLIP` is not.
  """
  kind = settings.get("model_type")
  try:
    model = settings.get("model_cfg", settings)
    if "vision_cfg" in model:
      preprocess = settings.get("preprocess_cfg") or {}
      fields, problems = _open_clip(model, preprocess)
    elif kind in ("clip", "clip_vision_model"):
      fields, problems = _hugging_face(settings)
    else:
      needed = "needed 'clip', or the vision_cfg of open_clip"
      fields, problems = {}, [f"model_type={kind!r}: {needed}"]
  except (AttributeError, TypeError, ArithmeticError) as error:
    raise UserError(f"its config cannot be read ({error}).") from None
  if problems:
    raise UserError(
      "this CLIP cannot be run, as its config says\n  " + "\n  ".join(problems)
    )
  return {key: value for key, value in fields.items() if value is not None}


# --- Hugging Face -------------------------------------------------------------


def _hugging_face(settings: Config) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields, and what is wrong; see `read_config`."""
  if settings["model_type"] == "clip":
    # The older "..._dict" overrides its twin, as it does in transformers.
    vision, text = (
      (settings.get(f"{name}_config") or {})
      | (settings.get(f"{name}_config_dict") or {})
      for name in ("vision", "text")
    )
  else:
    vision, text = settings, {}
  acts = {
    f"{name}.hidden_act": tower.get("hidden_act", "quick_gelu")
    for name, tower in (("vision_config", vision), ("text_config", text))
  }
  if vision is settings:
    acts = {"hidden_act": settings.get("hidden_act", "quick_gelu")}
  problems = [
    f"{name}={act!r}: needed one of {', '.join(ACTIVATIONS)}"
    for name, act in acts.items()
    if act not in ACTIVATIONS
  ]
  if not problems and len({*acts.values()}) > 1:
    problems.append(f"{acts}: needed the same activation in both towers")
  for tower in (vision, text):
    problems += _others(tower, {"layer_norm_eps": (1e-5,)})
  # With 2, which older files have, a text is read at the largest id.
  last = text.get("vocab_size", 49408) - 1
  problems += _others(text, {"eos_token_id": (2, last, None)})
  fields = {
    "activation": next(iter(acts.values())),
    "vision_heads": vision.get("num_attention_heads", 12),
    "text_heads": text.get("num_attention_heads", 8),
    "image_size": vision.get("image_size"),
    "patch_size": vision.get("patch_size"),
    "vision_width": vision.get("hidden_size"),
    "vision_layers": vision.get("num_hidden_layers"),
    "text_width": text.get("hidden_size"),
    "text_layers": text.get("num_hidden_layers"),
  }
  return fields, problems


# --- open_clip ----------------------------------------------------------------

# Fields that the sizes or the results do not depend on, or that are read.
_READ = {
  "vision_cfg": "layers width head_width patch_size image_size patch_dropout",
  "text_cfg": "context_length vocab_size width heads layers",
}
# The values of others that change nothing.
_PLAIN = {"pool_type": ("tok", "argmax"), "mlp_ratio": (4, 4.0)}


def _open_clip(
  model: Config, preprocess: Config
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields, and what is wrong; see `read_config`."""
  vision, text = model["vision_cfg"], model.get("text_cfg") or {}
  problems = list(
    _others(preprocess, {"mean": (clip.MEAN,), "std": (clip.STD,)})
  )
  for name, read in _READ.items():
    tower = model.get(name) or {}
    problems += [
      f"{name}.{field}={value!r}: not supported"
      for field, value in tower.items()
      if field not in read.split()
      and value not in (None, False, {}, *_PLAIN.get(field, ()))
    ]
  width, size = vision.get("width"), vision.get("head_width", 64)
  resnet = isinstance(vision.get("layers"), list | tuple)
  fields = {
    "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
    "vision_heads": width and (32 * width if resnet else width) // size,
    "text_heads": text.get("heads", 8),
    "image_size": vision.get("image_size"),
    "patch_size": None if resnet else vision.get("patch_size"),
    "vision_width": width,
    "vision_layers": vision.get("layers"),
    "text_width": text.get("width"),
    "text_layers": text.get("layers"),
  }
  return fields, problems


def _others(
  settings: Config, allowed: Mapping[str, tuple[Any, ...]]
) -> Iterator[str]:
  """Yields the fields that have other values than the allowed ones."""
  for field, values in allowed.items():
    value = settings.get(field, values[0])
    value = tuple(value) if isinstance(value, list) else value
    if value not in values:
      yield f"{field}={value!r}: needed {' or '.join(map(repr, values))}"
