"""SDXL as a generator: whole walks beside diffusers, and distilled UNets."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sd
from safetensors.numpy import save_file

from synthjax.config import SDXL, hub_generator
from synthjax.diffusion import samplers
from synthjax.generators import (
  batching,
  check_generator,
  load_generator,
  num_steps,
  stable_diffusion,
)
from synthjax.models.stable_diffusion import weights as convert
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files
from synthjax.weights.catalogue import HUB_GENERATORS, places


def keys():
  return jax.random.split(jax.random.key(0), 2)


# --- walks of diffusers' pipelines, on the weights of models/test_sdxl --------


@pytest.fixture(scope="module")
def recorded(golden, tmp_path_factory):
  """Returns the golden file and fields of config.generator for its weights."""
  case, folder = golden("sdxl"), tmp_path_factory.mktemp("sdxl")
  meta = case["meta"]
  weights = {
    part: tiny_sd.random_weights(shapes, meta["seeds"][part])
    for part, shapes in meta["shapes"].items()
  }
  distilled = folder / "distilled.safetensors"
  save_file(weights.pop("distilled"), distilled)
  pads = bpe.END, "!"
  variables, about = convert.from_released(
    weights, meta["configs"], pad_tokens=pads
  )
  path = folder / "sdxl.safetensors"
  files.save_params(path, variables, about)
  block = {"weights": path, "tokenizer": "embedded:tokenizer.json"}
  return case, block | {"batch_size": 2, "precision": "highest"}, distilled


@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  ["base", "turbo", "lightning", "lightning_1", "base_first", "real_guided"],
)
def test_images_are_those_of_diffusers(recorded, monkeypatch, name):
  """The whole generator, from prompts to pixels, with the recorded noise."""
  case, block, distilled = recorded
  about = case["meta"]["cases"][name]
  noise = jnp.asarray(case["in/noise"])
  monkeypatch.setattr(samplers, "start_noise", lambda *_: case["in/start"])
  monkeypatch.setattr(samplers, "image_noise", lambda *_: lambda i: noise[i])
  monkeypatch.setattr(stable_diffusion, "to_uint8", lambda images: images)
  fields = {
    "sampler": about["scheduler"],
    "spacing": about["spacing"],
    "respacing": about["steps"],
    "guidance_scale": about["guidance"],
  }
  if "distilled" in about:
    fields |= {
      "distilled": str(distilled),
      "distilled_prediction": about["distilled"],
      "base_steps": about.get("base_steps", 0),
    }
  generator = load_generator("stable_diffusion", **block | fields)
  guided = {}
  if "start_steps" in about:
    guided = {"references": case["in/references"]}
    guided["start_steps"] = about["start_steps"]
  got = generator.draw(case["meta"]["prompts"], keys(), **guided)
  want = case[f"out/{name}/images"]
  error = np.abs(got - want).max() / np.abs(want).max()
  print(f"relative error {error:.2g}")
  assert error < 2e-5


# --- folders, and fields that do not fit --------------------------------------


@pytest.mark.slow
def test_a_folder_of_xl_is_read_packed_and_written_back(tmp_path):
  folder, packed = tmp_path / "sdxl", tmp_path / "packed"
  weights, _ = tiny_sd.write_folder(folder, "xl", dtype=np.float16)
  convert.pack(folder, packed)
  for source in (folder, packed / convert.WEIGHTS):
    networks, params, _ = stable_diffusion.load_networks(
      source, None, "float32"
    )
    back = convert.to_released({"params": params}, {"linear_projection": True})
    assert back.keys() == weights.keys()
    for part, want in weights.items():
      assert back[part].keys() == want.keys()
      for name, weight in want.items():
        np.testing.assert_array_equal(
          back[part][name], weight.astype(np.float16), err_msg=name
        )
    assert networks.zeros_for_empty and networks.unet.depths == (1, 2)
    # Each encoder has its own pad.
    end = networks.tokenizer.clip_vocab_size - 1
    first, second = networks.tokens(["a"])[0].tolist()
    assert first[:3] == second[:3] and first[2] == end
    assert {*first[3:]} == {end} and {*second[3:]} == {0}


@pytest.mark.slow
def test_without_its_own_unet_a_folder_needs_and_names_no_weights_of_it(
  tmp_path,
):
  """Only the distilled UNet walks: 10 GB need not be fetched or read."""
  weights, _ = tiny_sd.write_folder(tmp_path / "sdxl", "xl")
  save_file(weights["unet"], tmp_path / "few_steps.safetensors")
  (tmp_path / "sdxl/unet/diffusion_pytorch_model.safetensors").unlink()
  block = {
    "weights": str(tmp_path / "sdxl"),
    "distilled": str(tmp_path / "few_steps.safetensors"),
    "sampler": "euler",
    "respacing": 2,
  }
  identity = load_generator("stable_diffusion", **block).identity
  json.dumps(identity)
  assert identity["distilled"] != identity["weights"]["unet/config.json"]
  assert identity["spacing"] == "trailing"  # the folder's is "leading"
  assert "guidance_scale" not in identity  # a card would tell of guidance
  with pytest.raises(UserError, match="lacks the weights in unet/"):
    load_generator("stable_diffusion", **block | {"base_steps": 1})


@pytest.mark.slow
def test_a_half_is_kept_of_weights_that_are_used_in_it(tmp_path):
  folder = tmp_path / "sdxl"
  tiny_sd.write_folder(folder, "xl")
  networks, params, _ = stable_diffusion.load_networks(
    folder, None, "bfloat16", vae_dtype="bfloat16"
  )
  devices = batching.own_devices()
  types = {
    name: {w.dtype.name for w in jax.tree.leaves(placed(name).get())}
    for name in ("unet", "vae", "text_2")
    for placed in [
      stable_diffusion.place(networks, {name: params[name]}, devices)
    ]
  }
  assert all("bfloat16" in found for found in types.values())


@pytest.fixture(scope="module")
def block(tmp_path_factory):
  return tiny_sd.write_file(tmp_path_factory.mktemp("sd"))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"base_steps": 1}, "give that as config.generator.distilled"),
    ({"base_steps": 2, "distilled": "x"}, "leaves none of 2 steps"),
    ({"distilled": "nowhere.safetensors"}, "nowhere.safetensors: there is no"),
    ({"spacing": "even"}, "spacing"),
    ({"original_size": 512}, "the UNet of XL alone reads it"),
    ({"guidance_scale": 0}, "1 turns guidance off"),
    ({"negative_prompt": "a", "distilled": __file__}, "change no image"),
    ({"weights": "hf://a/b/xl.safetensors"}, "b/xl.safetensors is no whole"),
  ],
)
def test_fields_that_do_not_fit_are_refused(block, changes, message):
  with pytest.raises(UserError, match=message):
    load_generator("stable_diffusion", **block | changes)


@pytest.mark.slow
def test_every_field_that_decides_pixels_identifies_them(tmp_path):
  block = tiny_sd.write_file(tmp_path, "xl")
  weights, _ = tiny_sd.released("xl", bpe.load().clip_vocab_size)
  save_file(weights["unet"], tmp_path / "few_steps.safetensors")
  distilled = str(tmp_path / "few_steps.safetensors")
  block |= {"distilled": distilled, "base_steps": 1, "respacing": 3}
  changes = (
    {},
    {"distilled": None, "base_steps": 0},
    {"base_steps": 0},
    {"base_steps": 2},
    {"distilled_prediction": "sample"},
    {"original_size": 512},
    {"spacing": "leading"},
    {"vae_dtype": "bfloat16"},
  )
  identities = {
    json.dumps(load_generator("stable_diffusion", **block | change).identity)
    for change in changes
  }
  assert len(identities) == len(changes)


@pytest.mark.slow
def test_other_files_than_a_fitting_unet_are_refused(tmp_path):
  block = tiny_sd.write_file(tmp_path, "xl")
  other, _ = tiny_sd.released("v1")
  lora = {f"lora_unet_{i}.alpha": np.ones(1) for i in range(400)}
  file = str(tmp_path / "other.safetensors")
  for weights, message in (
    (other["unet"], "add_embedding_linear_1/bias"),
    (lora, "(?s)distilled=.*other.safetensors .* no LoRA.* more$"),
  ):
    save_file(weights, file)
    with pytest.raises(UserError, match=message):
      load_generator("stable_diffusion", **block | {"distilled": file})
  with pytest.raises(
    UserError, match="is no whole folder in diffusers' layout"
  ):
    load_generator("stable_diffusion", **block | {"weights": file})


@pytest.mark.slow
def test_a_folder_without_the_pad_of_its_second_tokenizer_is_refused(tmp_path):
  tiny_sd.write_folder(tmp_path, "xl")
  shutil.rmtree(tmp_path / "tokenizer_2")
  with pytest.raises(UserError, match="lacks tokenizer_2/tokenizer_config"):
    convert.from_folder(tmp_path)


# --- released ones ------------------------------------------------------------


@pytest.mark.parametrize("name", SDXL)
def test_a_released_one_is_a_valid_block_of_the_catalogue(monkeypatch, name):
  """Its fields are read, and its places are those that are fetched."""
  asked = []
  for function in ("locate", "locate_distilled"):
    monkeypatch.setattr(
      stable_diffusion, function, lambda place, **_: asked.append(place)
    )
  check_generator(name)
  assert [place for place in asked if place] == places(name)
  # A card of the images has the licence of each file.
  identity = {"weights": {"unet/a": "0" * 64}, "distilled": "1" * 64}
  block = dict(zip(("weights", "distilled"), places(name), strict=False))
  for about in files.identified(identity, block, "generator")[: len(block)]:
    licences = HUB_GENERATORS[name].licence, HUB_GENERATORS["sdxl"].licence
    assert about["name"] in places(name) and about["licence"] in licences
  assert num_steps(name) == SDXL[name]["respacing"]


def test_the_hubs_turbo_is_drawn_as_turbo_and_has_its_licence():
  turbo = hub_generator("hf://stabilityai/sdxl-turbo@main")
  assert turbo["guidance_scale"] == 1 and turbo["weights"].endswith("@main")
  assert hub_generator("hf://a/b")["guidance_scale"] == 7.5
  for place in ("sdxl-turbo@main", "sdxl-turbo/unet"):
    about = files.describe(f"hf://stabilityai/{place}", "0" * 64)
    assert about["licence"] == HUB_GENERATORS["sdxl_turbo"].licence
