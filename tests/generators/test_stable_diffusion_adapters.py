"""Low-rank updates of Stable Diffusion: their files, loss and drawings."""

import re
from functools import partial

import jax
import numpy as np
import pytest
import tiny_sd
from safetensors.numpy import load_file, save_file

from synthjax.generators import (
  adapters,
  load_generator,
  stable_diffusion_adapters,
)
from synthjax.models import lora
from synthjax.models.stable_diffusion import weights as convert
from synthjax.runtime.errors import UserError
from synthjax.weights import files

VERSIONS = ("v1", "xl")
PROMPTS = ["a red apple", "a fish"]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sd")
  return {v: tiny_sd.write_file(folder, v) for v in (*VERSIONS, "v2")}


def load(block, **changes):
  return load_generator("stable_diffusion", **block | changes)


def updates_of(adaptable, seed=0, rank=2):
  """Draws updates that change something."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(partial(adaptable.init, rank), jax.random.key(0))
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  return jax.tree.map(draw, shapes)


# The layers that DataDream adapts: of diffusers' UNet, and of CLIPTextModel.
ADAPTED = re.compile(
  r"unet\..+\.attn[12]\.to_(q|k|v|out\.0)"
  r"|text_encoder(_2)?\.text_model\.encoder\.layers\.\d+\.self_attn"
  r"\.(q|k|v|out)_proj"
)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_is_that_of_diffusers(tmp_path, blocks, version):
  """Its layers, shapes, and the kernels that follow, by the released names."""
  adaptable = load(blocks[version]).adaptable
  updates, path = updates_of(adaptable), tmp_path / "a.safetensors"
  adapters.save(path, adaptable, updates, scale=0.5)
  saved = load_file(path)

  variables, about = files.load_params(blocks[version]["weights"])
  named = lambda params: {
    f"{folder}.{name.removesuffix('.weight')}": weight
    for folder, of in convert.to_released({"params": params}, about).items()
    for name, weight in of.items()
  }
  before = named(variables["params"])
  after = named(lora.merge(variables["params"], updates, 0.5))
  layers = {name for name in before if ADAPTED.fullmatch(name)}
  assert {*saved} == {
    f"{layer}.lora_{part}.weight" for layer in layers for part in "AB"
  }
  for layer, weight in before.items():
    want = weight
    if layer in layers:
      a, b = (saved[f"{layer}.lora_{part}.weight"] for part in "AB")
      assert a.shape[0] == b.shape[1] == 2
      want = weight + b @ a
    np.testing.assert_allclose(after[layer], want, rtol=1e-4, atol=1e-5)

  read = adapters.reader([path], adaptable)(0)
  for name, each in updates.items():
    np.testing.assert_array_equal(read[name]["a"], each["a"])
    np.testing.assert_array_equal(read[name]["b"], 0.5 * each["b"])


def test_a_file_may_be_of_the_unet_alone(blocks):
  adaptable = load(blocks["v1"]).adaptable
  updates = updates_of(adaptable)
  saved = adapters.to_diffusers(adaptable, updates)
  of_unet = {k: w for k, w in saved.items() if k.startswith("unet.")}
  read = adapters.from_diffusers(adaptable, of_unet)
  for name, each in updates.items():
    is_unet = name.startswith("unet/")
    np.testing.assert_array_equal(read[name]["b"], is_unet * each["b"])
  of_unet["vae.x.lora_A.weight"] = of_unet["vae.x.lora_B.weight"] = np.ones(2)
  with pytest.raises(UserError, match="vae.x.weight: no rule takes it"):
    adapters.from_diffusers(adaptable, of_unet)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_loss_is_the_error_of_noise_or_velocity(
  monkeypatch, blocks, version
):
  """Of a network that knows the clean latents, but is off by a half."""
  adaptable = load(blocks[version]).adaptable
  rng = np.random.default_rng(0)
  mean = rng.normal(0, 3, (4, 8, 8, 4)).astype(np.float32)

  def predictor(networks, params, prompts, original_size, updates):
    def predict(x, t):
      alpha_bar = np.cumprod(1 - networks.betas)[np.asarray(t)]
      signal, noise = (
        np.sqrt(level)[:, None, None, None]
        for level in (alpha_bar, 1 - alpha_bar)
      )
      x0 = networks.latent_scale * mean
      eps = (np.asarray(x, np.float64) - signal * x0) / noise
      exact = {"v1": eps, "v2": signal * eps - noise * x0}[version]
      return exact.astype(np.float32) + 0.5

    return predict

  monkeypatch.setattr(stable_diffusion_adapters, "encode", lambda *_: None)
  monkeypatch.setattr(stable_diffusion_adapters, "predictor", predictor)
  batch = {
    "mean": mean,
    "log_variance": np.full_like(mean, -30),
    "tokens": np.zeros((4, 1, 12), np.int32),
  }
  loss, _ = adaptable.loss(adaptable.frozen(), {}, batch, jax.random.key(0))
  np.testing.assert_allclose(loss, 0.25, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_each_image_is_that_of_weights_with_its_updates(
  tmp_path, blocks, version
):
  """Of text encoders, the prompt that guidance leads away from, and UNet."""
  block = blocks[version]
  generator = load(block)
  each = [updates_of(generator.adaptable, seed) for seed in (0, 1)]
  adapted = generator.adapted(each.__getitem__)
  got = adapted.draw(PROMPTS, adapters=[(0,), (1,)]).astype(int)
  variables, about = files.load_params(block["weights"])
  for i, updates in enumerate(each):
    path = tmp_path / f"{i}.safetensors"
    params = lora.merge(variables["params"], updates)
    files.save_params(path, {"params": params}, about)
    want = load(block, weights=str(path)).draw(PROMPTS).astype(int)
    assert np.abs(got[i] - want[i]).max() <= 1
    assert np.abs(got[1 - i] - want[1 - i]).max() > 3


def test_a_distilled_unet_has_no_updates(tmp_path, blocks):
  weights, _ = tiny_sd.released("v1")
  path = tmp_path / "distilled.safetensors"
  save_file(weights["unet"], path)
  generator = load(blocks["v1"], distilled=str(path))
  with pytest.raises(UserError, match="without a distilled UNet"):
    adapters.check_adaptable(generator, "stable_diffusion")
