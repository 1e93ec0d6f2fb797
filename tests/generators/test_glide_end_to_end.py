"""From released files to images: read, convert, keep, load and draw."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import released_glide
import tiny_glide

from synthjax.config import embedded_world
from synthjax.generators import load_generator
from synthjax.models.glide import weights as convert
from synthjax.weights import files
from synthjax.weights.read import read_weights

PROMPTS = ["a red apple", "a fish", "a car", "a tree"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return tiny_glide.write_glide(tmp_path_factory.mktemp("glide"))


def draw(block, **changes):
  """Draws four images, as int."""
  generator = load_generator(**block | changes)
  keys = jax.random.split(jax.random.key(0), len(PROMPTS))
  return generator.draw(PROMPTS, keys).astype(int)


@pytest.mark.slow
def test_small_networks_go_from_torch_to_images_unchanged(tmp_path, tiny):
  """Files of torch.save draw what the same weights draw without them."""
  torch = pytest.importorskip("torch")
  direct, through = dict(tiny), dict(tiny)
  for stage in ("base", "upsampler"):
    params, about = files.load_params(tiny[stage]["weights"])
    released = convert.to_released({"params": params}, about)
    torch.save(
      {k: torch.from_numpy(v.copy()) for k, v in released.items()},
      tmp_path / f"{stage}.pt",
    )
    variables, description = convert.from_released(
      read_weights(tmp_path / f"{stage}.pt"),
      head_channels=about["model"]["head_channels"],
      text_heads=about["model"]["text_heads"],
      image_size=about["image_size"],
      low_res=about["low_res"],
    )
    for field, value in description["model"].items():
      if field != "out_channels":  # which the tiny one leaves at its default
        assert value == about["model"][field], field
    paths = {}
    for name, tree in (("direct", {"params": params}), ("through", variables)):
      paths[name] = str(tmp_path / f"{stage}_{name}.safetensors")
      files.save_params(paths[name], tree, description)
    direct[stage] = tiny[stage] | {"weights": paths["direct"]}
    through[stage] = tiny[stage] | {"weights": paths["through"]}
  images = draw(through)
  assert images.shape == (4, 16, 16, 3) and images.std() > 10
  np.testing.assert_array_equal(images, draw(direct))
  np.testing.assert_array_equal(images, draw(through))  # and again


def gap(block):
  """Compares bfloat16 with float32: mean, 99th percentile, between images."""
  exact, rough = (draw(block, dtype=d) for d in ("float32", "bfloat16"))
  difference = np.abs(exact - rough)
  between = np.abs(exact - np.roll(exact, 1, axis=0)).mean()
  return difference.mean(), np.percentile(difference, 99), between


@pytest.mark.slow
def test_bfloat16_draws_nearly_the_same(tiny):
  """Random networks amplify rounding, yet most pixels hardly move."""
  mean, _, between = gap(tiny)
  assert mean < 2 and between > 50  # of 255


@pytest.mark.slow
def test_bfloat16_draws_nearly_the_same_with_trained_weights():
  mean, most, between = gap(embedded_world()["generator"] | {"batch_size": 4})
  assert mean < 2 and most <= 10 and between > 50


CONVERT = """
import json, resource, sys, time
began = time.monotonic()
from synthjax.models.glide import weights as glide_weights
from synthjax.weights import files
from synthjax.weights.read import read_weights
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
  variables, description = glide_weights.from_released(read_weights(source))
  files.save_params(target, variables, description, dtype="float16")
"""
DRAW = """
import json, resource, sys, time
began = time.monotonic()
from absl import flags
flags.FLAGS.mark_as_parsed()
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
from synthjax.runtime.cache import use_compilation_cache
use_compilation_cache()
from synthjax.generators import load_generator
base, upsampler, target = sys.argv[1:]
generator = load_generator(
  "glide",
  base=dict(weights=base, sampler="ancestral", respacing="2"),
  upsampler=dict(weights=upsampler, sampler="ddim", respacing="2"),
  tokenizer="embedded:tokenizer.json",
  guidance_scale=3.0,
  batch_size=1,
)
image = generator.draw(["a red apple"], jax.random.split(jax.random.key(0), 1))
np.save(target, image)
"""
MEASURE = """
print(json.dumps({
  "seconds": time.monotonic() - began,
  "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


def measured(script, *paths):
  """Runs a script alone on one device: its seconds and its peak memory."""
  alone = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  result = subprocess.run(
    [sys.executable, "-c", script + MEASURE, *map(str, paths)],
    env=alone | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert not result.returncode, result.stderr
  return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_files_of_the_released_size_become_an_image(tmp_path):
  """Two networks of 390M parameters, converted and drawn with in 12 GiB."""
  torch = pytest.importorskip("torch")
  made, kept = [], []
  stages = (
    ("base", released_glide.BASE),
    ("upsample", released_glide.UPSAMPLER),
  )
  for seed, (name, stage) in enumerate(stages):
    weights = released_glide.small(
      released_glide.glide(stage), seed, np.float16
    )
    made.append(tmp_path / f"{name}.pt")
    kept.append(tmp_path / f"{name}.safetensors")
    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, made[-1])
    del weights
  try:
    pairs = [path for pair in zip(made, kept, strict=True) for path in pair]
    converting = measured(CONVERT, *pairs)
    drawing = measured(DRAW, *kept, tmp_path / "image.npy")
  finally:
    for path in made + kept:
      path.unlink(missing_ok=True)
  print(f"converting {converting}, drawing {drawing}")
  image = np.load(tmp_path / "image.npy")
  assert image.shape == (1, 256, 256, 3) and image.dtype == np.uint8
  assert image.std() > 5
  assert max(converting["gib"], drawing["gib"]) < 12
