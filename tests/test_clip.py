"""Tests of CLIP: parity with recorded outputs, sizes, and what a text reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from synthjax.models import clip

# Small, with different sizes in the two towers so that none is mixed up.
TINY = {
  "embed_dim": 16,
  "image_size": 8,
  "patch_size": 4,
  "vision_width": 24,
  "vision_layers": 1,
  "vision_heads": 3,
  "context_length": 6,
  "vocab_size": 20,
  "text_width": 32,
  "text_layers": 2,
  "text_heads": 2,
}


def from_config(config):
  """Builds the model that OpenAI's names of the sizes describe."""
  return clip.CLIP(
    embed_dim=config["embed_dim"],
    image_size=config["image_resolution"],
    patch_size=config["vision_patch_size"],
    vision_width=config["vision_width"],
    vision_layers=config["vision_layers"],
    vision_heads=config["vision_width"] // 64,
    context_length=config["context_length"],
    vocab_size=config["vocab_size"],
    text_width=config["transformer_width"],
    text_layers=config["transformer_layers"],
    text_heads=config["transformer_heads"],
  )


def from_openai(arrays):
  """Renames and transposes OpenAI's weights."""
  params = {}
  for name, weight in arrays.items():
    if not name.startswith("weights/"):
      continue
    path = name.removeprefix("weights/").replace("resblocks.", "resblocks_")
    path = path.replace("in_proj_", "in_proj.").replace(".", "/")
    if path == "token_embedding/weight":
      path = "token_embedding/embedding"
    elif path.endswith("/weight") and weight.ndim == 1:
      path = path.removesuffix("weight") + "scale"
    elif path.endswith("/weight"):
      path = path.removesuffix("weight") + "kernel"
      weight = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
    params[path] = weight
  return {"params": traverse_util.unflatten_dict(params, sep="/")}


@pytest.fixture(scope="module")
def tiny():
  model = clip.CLIP(**TINY)
  images = jnp.zeros((1, 8, 8, 3))
  tokens = jnp.zeros((1, 6), int)
  like = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
  # Filled by NumPy, as compiling the initialisation takes seconds.
  rng = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape), like)


@pytest.mark.golden
def test_both_towers_equal_the_reference(golden):
  case = golden("clip_vit")
  model, variables = from_config(case["meta"]["config"]), from_openai(case)
  images = case["in/images"].transpose(0, 2, 3, 1)
  tokens = case["in/tokens"]

  like = jax.eval_shape(model.init, jax.random.key(0), images, tokens)
  shapes = jax.tree.map(jnp.shape, variables)
  assert shapes == jax.tree.map(jnp.shape, like)

  apply = jax.jit(model.apply, static_argnames="method")
  with jax.default_matmul_precision("highest"):
    got = {
      "image_features": apply(variables, images, method="encode_image"),
      "text_features": apply(variables, tokens, method="encode_text"),
      "logits_per_image": apply(variables, images, tokens),
    }
  for name, value in got.items():
    want = case[f"out/{name}"]
    np.testing.assert_allclose(value, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
  "name, total, visual",
  [
    ("clip_vit_b32", 151_277_313, 87_849_216),
    ("clip_vit_b16", 149_620_737, 86_192_640),
    ("clip_vit_l14", 427_616_513, 303_966_208),
  ],
)
def test_released_sizes_have_the_released_numbers_of_parameters(
  name, total, visual
):
  images, tokens = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 77), int)
  init = clip.MODELS[name]().init
  params = jax.eval_shape(init, jax.random.key(0), images, tokens)["params"]
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(params) == total
  assert count(params["visual"]) == visual


def test_a_text_is_read_at_its_largest_token_and_not_behind_it(tiny):
  model, variables = tiny
  encode = lambda t: model.apply(
    variables, jnp.array([t]), method="encode_text"
  )
  text = encode([3, 7, 19, 0, 0, 0])
  np.testing.assert_array_equal(text, encode([3, 7, 19, 5, 6, 5]))
  np.testing.assert_allclose(text, encode([3, 7, 19]), atol=1e-5)
  assert np.abs(text - encode([7, 3, 19, 0, 0, 0])).max() > 1e-3


def test_logits_are_scaled_cosines(tiny):
  model, variables = tiny
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  tokens = jnp.array([[1, 19, 0], [2, 19, 0], [3, 4, 19]])
  apply = jax.jit(model.apply, static_argnames="method")
  a = np.asarray(apply(variables, images, method="encode_image"))
  b = np.asarray(apply(variables, tokens, method="encode_text"))
  cosine = [[x @ y / np.sqrt(x @ x * (y @ y)) for y in b] for x in a]
  logits = apply(variables, images, tokens)
  scale = np.exp(variables["params"]["logit_scale"])
  np.testing.assert_allclose(logits / scale, cosine, atol=1e-5)


def test_features_are_float32_with_bfloat16_activations(tiny):
  model, variables = tiny
  half = clip.CLIP(**TINY, dtype="bfloat16")
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  encode = lambda model: jax.jit(model.apply, static_argnames="method")(
    variables, images, method="encode_image"
  )
  full, features = encode(model), encode(half)
  assert features.dtype == jnp.float32
  np.testing.assert_allclose(features, full, atol=0.05 * np.abs(full).max())
  assert np.abs(features - full).max() > 0  # bfloat16 was used


def test_preprocess_normalises_the_pixels_of_each_channel():
  images = np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8)
  black, white = np.asarray(clip.preprocess(images))[0, 0]
  mean, std = np.array(clip.MEAN), np.array(clip.STD)
  np.testing.assert_allclose(black, -mean / std, rtol=1e-6)
  np.testing.assert_allclose(white, (1 - mean) / std, rtol=1e-6)
  with pytest.raises(ValueError, match="uint8.*float32"):
    clip.preprocess(images.astype(np.float32))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"image_tower": "cnn"}, "'cnn'.*vit"),
    ({"image_size": 12}, r"\(1, 8, 8, 3\).*image_size=12"),
    ({"patch_size": 3}, "patch_size=3"),
    ({"text_heads": 5}, "heads=5"),
    ({"context_length": 4}, "6 tokens.*4"),
  ],
)
def test_sizes_that_do_not_fit_say_so(change, message):
  model = clip.CLIP(**TINY | change)
  images, tokens = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 6), int)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), images, tokens)
