"""Drawing with a noised CLIP as the guide, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_glide
import tiny_world

from synthjax.diffusion import samplers, schedule
from synthjax.generators import glide_clip_guidance, load_generator
from synthjax.models.glide import noised_clip_weights
from synthjax.models.glide.noised_clip import ImageEncoder, TextEncoder
from synthjax.runtime.errors import UserError
from synthjax.tasks import generate
from synthjax.tokenizers import bpe
from synthjax.weights import files

SIZES = dict(width=32, layers=1, heads=2, embed_dim=16)
IMAGE = SIZES | dict(image_size=8, patch_size=4)
TEXT = SIZES | dict(context=12)
PROMPTS = ["a red apple", "a fish", "a car", "a tree"]


def write_tower(path, tower, **changes):
  """Writes a tower of random weights through its released names."""
  if tower == "image":
    model = ImageEncoder(**IMAGE | changes)
    side = model.image_size
    inputs = (jnp.zeros((1, side, side, 3)), jnp.zeros(1, int))
  else:
    sizes = TEXT | {"vocab_size": bpe.load().clip_vocab_size} | changes
    model = TextEncoder(**sizes)
    inputs = (jnp.zeros((1, model.context), int),)
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(len(tower))
  fill = lambda s: rng.normal(0, 0.2, s.shape).astype(np.float32)
  released = noised_clip_weights.to_released(jax.tree.map(fill, shapes), {})
  files.save_params(path, *noised_clip_weights.from_released(released, heads=2))
  return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  """Returns config.generator with CLIP guidance."""
  folder = tmp_path_factory.mktemp("clip")
  block = tiny_glide.write_glide(folder)
  del block["guidance_scale"]
  return block | {
    "clip_guidance": {
      "image_weights": write_tower(folder / "image.safetensors", "image"),
      "text_weights": write_tower(folder / "text.safetensors", "text"),
      "tokenizer": "embedded:tokenizer.json",
    }
  }


def make_config(folder, block, **changes):
  return tiny_world.make_config(
    folder,
    generator=block | changes,
    generate={"images_per_class": 1, "seeds": (0,), "shard_size": 4},
  )


def load(folder, block, **changes):
  config = make_config(folder, block, **changes)
  generate.check(config, str(folder))
  return load_generator(**config.generator.to_dict())


def scaled(block, scale):
  return block["clip_guidance"] | {"scale": scale}


@pytest.mark.slow
def test_guidance_of_scale_0_is_none_and_others_change_the_images(
  tmp_path, weights
):
  keys = jax.random.split(jax.random.key(0), len(PROMPTS))
  base = weights["base"] | {"sampler": "ancestral"}

  def draw(**changes):
    generator = load(tmp_path, weights, base=base, **changes)
    return generator.draw(PROMPTS, keys).astype(int)

  images = draw(clip_guidance=scaled(weights, 0.0))
  bare = draw(clip_guidance=None, guidance_scale=1.0)
  assert (np.abs(images - bare) > 1).mean() < 0.01  # rounding alone
  pulled = draw(clip_guidance=scaled(weights, 3.0))
  assert np.abs(pulled - bare).mean() > 0.5


@pytest.mark.slow
def test_guided_images_are_nearer_to_their_prompts(weights):
  """From a denoiser that knows no prompt, CLIP alone leads there."""
  block = weights["clip_guidance"]
  clip, params = glide_clip_guidance.load(
    glide_clip_guidance.ClipGuidance(**block),
    image_size=8,
    num_timesteps=1000,
    dtype="float32",
  )
  betas = schedule.squared_cosine()
  alpha_bar = jnp.asarray(np.cumprod(1 - betas), jnp.float32)

  def denoise(x, t):  # of x_0 ~ N(0, 0.3^2)
    bar = alpha_bar[t][:, None, None, None]
    return 0.09 * jnp.sqrt(bar) * x / (0.09 * bar + 1 - bar), jnp.zeros_like(x)

  tokens = jnp.asarray(clip.tokens(PROMPTS))
  noise = samplers.image_noise(
    jax.random.split(jax.random.key(1), 4), (8, 8, 3)
  )
  x = jax.random.normal(jax.random.key(2), (4, 8, 8, 3))
  steps = schedule.respace(betas, 100)

  @jax.jit
  def cosines(params):
    """Of each image with its own prompt, without guidance and with it."""
    text = clip.text.apply({"params": params["text"]}, tokens)
    result = []
    for cond_fn in (None, clip.cond_fn(params, tokens)):
      images = samplers.ancestral(denoise, steps, x, noise, cond_fn=cond_fn)
      z = clip.image.apply(
        {"params": params["image"]}, images, jnp.zeros(4, int)
      )
      result.append(jnp.sum(z * text, -1))
    return result

  bare, guided = cosines(params)
  assert (guided > bare + 0.02).all()


def test_the_identity_names_the_guide(tmp_path, weights):
  kept = load(tmp_path, weights).identity["clip_guidance"]
  assert kept == {
    "image_weights": files.sha256(weights["clip_guidance"]["image_weights"]),
    "text_weights": files.sha256(weights["clip_guidance"]["text_weights"]),
    "tokenizer": files.sha256(bpe.EMBEDDED),
    "scale": 3.0,
  }
  bare = load(tmp_path, weights, clip_guidance=None, guidance_scale=2.0)
  assert "clip_guidance" not in bare.identity


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(guidance_scale=3.0), "guidance_scale=3.0 and clip_guidance"),
    (dict(clip_guidance=None), "neither guidance_scale nor clip_guidance"),
  ],
)
def test_one_kind_of_guidance_must_be_chosen(tmp_path, weights, changes, words):
  with pytest.raises(UserError, match=words):
    load(tmp_path, weights, **changes)
  options = {k: v for k, v in weights.items() if k != "name"}
  with pytest.raises(UserError, match=words):
    load_generator("glide", **options | changes)
  load(tmp_path, weights, guidance_scale=1)  # no guidance beside CLIP's


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("image_weights", None, "clip_guidance.image_weights must name"),
    ("text_weights", "nowhere.safetensors", "no file nowhere"),
    ("scal", 3.0, "did you mean 'scale'"),
  ],
)
def test_a_bad_block_is_refused_before_anything_is_loaded(
  tmp_path, weights, field, value, words
):
  block = weights["clip_guidance"] | {field: value}
  config = make_config(tmp_path, weights, clip_guidance=block)
  with pytest.raises(UserError, match=words):
    generate.check(config, str(tmp_path))


def test_towers_that_do_not_fit_are_refused_with_all_reasons(tmp_path, weights):
  block = weights["clip_guidance"]
  swapped = block | {"text_weights": block["image_weights"]}
  with pytest.raises(UserError, match="text_weights needs the text tower"):
    load(tmp_path, weights, clip_guidance=swapped)
  image = write_tower(
    tmp_path / "i.safetensors", "image", image_size=16, timesteps=50
  )
  text = write_tower(
    tmp_path / "t.safetensors", "text", vocab_size=7, embed_dim=8
  )
  other = block | {"image_weights": image, "text_weights": text}
  with pytest.raises(UserError) as error:
    load(tmp_path, weights, clip_guidance=other)
  for words in (
    "reads images of 16 px, and the base draws 8 px",
    "knows 50 timesteps, and the base has 1000",
    "towers give 16 and 8 numbers",
    "knows 7 tokens",
  ):
    assert words in str(error.value)
