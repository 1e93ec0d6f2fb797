"""Tests of CLIP: sizes, what a text reads, and what does not fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_clip import TINY, fill, images_of, shapes

from synthjax.models.clip import model as clip


@pytest.fixture(scope="module")
def tiny():
  model = clip.CLIP(**TINY)
  return model, fill(shapes(model))


@pytest.mark.parametrize(
  "name, total, visual",
  [
    ("clip_rn50", 102_007_137, 38_316_896),
    ("clip_vit_b32", 151_277_313, 87_849_216),
    ("clip_vit_b16", 149_620_737, 86_192_640),
    ("clip_vit_l14", 427_616_513, 303_966_208),
  ],
)
def test_released_sizes_have_the_released_numbers_of_parameters(
  name, total, visual
):
  params = shapes(clip.MODELS[name]())["params"]
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(params) == total
  assert count(params["visual"]) == visual


def test_a_text_is_read_at_its_largest_token_and_not_behind_it(tiny):
  model, variables = tiny
  apply = jax.jit(partial(model.apply, method="encode_text"))
  encode = lambda t: apply(variables, jnp.array([t]))
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
    ({"image_tower": "cnn"}, "'cnn'.*resnet.*vit"),
    ({"image_size": 12}, r"\(1, 8, 8, 3\).*image_size=12"),
    ({"patch_size": 3}, "patch_size=3"),
    ({"patch_size": None}, "patch_size=None"),
    ({"text_heads": 5}, "heads=5"),
    ({"context_length": 4}, "6 tokens.*4"),
  ],
)
def test_sizes_that_do_not_fit_say_so(change, message):
  model = clip.CLIP(**TINY | change)
  images, tokens = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 6), int)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), images, tokens)


def test_a_vit_takes_train_and_does_not_change(tiny):
  model, variables = tiny
  images = images_of(model)

  @jax.jit
  def encode_both(variables, images):
    encode = partial(model.apply, variables, images, method="encode_image")
    return encode(train=True), encode(train=False)

  np.testing.assert_array_equal(*encode_both(variables, images))
