"""Reads Qwen3 in Hugging Face's layout, as far as its use needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.models.qwen3.model import Qwen3
from synthjax.models.stable_diffusion.folder import unfit
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.weights import read
from synthjax.weights.rules import Rule, convert, linear, numbers_in
from synthjax.weights.snapshots import below, weights_file, weights_name

KIND = "qwen3"

_LAYER = "model.layers.{i}", "params/layers_{i}"
RULES = [
  Rule("model.embed_tokens.weight", "params/embed_tokens/embedding"),
  Rule("model.norm.weight", "params/norm/scale"),
  Rule("lm_head.weight", "params/lm_head/kernel", linear),
  *(
    Rule(f"{_LAYER[0]}.{name}.weight", f"{_LAYER[1]}/{name}/scale")
    for name in ("input_layernorm", "post_attention_layernorm")
  ),
  *(
    Rule(
      f"{_LAYER[0]}.self_attn.{x}_norm.weight",
      f"{_LAYER[1]}/self_attn_{x}_norm/scale",
    )
    for x in "qk"
  ),
  *(
    Rule(
      f"{_LAYER[0]}.{inner}.{name}_proj.weight",
      f"{_LAYER[1]}/{inner}_{name}_proj/kernel",
      linear,
    )
    for inner, names in (
      ("self_attn", ("q", "k", "v", "o")),
      ("mlp", ("gate", "up", "down")),
    )
    for name in names
  ),
]

NEEDED = (
  "hidden_size",
  "intermediate_size",
  "num_attention_heads",
  "num_hidden_layers",
  "num_key_value_heads",
  "vocab_size",
)
# The supported values of fields, where they are given.
FIXED = {
  "attention_bias": (False,),
  "hidden_act": ("silu",),
  "model_type": ("qwen3",),
  "rope_scaling": (None,),
  "use_sliding_window": (False,),
}


def fields(
  settings: Mapping[str, Any], taps: Sequence[int]
) -> tuple[dict[str, Any], list[str]]:
  """Returns the fields of `model.Qwen3`, and their problems.

  Args:
    settings: a config.json that has NEEDED.
    taps: the layers behind which tokens are read; none of one that writes.
  """
  width, heads = settings["hidden_size"], settings["num_attention_heads"]
  rope = settings.get("rope_parameters") or {}
  problems = []
  if rope.get("rope_type", "default") != "default":
    problems.append(f"rope_type={rope['rope_type']!r}, supported: 'default'")
  # Behind the last layer there is a norm.
  if taps and settings["num_hidden_layers"] <= max(taps):
    problems.append(
      f"num_hidden_layers={settings['num_hidden_layers']}, but layer "
      f"{max(taps)} is read, and further ones are needed"
    )
  if heads % settings["num_key_value_heads"]:
    problems.append(
      f"num_attention_heads={heads} does not split over "
      f"num_key_value_heads={settings['num_key_value_heads']}"
    )
  return {
    "vocab_size": settings["vocab_size"],
    "width": width,
    "heads": heads,
    "key_heads": settings["num_key_value_heads"],
    "head_dim": settings.get("head_dim") or width // heads,
    "mlp_width": settings["intermediate_size"],
    "taps": list(taps),
    # transformers 5 writes it into rope_parameters.
    "theta": rope.get("rope_theta") or settings.get("rope_theta", 10_000.0),
    "epsilon": settings.get("rms_norm_eps", 1e-6),
  }, problems


def used(
  weights: Mapping[str, np.ndarray], taps: Sequence[int]
) -> dict[str, np.ndarray]:
  """Returns the weights without the layers behind the last that is read."""
  layers = numbers_in(weights, r"model\.layers\.(\d+)\.")
  behind = {f"model.layers.{i}." for (i,) in layers if i >= max(taps)}
  others = (*behind, "model.norm.weight", "lm_head.weight")
  return {k: w for k, w in weights.items() if not k.startswith(others)}


# --- folders, of one that writes ----------------------------------------------

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
# Folders of weights and of the tokenizer: of a Qwen3, of a FLUX.2-klein.
_LAYOUTS = (("", ""), ("text_encoder/", "tokenizer/"))


def from_folder(folder: epath.PathLike) -> tuple[Qwen3, dict, epath.Path]:
  """Reads a Qwen3 that writes, from its own folder or from a FLUX.2-klein's.

  Returns:
    The module, whose dtype is float32; its variables, of the weights' dtypes;
    and the path of the tokenizer.

  Raises:
    UserError: about missing files, or listing all that does not fit.
  """
  weights_path, config, tokenizer = files_of(folder)[:3]
  settings = read_json(config, dict)
  problems = unfit(KIND, settings, NEEDED, FIXED)
  if not problems:
    of_model, problems = fields(settings, taps=())
  if problems:
    listed = "\n  ".join(problems)
    raise UserError(f"{folder} holds no Qwen3 that is supported:\n  {listed}")
  tied = bool(settings.get("tie_word_embeddings"))
  count = settings["num_hidden_layers"]
  model = Qwen3(**of_model | {"taps": (), "num_layers": count, "tied": tied})
  weights = read.read_weights(weights_path)
  if tied:  # some files hold the matrix twice
    weights.pop("lm_head.weight", None)
  try:
    return model, convert(weights, RULES, shapes(model)), tokenizer
  except UserError as error:
    raise UserError(f"{folder} cannot be converted: {error}") from None


def shapes(model: Qwen3) -> dict[str, Any]:
  """Returns the shapes of the variables of one that writes."""
  token = jnp.zeros(1, jnp.int32)
  make = lambda rng: model.init(
    rng, token, 0, model.empty_memory(1, 1), method="step"
  )
  return jax.eval_shape(make, jax.random.key(0))


def files_of(folder: epath.PathLike) -> list[epath.Path]:
  """Returns the files that are read: weights, config, tokenizer, and others.

  Raises:
    UserError: if one is missing.
  """
  folder = epath.Path(folder)
  for of_model, of_tokenizer in _LAYOUTS:
    weights = weights_file(folder / of_model)
    paths = [folder / of_model / CONFIG, folder / of_tokenizer / TOKENIZER]
    if weights and all(path.exists() for path in paths):
      return [weights, *paths, *read.parts_of(weights)]
  raise UserError(
    f"{folder} has no Qwen3: needed are weights, {CONFIG} and {TOKENIZER}, or "
    "the folders text_encoder/ and tokenizer/ of a FLUX.2-klein with them."
  )


def wanted(names: Sequence[str]) -> list[str]:
  """Returns the files of a folder that are read, among all that it has."""
  for of_model, of_tokenizer in _LAYOUTS:
    chosen = [f"{of_model}{CONFIG}", f"{of_tokenizer}{TOKENIZER}"]
    weights = weights_name(below(names, of_model.rstrip("/")))
    if weights and {*chosen} <= {*names}:
      return [*chosen, f"{of_model}{weights}"]
  return []
