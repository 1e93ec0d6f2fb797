"""What is no CLIP, or has no released names, is refused with its problems."""

from functools import partial

import numpy as np
import pytest
from clip_keys import HEADS, RESNET, VIT, weights_of

from synthjax.models.clip import weights as convert
from synthjax.models.clip.weights import to_released
from synthjax.runtime.errors import UserError

from_released = partial(convert.from_released, **HEADS)


def without(weights, *starts):
  return {k: v for k, v in weights.items() if not k.startswith(starts)}


@pytest.mark.parametrize(
  "make, words",
  [
    (lambda w: {}, "Found 0 weights.*none"),
    (lambda w: {"state_dict": {}}, "Found 0 weights"),
    (lambda w: {"fc.weight": np.zeros((2, 3))}, r"fc.weight \(2, 3\)"),
    (lambda w: without(w, "visual."), "no visual.conv1.weight with 4 axes"),
    (lambda w: without(w, "visual.proj"), "no visual.proj with 2 axes"),
    (
      lambda w: without(w, "token_embedding", "positional_embedding"),
      "no token_embedding.weight with 2 axes, no positional_embedding",
    ),
    (
      lambda w: w | {"visual.positional_embedding": np.zeros((7, 128))},
      "7 positions.*square",
    ),
    (
      lambda w: without(w, "logit_scale", "ln_final") | {"ema": np.zeros(3)},
      "(?s)ema: no rule.*ln_final/bias: weights have None.*logit_scale",
    ),
    (
      lambda w: w | {"text_projection": np.zeros((64, 25))},
      r"text_projection: weights have \(64, 25\), the model needs \(64, 24\)",
    ),
  ],
)
def test_weights_of_no_clip_are_refused_with_their_problems(make, words):
  with pytest.raises(UserError, match=words):
    from_released(make(weights_of(VIT)))


def test_a_torchvision_resnet_is_no_clip():
  weights = {
    "conv1.weight": np.zeros((64, 3, 7, 7)),
    "layer1.0.conv1.weight": np.zeros((64, 64, 1, 1)),
    "fc.weight": np.zeros((1000, 2048)),
  }
  with pytest.raises(UserError, match="no visual.attnpool.positional"):
    from_released(weights)


@pytest.mark.parametrize("change", ["missing", "misshapen"])
def test_a_third_that_does_not_fit_is_named(change):
  theirs = to_released(*from_released(weights_of(VIT)), "huggingface")
  name = "text_model.encoder.layers.1.self_attn.k_proj.weight"
  theirs = without(theirs, name)
  if change == "misshapen":
    theirs[name] = np.zeros((64, 32), np.float32)
  with pytest.raises(UserError) as error:
    from_released(theirs)
  lines = str(error.value)
  assert "layers.1.self_attn.q_proj.weight: no rule takes it" in lines
  assert "resblocks_1/attn/in_proj/kernel: weights have None" in lines


@pytest.mark.parametrize(
  "sizes, layout, words",
  [
    (VIT, "hugging_face", "did you mean 'huggingface'"),
    (RESNET, "huggingface", "no CLIP with the image tower 'resnet'"),
    (RESNET, "huggingface_flax", "no CLIP with the image tower 'resnet'"),
    (RESNET, "timm", "alone, but found a 'clip' with 'resnet'"),
    (VIT, "timm", "alone, but found a 'clip' with 'vit'"),
  ],
)
def test_layouts_that_have_no_such_model_are_refused(sizes, layout, words):
  variables, description = from_released(weights_of(sizes))
  with pytest.raises(UserError, match=words):
    to_released(variables, description, layout)
