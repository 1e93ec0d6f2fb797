"""FLUX.2-klein as a generator: whole walks beside diffusers, and its fields."""

import json

import jax
import numpy as np
import pytest
import tiny_flux2

from synthjax.config import FLUX2, hub_generator
from synthjax.diffusion import samplers
from synthjax.generators import (
  batching,
  check_generator,
  flux2,
  load_generator,
  num_steps,
  reads,
)
from synthjax.models.flux2 import weights as convert
from synthjax.runtime import memory
from synthjax.runtime.errors import UserError
from synthjax.weights.catalogue import HUB_GENERATORS, places


def keys():
  return jax.random.split(jax.random.key(0), 2)


@pytest.fixture(scope="module")
def released(golden):
  """Returns the golden file, and weights by their released names."""
  case = golden("flux2")
  meta = case["meta"]
  return case, {
    part: tiny_flux2.fill(shapes, meta["seeds"][part])
    for part, shapes in meta["shapes"].items()
  }


@pytest.fixture
def write(released, tmp_path, monkeypatch):
  """Returns a function that writes the weights, and returns a block of them."""
  case, weights = released
  monkeypatch.setattr(convert, "TAPS", tiny_flux2.TAPS)
  monkeypatch.setattr(flux2, "CONTEXT", case["meta"]["length"])

  def make(distilled=False):
    configs = case["meta"]["configs"] | {
      "model_index": {"is_distilled": distilled}
    }
    tiny_flux2.write_folder(tmp_path, weights, configs)
    return {
      "weights": str(tmp_path),
      "sampler": "euler",
      "respacing": 4,
      "image_size": 16,
      "batch_size": 2,
      "precision": "highest",
    }

  return make


@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.parametrize(
  "name",
  [
    "base",
    "distilled",
    "second_order",
    "reads_references",
    "noised_references",
  ],
)
def test_images_are_those_of_diffusers(released, write, monkeypatch, name):
  """The whole generator, from prompts to pixels, with the recorded noise."""
  case, about = released[0], released[0]["meta"]["cases"][name]
  monkeypatch.setattr(samplers, "start_noise", lambda *_: case["in/start"])
  monkeypatch.setattr(flux2, "to_uint8", lambda images: images)
  block = write(about.get("distilled", False)) | {
    "sampler": about.get("sampler", "euler"),
    "respacing": about["steps"],
    "reads_references": about.get("reads_references", True),
  }
  guided = {}
  if "start_steps" in about:
    guided = {"references": case["in/references"]}
    guided["start_steps"] = about["start_steps"]
  # The base is guided without being asked for it, as in diffusers.
  got = load_generator("flux2", **block).draw(
    case["meta"]["prompts"], keys(), **guided
  )
  want = case[f"out/{name}/images"]
  error = np.abs(got - want).max() / np.abs(want).max()
  print(f"relative error {error:.2g}")
  assert error < 2e-5


def test_fields_that_do_not_fit_are_refused(write, tmp_path):
  block = write(distilled=True)
  for changes, message in (
    ({"guidance_scale": 4.0}, "distilled, and drawn without guidance"),
    ({"negative_prompt": "blurry"}, "distilled, and drawn without guidance"),
    ({"respacing": "10,5"}, "respacing"),
    ({"dtype": "float16"}, "dtype"),
    ({"weights": str(tmp_path / "vae/config.json")}, "no whole folder"),
    ({"weights": None}, "it is not set"),
  ):
    with pytest.raises(UserError, match=message):
      check_generator("flux2", **block | changes)
  check_generator("flux2", **block | {"guidance_scale": 1})
  assert num_steps("flux2", **block) == 4


def test_a_folder_that_is_not_whole_is_refused(write, tmp_path):
  block = write()
  (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
  (tmp_path / convert.TOKENIZER).unlink()
  with pytest.raises(
    UserError, match="lacks the weights in vae/, tokenizer/tokenizer.json"
  ):
    load_generator("flux2", **block)


def test_what_a_prompt_holds_is_told_without_the_template(write):
  got = reads("flux2", **write())
  words = flux2.qwen.load(write()["weights"] + "/" + convert.TOKENIZER)
  tokens, mask = words.chat_tokens([""], flux2.CONTEXT)
  assert got.room == flux2.CONTEXT - mask.sum()
  assert got.ids("red apple") == words.ids("red apple")


@pytest.mark.slow
def test_every_field_that_decides_pixels_identifies_them(write):
  block = write()
  changes = (
    {},
    {"guidance_scale": 1},
    {"negative_prompt": "blurry"},
    {"respacing": 5},
    {"sampler": "dpmpp_2m"},
    {"image_size": 32},
    {"reads_references": False},
    {"dtype": "bfloat16"},
    {"vae_dtype": "bfloat16"},
  )
  identities = {
    json.dumps(load_generator("flux2", **block | change).identity)
    for change in changes
  }
  assert len(identities) == len(changes)
  with pytest.raises(UserError, match="draws multiples of 4 px"):
    load_generator("flux2", **block | {"image_size": 18})


@pytest.mark.slow
def test_a_half_is_kept_of_weights_that_are_used_in_it(write):
  variables, about = convert.from_folder(write()["weights"])
  devices = batching.own_devices()
  modules = convert.make_models(about["model"], "bfloat16", "bfloat16")
  for name, module in modules.items():
    params = {name: variables["params"][name]}
    placed = batching.place({name: module}, convert.inputs, params, devices)
    # All matrices but those of the timestep and of the last layer.
    wide = [w for w in jax.tree.leaves(placed) if w.dtype == np.float32]
    whole = sum(w.size for w in jax.tree.leaves(placed))
    assert sum(w.size for w in wide) < 0.4 * whole, name
    assert {w.dtype.name for w in jax.tree.leaves(placed)} == {
      "bfloat16",
      "float32",
    }


def test_weights_that_do_not_fit_are_refused_before_they_are_placed(
  write, monkeypatch
):
  block, asked = write(), []
  monkeypatch.setattr(memory, "limit", lambda: 100_000)
  monkeypatch.setattr(jax, "device_put", lambda *given: asked.append(given))
  with pytest.raises(UserError, match="weights need.*GiB.*transformer.*vae"):
    load_generator("flux2", **block)
  assert not asked


@pytest.mark.parametrize("name", FLUX2)
def test_a_released_one_is_a_valid_block_of_the_catalogue(
  monkeypatch, tmp_path, name
):
  asked = []
  monkeypatch.setattr(
    flux2, "locate", lambda place: asked.append(place) or tmp_path
  )
  check_generator(name)
  assert asked == places(name) == [FLUX2[name]["weights"]]
  assert HUB_GENERATORS[name].licence == "Apache-2.0"
  assert num_steps(name) == FLUX2[name]["respacing"]
  of_hub = hub_generator(f"{places(name)[0]}@main")
  assert of_hub["name"] == "flux2" and of_hub["weights"].endswith("@main")
