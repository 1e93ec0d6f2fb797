"""What no shape of a CLIP shows is read where it is stated, or asked for."""

import copy

import clip_keys
import numpy as np
import pytest
from clip_keys import RESNET, VIT, weights_of

from synthjax.models.clip.weights import from_released
from synthjax.runtime.errors import UserError

TOWER = {"hidden_act": "gelu", "num_hidden_layers": 2}
HUGGING_FACE = {
  "model_type": "clip",
  "vision_config": TOWER
  | {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3},
  "text_config": TOWER
  | {"hidden_size": 64, "num_attention_heads": 2, "vocab_size": 40},
}
OPEN_CLIP = {
  "model_cfg": {
    "embed_dim": 24,
    "vision_cfg": {
      "image_size": 16,
      "layers": 3,
      "width": 128,
      "head_width": 32,
      "patch_size": 8,
    },
    "text_cfg": {"context_length": 10, "vocab_size": 40, "width": 64},
  }
}


def hidden(description):
  model = {"activation": "quick_gelu"} | description["model"]
  return tuple(model[field] for field in clip_keys.HEADS)


@pytest.mark.parametrize(
  ("config", "want"),
  [(HUGGING_FACE, (4, 2, "gelu")), (OPEN_CLIP, (4, 8, "gelu"))],
  ids=["huggingface", "open_clip"],
)
def test_a_config_states_heads_and_activation(config, want):
  weights = weights_of(VIT)
  assert hidden(from_released(weights, settings=config)[1]) == want
  # What is given counts more.
  given = from_released(weights, settings=config, vision_heads=8)[1]
  assert hidden(given) == (8, *want[1:])


def test_defaults_of_the_libraries_hold():
  bare = {"model_type": "clip", "vision_config": {}, "text_config": None}
  sizes = VIT | {"text": 64, "vision": (8, 96, 3)}
  _, description = from_released(weights_of(sizes), settings=bare)
  assert hidden(description) == (12, 8, "quick_gelu")
  config = copy.deepcopy(OPEN_CLIP)
  config["model_cfg"]["quick_gelu"] = True
  del config["model_cfg"]["vision_cfg"]["head_width"]
  _, description = from_released(weights_of(VIT), settings=config)
  assert hidden(description) == (2, 8, "quick_gelu")


def test_a_resnets_heads_are_those_of_its_pooling():
  vision = {"layers": [1, 2, 1, 1], "width": 4, "head_width": 32}
  config = {"vision_cfg": vision, "text_cfg": {}, "quick_gelu": True}
  _, description = from_released(weights_of(RESNET), settings=config)
  assert hidden(description) == (4, 8, "quick_gelu")
  visual = {
    k: v for k, v in weights_of(RESNET).items() if k.startswith("visual.")
  }
  _, description = from_released(visual, vision_heads=4)  # it has ReLU
  assert description["model"]["heads"] == 4


def changed(config, *keys, value):
  config = copy.deepcopy(config)
  block = config
  for key in keys[:-1]:
    block = block[key]
  block[keys[-1]] = value
  return config


@pytest.mark.parametrize(
  ("config", "words"),
  [
    (
      changed(HUGGING_FACE, "vision_config", "hidden_act", value="gelu_new"),
      "vision_config.hidden_act='gelu_new': needed one of quick_gelu, gelu",
    ),
    (
      changed(HUGGING_FACE, "text_config", "hidden_act", value="quick_gelu"),
      "the same activation in both towers",
    ),
    (
      changed(HUGGING_FACE, "vision_config", "layer_norm_eps", value=1e-6),
      "layer_norm_eps=1e-06: needed 1e-05",
    ),
    (
      changed(HUGGING_FACE, "text_config", "eos_token_id", value=7),
      "eos_token_id=7: needed 2 or 39",
    ),
    (
      changed(HUGGING_FACE, "text_config", "num_attention_heads", value="8"),
      "text_heads='8' does not divide",
    ),
    ({"vision_cfg": [1]}, "its config cannot be read"),
    ({"model_type": "siglip"}, "model_type='siglip': needed 'clip'"),
    (
      changed(
        OPEN_CLIP, "model_cfg", "vision_cfg", "timm_model_name", value="vit"
      ),
      "vision_cfg.timm_model_name='vit': not supported",
    ),
    (
      OPEN_CLIP | {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}},
      r"mean=\(0.5, 0.5, 0.5\): needed \(0.48",
    ),
    (
      changed(HUGGING_FACE, "text_config", "hidden_size", value=512),
      r"that of others: text_width=512 \(the weights have 64\)",
    ),
    (
      changed(HUGGING_FACE, "text_config", "num_attention_heads", value=5),
      "text_heads=5 does not divide the width of 64",
    ),
  ],
)
def test_another_network_is_refused(config, words):
  with pytest.raises(UserError, match=words):
    from_released(weights_of(VIT), settings=config)


def test_what_nothing_states_is_asked_for():
  """And found by OpenAI's rule in its archives alone."""
  weights = weights_of(VIT)
  words = "its vision_heads, text_heads, activation, .*--vision_heads=.*gelu"
  with pytest.raises(UserError, match=words):
    from_released(weights)
  # Said to be a network whose sizes are others.
  with pytest.raises(UserError, match=words):
    from_released(weights, model="clip_vit_b32")
  with pytest.raises(UserError, match="its text_heads, activation, and"):
    from_released(weights, vision_heads=4)
  with pytest.raises(UserError, match="did you mean 'gelu'"):
    from_released(weights, **clip_keys.HEADS | {"activation": "gelus"})
  archive = weights | {"input_resolution": np.array(16)}
  assert hidden(from_released(archive)[1]) == (2, 1, "quick_gelu")
