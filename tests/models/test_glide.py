"""GLIDE's networks and their guided walks against recorded references."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.diffusion import guidance, samplers, schedule
from synthjax.models.glide.model import Glide
from synthjax.models.glide.weights import from_released
from synthjax.models.unet_layers import timestep_embedding

BETAS = {
  "squaredcos_cap_v2": schedule.squared_cosine(),
  "linear": schedule.linear(),
}


@pytest.fixture(autouse=True)
def exact_products():
  with jax.default_matmul_precision("highest"):
    yield


def images(nchw):
  """Turns recorded images [..., c, h, w] into [..., h, w, c]."""
  return jnp.asarray(np.moveaxis(nchw, -3, -1))


def load(case):
  """Returns the recorded network and its variables."""
  weights = {
    key.removeprefix("weights/"): value
    for key, value in case.items()
    if key.startswith("weights/")
  }
  config = case["meta"]["config"]
  variables, description = from_released(
    weights,
    head_channels=config["num_head_channels"],
    text_heads=config["xf_heads"],
  )
  return Glide(**description["model"]), variables


@pytest.fixture(scope="module")
def base(golden):
  case = golden("glide_base_unet")
  inputs = [images(case["in/x"])]
  inputs += [
    jnp.asarray(case[f"in/{name}"]) for name in ("t", "tokens", "mask")
  ]
  return case, inputs, *load(case)


@pytest.fixture(scope="module")
def upsampler(golden):
  case = golden("glide_upsampler_unet")
  inputs = [images(case["in/x"])]
  inputs += [
    jnp.asarray(case[f"in/{name}"]) for name in ("t", "tokens", "mask")
  ]
  inputs += [images(case["in/low_res"])]
  return case, inputs, *load(case)


@pytest.mark.golden
def test_the_base_predicts_as_the_reference(base):
  case, (x, t, tokens, mask), model, variables = base
  encode = jax.jit(partial(model.apply, method="encode_text"))
  text = encode(variables, tokens, mask)
  sequence = case["out/text_sequence_NCL"].transpose(0, 2, 1)
  np.testing.assert_allclose(text.pooled, case["out/text_pooled"], atol=1e-4)
  np.testing.assert_allclose(text.sequence, sequence, atol=1e-4)
  out = jax.jit(model.apply)(variables, x, t, tokens, mask)
  assert np.std(case["out/y"]) > 0.1  # else closeness would say little
  np.testing.assert_allclose(out, images(case["out/y"]), atol=1e-4)


@pytest.mark.golden
def test_the_upsampler_predicts_as_the_reference(upsampler):
  case, inputs, model, variables = upsampler
  out = jax.jit(model.apply)(variables, *inputs)
  np.testing.assert_allclose(out, images(case["out/y"]), atol=1e-4)


def guided_denoiser(case, model, variables):
  """Returns the reference's guided denoiser of the recorded prompts."""
  tokens, mask = jnp.asarray(case["in/tokens"]), jnp.asarray(case["in/mask"])
  encode = jax.jit(partial(model.apply, method="encode_text"))
  text = encode(variables, tokens, mask)

  def predict(x, t):
    return model.apply(variables, x, t, text, method="predict")

  return guidance.from_noise(
    guidance.classifier_free(predict, case["meta"]["guidance"]),
    BETAS[case["meta"].get("schedule", "squaredcos_cap_v2")],
  )


@pytest.mark.golden
def test_a_guided_ancestral_walk_ends_at_the_reference(golden, base):
  case = golden("ddpm_guided_sample")
  steps = schedule.respace(
    BETAS[case["meta"]["schedule"]], case["meta"]["respacing"]
  )
  x = images(case["in/x_T"])
  count = len(x) // 2
  # The reference walks a doubled batch and records its noise in walking order.
  recorded = images(case["in/noise_per_step"])[::-1, :count]

  def walk():
    denoise = guided_denoiser(case, *base[2:])
    return samplers.ancestral(denoise, steps, x[:count], lambda i: recorded[i])

  np.testing.assert_allclose(
    jax.jit(walk)(), images(case["out/sample_first_half"]), atol=1e-3
  )


@pytest.mark.golden
def test_real_guidance_starts_and_ends_at_the_reference(golden, base):
  case = golden("real_guidance_sample")
  start = case["meta"]["start_steps"]
  betas = BETAS["squaredcos_cap_v2"]
  steps = schedule.start_at(
    schedule.respace(betas, case["meta"]["respacing"]), start
  )
  noise = images(case["in/q_noise"])
  reference = jnp.broadcast_to(images(case["in/reference"]), noise.shape)
  x = samplers.diffuse(reference, noise, steps, start - 1)
  np.testing.assert_allclose(x, images(case["out/x_start"]), atol=1e-5)

  count = len(x) // 2
  recorded = images(case["in/noise_per_step"])[::-1, :count]

  def walk():
    denoise = guided_denoiser(case, *base[2:])
    return samplers.ancestral(denoise, steps, x[:count], lambda i: recorded[i])

  np.testing.assert_allclose(
    jax.jit(walk)(), images(case["out/sample_first_half"]), atol=1e-3
  )


@pytest.mark.golden
def test_the_upsamplers_ddim_walk_ends_at_the_reference(golden, upsampler):
  case = golden("ddim_upsample")
  betas = BETAS[case["meta"]["schedule"]]
  steps = schedule.respace(betas, case["meta"]["respacing"])
  _, _, model, variables = upsampler
  tokens, mask = jnp.asarray(case["in/tokens"]), jnp.asarray(case["in/mask"])
  low_res = images(case["in/low_res"])

  def walk(x):
    text = model.apply(variables, tokens, mask, method="encode_text")

    def predict(x, t):
      return model.apply(variables, x, t, text, low_res, method="predict")

    denoise = guidance.from_noise(predict, betas)
    return samplers.ddim(denoise, steps, x, noise=None)

  out = jax.jit(walk)(images(case["in/x_T"]))
  np.testing.assert_allclose(out, images(case["out/sample"]), atol=1e-3)


def test_the_timestep_embedding_has_the_stated_values():
  """Values of the released model's embedding at t = 141."""
  embedding = timestep_embedding(jnp.array([141]), 192)[0]
  np.testing.assert_allclose(
    embedding[:3], [-0.931722, -0.762055, -0.989784], atol=2e-5
  )
  np.testing.assert_allclose(
    embedding[96:99], [0.363171, 0.647513, -0.142573], atol=2e-5
  )


@pytest.mark.parametrize(
  ("sizes", "image_size", "count"),
  [
    ({}, 64, 385_030_726),
    (
      dict(
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        attention_downsamples=(8, 16, 32),
      ),
      256,
      398_361_286,
    ),
  ],
  ids=["base", "upsampler"],
)
def test_the_released_sizes_have_the_released_parameter_counts(
  sizes, image_size, count
):
  model = Glide(**sizes)
  x = jnp.zeros((1, image_size, image_size, 3))
  inputs = [
    x,
    jnp.zeros(1),
    jnp.zeros((1, 128), int),
    jnp.zeros((1, 128), bool),
  ]
  if sizes:
    inputs.append(jnp.zeros((1, 64, 64, 3)))
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(model_channels=48), "multiple of 32"),
    (dict(channel_mult=(1, 2, 2, 2)), "multiples of 8"),
  ],
)
def test_sizes_that_cannot_work_are_refused(change, words):
  sizes = dict(
    vocab_size=8,
    text_context=4,
    text_width=8,
    text_layers=1,
    text_heads=1,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    head_channels=16,
  )
  model = Glide(**sizes | change)
  init = partial(jax.eval_shape, model.init, jax.random.key(0))
  x, tokens = jnp.zeros((1, 12, 12, 3)), jnp.zeros((1, 4), int)
  with pytest.raises(ValueError, match=words):
    init(x, jnp.zeros(1), tokens, tokens > 0)
  if "channel_mult" in change:
    with pytest.raises(ValueError, match="reads 4 tokens, found 5"):
      tokens = jnp.zeros((1, 5), int)
      init(x[:, :8, :8], jnp.zeros(1), tokens, tokens > 0)
