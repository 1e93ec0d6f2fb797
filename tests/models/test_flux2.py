"""FLUX.2-klein's networks beside diffusers and transformers, and their size.

The golden file "flux2" holds what diffusers 0.42.1 and transformers 5.24
(PyTorch 2.13, float32) return for tiny networks of the configurations in its
"meta", with the weights that `tiny_flux2.fill` makes of the names and shapes
there: Qwen3ForCausalLM as Flux2KleinPipeline encodes prompts by it,
Flux2Transformer2DModel, AutoencoderKLFlux2, and walks of the pipeline.
"""

import math

import flux2_keys
import jax
import numpy as np
import pytest
import tiny_flux2

from synthjax.models.flux2 import latents
from synthjax.models.flux2 import weights as convert
from synthjax.models.pixels import to_unit
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import qwen


@pytest.fixture(scope="module")
def released(golden):
  """Returns the golden file, and weights by their released names."""
  case = golden("flux2")
  meta = case["meta"]
  return case, {
    part: tiny_flux2.fill(shapes, meta["seeds"][part])
    for part, shapes in meta["shapes"].items()
  }


@pytest.fixture(scope="module")
def recorded(released):
  """Returns the golden file, modules and parameters."""
  case, weights = released
  variables, about = convert.from_released(
    weights, case["meta"]["configs"], tiny_flux2.TAPS
  )
  return case, convert.make_models(about["model"]), variables["params"]


def close(got, want):
  got = np.asarray(got)
  assert got.shape == want.shape
  error = np.abs(got - want).max() / np.abs(want).max()
  print(f"relative error {error:.2g}")
  assert error < 2e-5


def applied(recorded, part, *inputs, method=None):
  _, modules, params = recorded
  apply = jax.jit(modules[part].apply, static_argnames="method")
  with jax.default_matmul_precision("highest"):
    return apply({"params": params[part]}, *inputs, method=method)


@pytest.mark.golden
def test_prompts_are_encoded_as_by_the_pipeline(recorded, tmp_path):
  case, meta = recorded[0], recorded[0]["meta"]
  tiny_flux2.tokenizer().save(str(tmp_path / "tokenizer.json"))
  words = qwen.load(tmp_path / "tokenizer.json")
  tokens, mask = words.chat_tokens([*meta["prompts"], ""], meta["length"])
  np.testing.assert_array_equal(tokens, case["out/tokens"])
  np.testing.assert_array_equal(mask, case["out/mask"])
  close(applied(recorded, "text", tokens, mask), case["out/context"])


@pytest.mark.golden
@pytest.mark.parametrize(
  "references", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_the_transformer_predicts_as_that_of_diffusers(recorded, references):
  case = recorded[0]
  inputs = [case["in/x"], case["in/t"], case["out/context"][:2]]
  inputs += [case["in/references_latent"]] * references
  name = "out/velocity" + "_of_references" * references
  close(applied(recorded, "transformer", *inputs), case[name])


@pytest.mark.golden
@pytest.mark.slow
def test_latents_are_packed_and_normalised_as_by_the_pipeline(recorded):
  case, _, params = recorded
  images = to_unit(case["in/references"])
  mean, _ = applied(recorded, "vae", images, method="encode")
  packed = latents.pack(mean, params["latents"])
  close(packed, case["out/latents"])
  close(latents.unpack(packed, params["latents"]), np.asarray(mean))


def test_the_layout_is_written_as_it_was_read(released, recorded):
  _, weights = released
  back = convert.to_released({"params": recorded[2]})
  layers = {
    name
    for name in weights["text_encoder"]
    if name.startswith(("model.layers.3.", "model.norm", "lm_head"))
  }
  for part, want in weights.items():
    unread = layers if part == "text_encoder" else set()
    assert back[part].keys() == want.keys() - unread
    for name, weight in back[part].items():
      np.testing.assert_array_equal(weight, want[name], err_msg=name)
  assert layers


@pytest.mark.slow
def test_the_released_weights_have_their_places():
  """Every name of the full-size layout, and no others; shapes alone."""
  # Views of one number: nothing of full size is in memory.
  weights = {
    part: {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}
    for part, shapes in flux2_keys.shapes().items()
  }
  variables, about = convert.from_released(weights, flux2_keys.CONFIGS)
  assert about["distilled"]
  counts = {
    part: sum(math.prod(w.shape) for w in jax.tree.leaves(tree))
    for part, tree in variables["params"].items()
  }
  whole = sum(
    math.prod(s) for s in flux2_keys.shapes()["text_encoder"].values()
  )
  assert whole == 4_022_468_096
  assert counts == {
    "transformer": 3_875_544_576,
    "vae": 84_046_115,
    "latents": 2 * 128,
    "text": whole - 9 * 100_930_816 - 2560,  # layers, and the last norm
  }


def test_folders_that_do_not_fit_are_refused():
  configs = {part: dict(c) for part, c in tiny_flux2.CONFIGS.items()}
  configs["transformer"] |= {
    "axes_dims_rope": [8, 8, 8],
    "in_channels": 64,
    "joint_attention_dim": 48,
  }
  configs["text_encoder"]["num_hidden_layers"] = 3
  with pytest.raises(UserError) as error:
    convert.describe(configs, tiny_flux2.TAPS)
  for part in (
    "axes_dims_rope=[8, 8, 8], but needed are four of together",
    "in_channels=64, but a patch of vae: latent_channels has 16",
    "joint_attention_dim=48, but 3 layers of text_encoder: hidden_size have 72",
    "num_hidden_layers=3, but layer 3 is read",
  ):
    assert part in str(error.value)
  configs["transformer"]["guidance_embeds"] = True
  configs["scheduler"]["use_dynamic_shifting"] = False
  del configs["vae"]["latent_channels"]
  with pytest.raises(UserError) as error:
    convert.describe(configs)
  for part in ("guidance_embeds=True", "shifting=False", "no latent_channels"):
    assert part in str(error.value)


def test_of_a_repository_only_what_is_read_is_fetched():
  weights = "diffusion_pytorch_model.safetensors"
  read = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/tokenizer.json",
    "transformer/config.json",
    f"transformer/{weights}",
    "vae/config.json",
    f"vae/{weights}",
  ]
  others = ["flux-2-klein-4b.safetensors", "tokenizer/vocab.json", "README.md"]
  assert sorted(convert.wanted(read + others)) == read


def test_other_tokenizers_are_refused(tmp_path):
  path = tmp_path / "tokenizer.json"
  with pytest.raises(UserError, match="Cannot read the tokenizer"):
    qwen.load(path)
  model = tiny_flux2.tokenizer().to_str().replace("<think>", "<thought>")
  path.write_text(model)
  with pytest.raises(UserError, match="has no <think>: it belongs"):
    qwen.load(path)


def test_a_long_prompt_is_cut(tmp_path):
  tiny_flux2.tokenizer().save(str(tmp_path / "tokenizer.json"))
  words = qwen.load(tmp_path / "tokenizer.json")
  tokens, mask = words.chat_tokens(["apple " * 9, "a"], 20)
  assert mask[0].all() and not mask[1].all()
  assert words.bpe.decode(tokens[0]).count("apple") > 5
