"""Stable Diffusion beside diffusers, on random weights.

The golden files hold what diffusers 0.42.1 and transformers 5.24 (PyTorch 2.13,
float32) return for tiny networks: UNet2DConditionModel, AutoencoderKL and
CLIPTextModel of the configurations in their "meta", with the weights that
`tiny_sd.random_weights` makes of the names and shapes there; and guided walks
of DDIMScheduler (eta 0) with the same networks. The text encoder's outputs are
the prompts that the others read.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sd

from synthjax.diffusion import guidance, latents, samplers, schedule
from synthjax.models import attention
from synthjax.models.stable_diffusion import weights as convert
from synthjax.models.stable_diffusion.text import TextEncoder
from synthjax.models.stable_diffusion.unet import UNet
from synthjax.models.stable_diffusion.vae import Autoencoder

VERSIONS = ("v1", "v2")


def close(got, want):
  """Compares with the largest value that is wanted."""
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape
  error = np.abs(got - want).max() / np.abs(want).max()
  print(f"relative error {error:.2g}")
  assert error < 2e-5


@pytest.fixture(scope="module")
def networks(golden):
  """Returns, for a version, modules and variables from the golden files."""
  made = {}

  def make(version):
    if version not in made:
      text, unet, vae = map(golden, ("sd_text", "sd_unet", "sd_vae"))
      text, unet, vae = text["meta"], unet["meta"], vae["meta"]
      configs = {
        "text_encoder": text["configs"][version],
        "unet": unet["configs"][version],
        "vae": vae["config"],
        "scheduler": tiny_sd.configs(version)["scheduler"],
      }
      fill = tiny_sd.random_weights
      weights = {
        "text_encoder": fill(text["shapes"][version], text["seed"]),
        "unet": fill(unet["shapes"][version], unet["seed"]),
        "vae": fill(vae["shapes"], vae["seed"]),
      }
      variables, about = convert.from_released(weights, configs)
      params = variables["params"]
      made[version] = convert.make_models(about["model"]), params
    return made[version]

  return make


@partial(jax.jit, static_argnums=(0, 2))
def apply(module, params, method, *args):
  return module.apply({"params": params}, *args, method=method)


@pytest.fixture(autouse=True)
def exact():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.mark.golden
@pytest.mark.parametrize("version", VERSIONS)
def test_prompts_are_encoded_as_by_transformers(golden, networks, version):
  case = golden("sd_text")
  modules, params = networks(version)
  tokens = case[f"in/{version}/tokens"]
  got, pooled = apply(modules["text"], params["text"], None, tokens)
  assert pooled is None
  close(got, case[f"out/{version}/hidden"])


@pytest.mark.golden
@pytest.mark.parametrize("version", VERSIONS)
def test_the_unet_predicts_as_that_of_diffusers(golden, networks, version):
  case = golden("sd_unet")
  modules, params = networks(version)
  given = (case[f"in/{version}/{name}"] for name in ("x", "t", "context"))
  got = apply(modules["unet"], params["unet"], None, *given)
  close(got, case[f"out/{version}/prediction"])


@pytest.mark.golden
def test_the_autoencoder_maps_as_that_of_diffusers_both_ways(golden, networks):
  case = golden("sd_vae")
  modules, params = networks("v1")
  vae = modules["vae"]
  mean, log_variance = apply(vae, params["vae"], "encode", case["in/images"])
  close(mean, case["out/mean"])
  close(log_variance, case["out/log_variance"])
  close(apply(vae, params["vae"], "decode", case["in/z"]), case["out/images"])


@pytest.mark.golden
@pytest.mark.parametrize(
  "name",
  [
    "eps_leading",
    "v_leading",
    pytest.param("v_trailing", marks=pytest.mark.slow),
    pytest.param("eps_trailing", marks=pytest.mark.slow),
  ],
)
def test_guided_walks_end_where_those_of_diffusers_do(golden, networks, name):
  case = golden("sd_sample")
  meta, about = case["meta"], case["meta"]["cases"][name]
  modules, params = networks(about["version"])
  unet, vae = modules["unet"], modules["vae"]
  config = about["scheduler"]
  betas = latents.scaled_linear(config["beta_start"], config["beta_end"])
  kept = latents.kept_timesteps(
    about["steps"],
    betas,
    spacing=config["timestep_spacing"],
    offset=config["steps_offset"],
  )
  assert kept.tolist() == about["timesteps"][::-1]
  steps = schedule.keep(betas, kept)
  if not config["set_alpha_to_one"]:
    steps = latents.ending_at(steps, 1 - betas[0])
  context = np.concatenate(
    [case[f"in/{name}/context"], case[f"in/{name}/negative"]]
  )

  def predict(x, t):
    return apply(unet, params["unet"], None, x, t, context)

  guided = guidance.classifier_free(predict, meta["guidance_scale"])
  denoise = latents.denoiser(guided, betas, config["prediction_type"])
  z = samplers.ddim(denoise, steps, case[f"in/{name}/x"], None)
  close(z, case[f"out/{name}/latents"])
  images = apply(vae, params["vae"], "decode", z / meta["scale"])
  close(images, case[f"out/{name}/images"])


def count(module, *inputs):
  structs = [jax.ShapeDtypeStruct(*each) for each in inputs]
  shapes = jax.eval_shape(module.init, jax.random.key(0), *structs)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ("fields", "parameters"),
  [
    ({}, 859_520_964),
    ({"context_dim": 1024, "heads": (5, 10, 20, 20)}, 865_910_724),
  ],
)
def test_unets_have_the_released_numbers_of_parameters(fields, parameters):
  unet = UNet(**fields)
  x = ((1, 8, 8, 4), jnp.float32)
  context = ((1, 77, unet.context_dim), jnp.float32)
  assert count(unet, x, ((1,), jnp.int32), context) == parameters


def test_the_others_have_the_released_numbers_of_parameters():
  images = ((1, 8, 8, 3), jnp.float32)
  assert count(Autoencoder(), images) == 83_653_863
  tokens = ((1, 77), jnp.int32)
  assert count(TextEncoder(), tokens) == 123_060_480
  large = TextEncoder(width=1024, layers=23, heads=16, activation="gelu")
  assert count(large, tokens) == 340_387_840


def test_many_queries_attend_as_few_do(monkeypatch):
  rng = np.random.default_rng(0)
  q, k, v = rng.normal(size=(3, 2, 8, 3, 4)).astype(np.float32)
  whole = attention.attend(q, k, v)
  monkeypatch.setattr(attention, "QUERIES", 2)
  few = attention.attend(q, k, v)
  np.testing.assert_allclose(few, whole, atol=1e-6)  # of values of about 1


@pytest.mark.parametrize("prediction", latents.PREDICTIONS)
def test_perfect_predictions_give_the_clean_latent(prediction):
  rng = np.random.default_rng(0)
  x0, eps = rng.normal(size=(2, 3, 4, 4, 4)).astype(np.float32)
  betas = latents.scaled_linear()
  t = jnp.array([0, 500, 999])
  alpha_bar = np.cumprod(1 - betas)[np.asarray(t)][:, None, None, None]
  signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
  out = {
    "epsilon": eps,
    "v_prediction": signal * eps - noise * x0,
    "sample": x0,
  }[prediction]
  denoise = latents.denoiser(lambda x, t: jnp.float32(out), betas, prediction)
  got, _ = denoise(jnp.float32(signal * x0 + noise * eps), t)
  np.testing.assert_allclose(got, x0, atol=1e-4)


@pytest.mark.parametrize(
  ("respacing", "spacing", "offset", "kept"),
  [
    (4, "leading", 1, [1, 251, 501, 751]),
    ("4", "leading", 0, [0, 250, 500, 750]),
    (3, "leading", 1, [1, 334, 667]),
    (4, "trailing", 1, [249, 499, 749, 999]),
    (3, "trailing", 1, [332, 666, 999]),
    (3, "linspace", 1, [0, 500, 999]),
    ("2<500", "leading", 1, [0, 499]),
  ],
)
def test_steps_are_spaced_as_the_scheduler_has_it(
  respacing, spacing, offset, kept
):
  got = latents.kept_timesteps(
    respacing, latents.scaled_linear(), spacing=spacing, offset=offset
  )
  assert got.tolist() == kept


@pytest.mark.parametrize("respacing", [0, 1000, 1001])
def test_too_many_steps_are_refused(respacing):
  with pytest.raises(ValueError, match="were trained"):
    latents.kept_timesteps(
      respacing, latents.scaled_linear(), spacing="leading", offset=1
    )


def test_guidance_leads_away_from_the_negative_prompt():
  def predict(x, t):
    with_prompt = jnp.arange(len(x)) < len(x) // 2
    return x + jnp.where(with_prompt, t, 0.0)[:, None]

  x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  guided = guidance.classifier_free(predict, 3.0)
  got = guided(x, jnp.array([10.0, 20.0]))
  np.testing.assert_allclose(got, [[31, 32], [63, 64]])


def test_ddim_can_end_at_some_noise():
  betas = latents.scaled_linear()
  steps = latents.ending_at(schedule.keep(betas, np.array([1, 501])), 0.75)
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
  nothing = lambda x, t: (jnp.zeros_like(x), 0.0)  # all of x is noise
  got = samplers.ddim(nothing, steps, x, None)
  full = np.cumprod(1 - betas)
  np.testing.assert_allclose(
    got, x * (0.25 / (1 - full[501])) ** 0.5, rtol=1e-5
  )
