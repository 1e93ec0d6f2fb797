"""GLIDE as a generator: streams, compiling ahead, guiding in an interval."""

import jax
import numpy as np
import pytest
import tiny_glide

from synthjax.generators import check_generator, load_generator, num_steps
from synthjax.runtime import memory
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
  for stage in ("_draw_small", "_enlarge"):
    assert caplog.text.count(f"XLA compilation of jit({stage})") == 1
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


def test_weights_that_do_not_fit_are_refused_before_they_are_placed(
  options, monkeypatch
):
  asked = []
  monkeypatch.setattr(memory, "limit", lambda: 10_000)
  monkeypatch.setattr(jax, "device_put", lambda *given: asked.append(given))
  with pytest.raises(UserError, match="weights need.*GiB.*base .*upsampler "):
    load_generator("glide", **options)
  assert not asked


def test_devices_that_do_not_share_weights_so_are_refused(options):
  with pytest.raises(UserError, match="fsdp=.* does not divide the"):
    load_generator("glide", **options, fsdp=jax.local_device_count() + 1)


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


def test_a_sampler_has_options_of_its_own(options):
  def base(sampler):
    return {"base": options["base"] | {"sampler": sampler}}

  plain = load_generator("glide", **options | base("ddim"))
  noised = load_generator(
    "glide", **options | base({"name": "ddim", "eta": 1.0})
  )
  assert plain.identity["base"]["sampler"] == "ddim"
  assert noised.identity["base"]["sampler"] == {"name": "ddim", "eta": 1.0}
  with pytest.raises(UserError, match="base.sampler has no field 'eta'"):
    check_generator("glide", **options | base({"name": "unipc", "eta": 1.0}))


COLOURS = """
import numpy as np
from synthjax.config.schema import Count
from synthjax.generators import Generator


def load(*, red: Count, batch_size: Count):
  def stream(prompts, rngs):
    yield np.full((len(prompts), 2, 2, 3), red, np.uint8)

  return Generator(stream, batch_size, 2, 2, 0, {"red": red})
"""


def test_a_generator_of_another_package_is_one_file(tmp_path, monkeypatch):
  (tmp_path / "my_package").mkdir()
  (tmp_path / "my_package" / "colours.py").write_text(COLOURS)
  monkeypatch.syspath_prepend(tmp_path)
  fields = {"name": "my_package.colours", "red": 7, "batch_size": 2}
  check_generator(**fields)
  assert num_steps(**fields) == 0
  assert (load_generator(**fields).draw(["a"], keys(1)) == 7).all()
  with pytest.raises(UserError, match="config.generator.red=0: needed"):
    check_generator(**fields | {"red": 0})
  with pytest.raises(UserError, match="did you mean 'red'"):
    check_generator(**fields | {"rad": 0})


def test_an_interval_without_guidance_scale_is_refused(options):
  clip = dict(image_weights="a", text_weights="b", tokenizer="c")
  changes = dict(guidance_scale=None, clip_guidance=clip)
  with pytest.raises(UserError, match="takes its place: remove one"):
    load_generator("glide", **options | changes, guidance_interval=(0, 500))
  with pytest.raises(UserError, match="two of 0 to 999"):
    load_generator("glide", **options, guidance_interval=(500, 1000))


@pytest.mark.parametrize("interval", [(0.2, 0.8), (500, 100), (5,), 5, "ab"])
def test_a_bad_interval_is_refused_before_anything_runs(options, interval):
  with pytest.raises(UserError, match="guidance_interval.*: needed "):
    check_generator("glide", **options | {"guidance_interval": interval})
  check_generator("glide", **options, guidance_interval=(100, 500))
