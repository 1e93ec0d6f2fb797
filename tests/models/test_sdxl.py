"""SDXL's networks beside diffusers and transformers, and their full size.

The golden file "sdxl" holds what diffusers 0.42.1 and transformers 5.24
(PyTorch 2.13, float32) return for tiny networks of the configurations in its
"meta", with the weights that `tiny_sd.random_weights` makes of the names and
shapes there: CLIPTextModel and CLIPTextModelWithProjection,
UNet2DConditionModel with what they return, and walks of the two pipelines of
StableDiffusionXL (text and image to image).
"""

import math

import jax
import numpy as np
import pytest
import sdxl_keys
import tiny_sd

from synthjax.models.stable_diffusion import weights as convert
from synthjax.models.stable_diffusion.folder import describe
from synthjax.runtime.errors import UserError


@pytest.fixture(scope="module")
def recorded(golden):
  """Returns the golden file, modules and parameters."""
  case = golden("sdxl")
  meta = case["meta"]
  weights = {
    part: tiny_sd.random_weights(shapes, meta["seeds"][part])
    for part, shapes in meta["shapes"].items()
    if part != "distilled"
  }
  variables, about = convert.from_released(weights, meta["configs"])
  return case, convert.make_models(about["model"]), variables["params"]


def close(got, want):
  error = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
  print(f"relative error {error:.2g}")
  assert error < 2e-5


@pytest.mark.golden
def test_both_text_encoders_are_read_before_their_last_layers(recorded):
  case, modules, params = recorded

  def encode(name, params, tokens):
    return modules[name].apply({"params": params[name]}, tokens)

  encode = jax.jit(encode, static_argnums=0)
  with jax.default_matmul_precision("highest"):
    first, nothing = encode("text", params, case["in/tokens"][:, 0])
    second, pooled = encode("text_2", params, case["in/tokens"][:, 1])
  assert nothing is None
  close(first, case["out/hidden_1"])
  close(second, case["out/hidden_2"])
  close(pooled, case["out/pooled"])


@pytest.mark.golden
def test_the_unet_predicts_as_that_of_diffusers(recorded):
  case, modules, params = recorded
  context = np.concatenate([case["out/hidden_1"], case["out/hidden_2"]], -1)
  given = case["in/x"], case["in/t"], context, case["out/pooled"]
  with jax.default_matmul_precision("highest"):
    got = jax.jit(modules["unet"].apply)(
      {"params": params["unet"]}, *given, case["in/sizes"]
    )
  close(got, case["out/prediction"])


@pytest.mark.slow
def test_the_released_weights_have_their_places():
  """Every name of the full-size layout, and no others; shapes alone."""
  released, about = sdxl_keys.shapes(), describe(sdxl_keys.CONFIGS)
  assert about["image_size"] == 1024 and about["zeros_for_empty"]
  for part, shapes in released.items():
    # Views of one number: nothing of full size is in memory.
    weights = {
      key: np.broadcast_to(np.float32(0), shape)
      for key, shape in shapes.items()
    }
    params = convert.convert_part(part, weights, about)
    count = sum(math.prod(w.shape) for w in jax.tree.leaves(params))
    assert count == COUNTS[part]


COUNTS = {
  "unet": 2_567_463_684,
  "vae": 83_653_863,
  "text_encoder": 123_060_480,
  "text_encoder_2": 694_659_840,
}


def test_folders_of_xl_that_do_not_fit_are_refused():
  _, configs = tiny_sd.released("xl")
  configs["unet"] |= {
    "addition_time_embed_dim": 16,
    "cross_attention_dim": 32,
    "transformer_layers_per_block": [1, [2, 2]],
  }
  configs["text_encoder_2"] |= {"intermediate_size": 100}
  with pytest.raises(UserError) as error:
    describe(configs)
  for part in (
    "cross_attention_dim=32, but text_encoder: hidden_size=32 + 48",
    "projection_dim=24",
    "transformer_layers_per_block=[1, [2, 2]], supported: one number",
    "text_encoder_2: intermediate_size=100",
  ):
    assert part in str(error.value)


@pytest.mark.parametrize("field", ["use_beta_sigmas", "use_exponential_sigmas"])
def test_steps_that_are_spaced_in_sigma_are_refused(field):
  configs = tiny_sd.configs("xl")
  configs["scheduler"][field] = True
  with pytest.raises(UserError, match=f"scheduler: {field}=True"):
    describe(configs)


def test_xl_without_its_second_text_encoder_is_refused():
  _, configs = tiny_sd.released("xl")
  del configs["text_encoder_2"]
  with pytest.raises(UserError, match="pooled prompts of width 24"):
    describe(configs)


def test_of_a_repository_only_what_is_read_is_fetched():
  """As the published one lists its files, some of them for other programs."""
  weights = "diffusion_pytorch_model"
  unet = f"unet/{weights}.safetensors"
  read = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/tokenizer_config.json",
    "unet/config.json",
    unet,
    "vae/config.json",
    f"vae/{weights}.safetensors",
  ]
  others = [
    "sd_xl_base_1.0.safetensors",
    "text_encoder_2/model.fp16.safetensors",
    "tokenizer_2/merges.txt",
    "tokenizer_2/vocab.json",
    f"unet/{weights}.fp16.safetensors",
    "unet/model.onnx",
    f"vae_1_0/{weights}.safetensors",
  ]
  assert sorted(convert.wanted(read + others)) == sorted(read)
  without = sorted({*read} - {unet})
  assert sorted(convert.wanted_without_unet(read + others)) == without
