"""Converts the released weights of T5 v1.0, by Hugging Face's names."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.t5.model import T5
from synthjax.runtime.errors import UserError
from synthjax.weights.rules import (
  Rule,
  check_layout,
  convert,
  linear,
  numbers_in,
  restore,
  some_names,
)

LAYOUTS = ("huggingface",)


def _stack(stack: str) -> list[Rule]:
  """Returns the rules of the encoder or the decoder."""
  theirs, ours = f"{stack}.block.{{i}}.layer.{{j}}", f"{stack}/block_{{i}}"
  ours = f"params/{ours}/layer_{{j}}"
  matrices = [
    f"{attention}.{name}"
    for attention in ("SelfAttention", "EncDecAttention")
    for name in "qkvo"
  ] + ["DenseReluDense.wi", "DenseReluDense.wo"]
  return [
    *(
      Rule(
        f"{theirs}.{name}.weight",
        f"{ours}/{name.replace('.', '/')}/kernel",
        linear,
      )
      for name in matrices
    ),
    Rule(
      f"{theirs}.SelfAttention.relative_attention_bias.weight",
      f"{ours}/SelfAttention/relative_attention_bias/embedding",
    ),
    Rule(f"{theirs}.layer_norm.weight", f"{ours}/layer_norm/scale"),
    Rule(
      f"{stack}.final_layer_norm.weight",
      f"params/{stack}/final_layer_norm/scale",
    ),
  ]


RULES = [
  Rule("shared.weight", "params/shared/embedding"),
  *_stack("encoder"),
  *_stack("decoder"),
]
# The embedding again, under other names.
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"
# Old files hold a table that neither they nor we read.
UNUSED = (
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
)
# The first block of the encoder shows the sizes.
_FIRST = "encoder.block.0.layer"
_TABLE = f"{_FIRST}.0.SelfAttention.relative_attention_bias.weight"
_QUERY, _MLP = (
  f"{_FIRST}.0.SelfAttention.q.weight",
  f"{_FIRST}.1.DenseReluDense.wi.weight",
)


def from_released(
  weights: Mapping[str, np.ndarray],
) -> tuple[dict, dict[str, Any]]:
  """Returns the variables of a T5, and their description.

  Args:
    weights: by Hugging Face's names of T5ForConditionalGeneration.

  Raises:
    UserError: about another release of T5, or listing every weight that is
      unused, missing or misshapen.
  """
  weights = {k: w for k, w in weights.items() if k != UNUSED}
  fields = _fields(weights)
  for name in (*COPIES, HEAD):
    copy = weights.pop(name, None)
    if copy is not None and not np.array_equal(copy, weights["shared.weight"]):
      raise UserError(
        f"{name} differs from shared.weight. In T5 v1.0 they are the same; "
        "v1.1, whose output layer is its own, is not supported. Bring a "
        "fine-tuned t5-small, t5-base or t5-large."
      )
  tokens, mask = jnp.zeros((1, 2), int), jnp.ones((1, 2), bool)
  like = jax.eval_shape(
    T5(**fields).init, jax.random.key(0), tokens, mask, tokens
  )
  return convert(weights, RULES, like), {"kind": "t5", "model": fields}


def to_released(
  variables: Mapping,
  description: Mapping[str, Any] | None = None,
  layout: str = "huggingface",
) -> dict[str, np.ndarray]:
  """Returns variables under Hugging Face's names, the embedding once."""
  del description  # the names follow from the variables
  check_layout("T5", layout, LAYOUTS)
  return restore(variables, RULES)


def _fields(weights: Mapping[str, np.ndarray]) -> dict[str, int]:
  """Reads the fields of T5 off the shapes."""
  needed = ("shared.weight", _TABLE, _QUERY, _MLP)
  if missing := [name for name in needed if name not in weights]:
    gated = any(".wi_0." in name for name in weights)
    hint = " The gated MLP is of T5 v1.1, not v1.0." * gated
    raise UserError(
      f"These are not weights of T5 v1.0: {', '.join(missing)} missing, found "
      f"{some_names(weights)}, ...{hint}"
    )
  vocab_size, d_model = np.shape(weights["shared.weight"])
  num_buckets, heads = np.shape(weights[_TABLE])
  return {
    "vocab_size": vocab_size,
    "d_model": d_model,
    # The shape of q has only heads x d_kv.
    "d_kv": np.shape(weights[_QUERY])[0] // heads,
    "d_ff": np.shape(weights[_MLP])[0],
    "num_layers": _depth(weights, "encoder"),
    "num_decoder_layers": _depth(weights, "decoder"),
    "num_heads": heads,
    "relative_attention_num_buckets": num_buckets,
  }


def _depth(weights: Mapping[str, np.ndarray], stack: str) -> int:
  blocks = numbers_in(weights, rf"{stack}\.block\.(\d+)\.")
  return max(blocks, default=(-1,))[0] + 1
