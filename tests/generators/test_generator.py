"""GLIDE as a generator: streams, compiling ahead, guiding in an interval."""

import jax
import numpy as np
import pytest
import tiny_glide

from synthjax.generators import check_generator, load_generator
from synthjax.runtime.errors import UserError

PROMPTS = ["a red apple", "a fish", "a fish", "a car", "a tree"]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
  block = tiny_glide.write_glide(tmp_path_factory.mktemp("glide"))
  return {k: v for k, v in block.items() if k != "name"}


def keys(n):
  return jax.random.split(jax.random.key(0), n)


def test_a_stream_yields_batches_and_draw_joins_them(options, caplog):
  generator = load_generator("glide", **options)
  assert generator.batch_size == 4
  with jax.log_compiles():
    first, last = generator.stream(PROMPTS, keys(5))
  assert caplog.text.count("Finished XLA compilation of jit(_draw)") == 1
  assert first.shape == (4, 16, 16, 3) and last.shape == (1, 16, 16, 3)
  assert first.dtype == np.uint8 and first.std() > 10
  joined = generator.draw(PROMPTS, keys(5))
  np.testing.assert_array_equal(joined, np.concatenate([first, last]))
  # One prompt and another key, one key and another prompt, differ.
  assert (joined[1] != joined[2]).any()
  other = generator.draw(["a dog"], keys(5)[:1])
  assert (other[0] != joined[0]).any()
  alone = generator.draw(PROMPTS[4:], keys(5)[4:])
  np.testing.assert_array_equal(alone[0], joined[4])
  assert "guidance_interval" not in generator.identity
  assert list(generator.stream([], keys(1))) == []


@pytest.mark.slow
def test_solvers_and_an_interval_reach_the_walk(options):
  """Guidance within an interval that no step lies in is a scale of 1."""
  blocks = {
    stage: options[stage] | {"sampler": solver, "respacing": "logsnr3<900"}
    for stage, solver in (("base", "dpmpp_2m"), ("upsampler", "unipc"))
  }

  def draw(**changes):
    generator = load_generator("glide", **options | blocks | changes)
    assert generator.num_steps == 3
    assert generator.identity.get("guidance_interval") == changes.get(
      "guidance_interval"
    )
    return generator.draw(PROMPTS[:4], keys(4)).astype(int)

  # So strong that the prompts have a say in what random networks draw.
  guided = draw(guidance_scale=100.0)
  never = draw(guidance_scale=100.0, guidance_interval=[1, 2])
  plain = draw(guidance_scale=1.0)
  effect = np.abs(guided - plain).mean()
  assert effect > 1
  # Random networks amplify rounding, so not every last digit stays.
  assert np.abs(never - plain).mean() < 0.1 * effect


def test_an_interval_without_what_it_belongs_to_is_refused(options):
  clip = dict(image_weights="a", text_weights="b", tokenizer="c")
  changes = dict(guidance_scale=None, clip_guidance=clip)
  with pytest.raises(UserError, match="takes its place: remove one"):
    load_generator("glide", **options | changes, guidance_interval=(0, 500))
  with pytest.raises(UserError, match="two of 0 to 999"):
    load_generator("glide", **options, guidance_interval=(500, 1000))


@pytest.mark.parametrize("interval", [(0.2, 0.8), (500, 100), (5,), 5, "ab"])
def test_what_is_no_interval_is_refused_before_anything_runs(options, interval):
  with pytest.raises(UserError, match="guidance_interval.*: needed "):
    check_generator("glide", **options | {"guidance_interval": interval})
  check_generator("glide", **options, guidance_interval=(100, 500))
