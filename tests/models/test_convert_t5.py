"""T5's released weights: names, sizes and what is refused."""

import jax
import numpy as np
import pytest
import tiny_t5
from flax import traverse_util

from synthjax.models.t5 import weights as converter
from synthjax.models.t5.model import T5
from synthjax.runtime.errors import UserError


def released_shapes(layers=12, d_model=768, width=768, d_ff=3072, heads=12):
  """Lists the names and shapes of a released T5, t5-base by default."""
  shapes = {"shared.weight": (32128, d_model)}
  for stack, last in (("encoder", 1), ("decoder", 2)):
    for i in range(layers):
      block = f"{stack}.block.{i}.layer"
      for j in range(last + 1):
        shapes[f"{block}.{j}.layer_norm.weight"] = (d_model,)
      attentions = ["0.SelfAttention"] + ["1.EncDecAttention"] * (last == 2)
      for attention in attentions:
        for name in "qkv":
          shapes[f"{block}.{attention}.{name}.weight"] = (width, d_model)
        shapes[f"{block}.{attention}.o.weight"] = (d_model, width)
      mlp = f"{block}.{last}.DenseReluDense"
      shapes[f"{mlp}.wi.weight"] = (d_ff, d_model)
      shapes[f"{mlp}.wo.weight"] = (d_model, d_ff)
    table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
    shapes[f"{table}.weight"] = (32, heads)
    shapes[f"{stack}.final_layer_norm.weight"] = (d_model,)
  return shapes


def zeros(shapes):
  """Makes arrays that take no memory."""
  return {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}


def test_every_weight_of_t5_base_finds_its_place():
  shapes = released_shapes()
  assert len(shapes) == 257
  weights = zeros(shapes) | zeros(
    {
      converter.UNUSED: (32, 12),
      "lm_head.weight": (32128, 768),
      "encoder.embed_tokens.weight": (32128, 768),
      "decoder.embed_tokens.weight": (32128, 768),
    }
  )
  variables, description = converter.from_released(weights)
  assert T5(**description["model"]) == T5()
  assert description["kind"] == "t5"
  assert len(traverse_util.flatten_dict(variables)) == len(shapes)
  back = converter.to_released(variables, description)
  assert {name: w.shape for name, w in back.items()} == shapes


def test_heads_and_their_width_are_read_separately():
  """As in t5-3b, where they are not d_model together."""
  shapes = released_shapes(layers=1, d_model=16, width=96, d_ff=20, heads=3)
  fields = converter.from_released(zeros(shapes))[1]["model"]
  assert (fields["num_heads"], fields["d_kv"], fields["d_model"]) == (3, 32, 16)


def test_weights_return_as_they_were():
  _, variables = tiny_t5.make_variables()
  released = converter.to_released(variables)
  q = "decoder.block.1.layer.1.EncDecAttention.q.weight"
  block = variables["params"]["decoder"]["block_1"]["layer_1"]
  kernel = block["EncDecAttention"]["q"]["kernel"]
  np.testing.assert_array_equal(released[q], kernel.T)
  again, description = converter.from_released(released)
  assert description["model"] == tiny_t5.SIZES | {
    "relative_attention_num_buckets": 32
  }
  jax.tree.map(np.testing.assert_array_equal, again, variables)


def changed(change):
  _, variables = tiny_t5.make_variables()
  weights = converter.to_released(variables)
  change(weights)
  return weights


@pytest.mark.faults
@pytest.mark.parametrize(
  ("change", "words"),
  [
    (
      lambda w: w.update({"lm_head.weight": w["shared.weight"] + 1}),
      "lm_head.weight differs.*v1.1",
    ),
    (
      lambda w: w.update({"encoder.embed_tokens.weight": np.zeros((2, 2))}),
      "encoder.embed_tokens.weight differs",
    ),
    (
      lambda w: (
        w.update(
          {"encoder.block.0.layer.1.DenseReluDense.wi_0.weight": np.zeros(1)}
        )
        or w.pop("encoder.block.0.layer.1.DenseReluDense.wi.weight")
      ),
      "DenseReluDense.wi.weight missing.*gated",
    ),
    (lambda w: w.clear(), "shared.weight.*found none at all"),
    (
      lambda w: w.pop("decoder.block.1.layer.0.SelfAttention.q.weight"),
      "decoder/block_1/layer_0/SelfAttention/q/kernel: weights have None",
    ),
    (lambda w: w.update({"odd": np.zeros(1)}), "odd: no rule takes it"),
  ],
)
def test_other_weights_are_refused(change, words):
  with pytest.raises(UserError, match=f"(?s){words}"):
    converter.from_released(changed(change))


def test_another_layout_is_refused():
  with pytest.raises(
    UserError, match="layout of T5 weights 'mesh'.*huggingface"
  ):
    converter.to_released({}, {}, "mesh")
