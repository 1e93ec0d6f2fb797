"""Devices that share the weights of a generator draw the same images."""

import json

import pytest
import simulated

# XLA's schedule for little memory, which is not what a CPU has by default.
FLAGS = (
  "--xla_force_host_platform_device_count=4 "
  "--xla_cpu_enable_concurrency_optimized_scheduler=false"
)
LAYERS, WIDTH = 8, 256

WALK = """
import functools, json, sys
import flax.linen as nn, jax, jax.numpy as jnp
from synthjax.generators import batching, encodings
from synthjax.models import lora
from synthjax.runtime import memory

layers, width = map(int, sys.argv[1:])
programs = []
memory.limit = lambda: 2**40
memory.check = lambda held, working, *a, **k: programs.append((held, working))


class Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    for _ in range(layers):
      x = nn.tanh(nn.Dense(width)(x))
    return x


network, found = Network(), []
weights = network.init(jax.random.key(0), jnp.ones((1, width)))["params"]
types = jax.tree.map(lambda w: w.dtype, weights)
ones = jnp.ones((1, width, 1))
updates = {"Dense_0": {"a": ones, "b": ones.swapaxes(1, 2)}}


def begin(start_steps, params, texts, rngs, references):
  def step(x, _):
    with nn.intercept_methods(lora.added(updates)):
      return batching.apply(network, params["net"], x), None
  return jax.lax.scan(step, texts, length=3)[0]


def finish(params, texts, rngs, x):
  return jnp.round(255 * x[:, None, None])


for fsdp in (1, 4):
  devices = batching.own_devices(fsdp)
  params = batching.put({"net": weights}, {"net": types}, devices)
  noise = jax.random.normal(jax.random.key(1), (4, width))
  noise = jax.device_put(noise, devices.split)
  generator = batching.make_generator(
    begin, finish, batching.staying(params),
    lambda n: encodings.Reader(lambda *given: noise), devices,
    batch_size=1, precision="highest", identity={}, image_size=1,
    reference_size=1, num_steps=3)
  images = generator.draw([""] * 4, jax.random.split(jax.random.key(0), 4))
  walk = jax.jit(functools.partial(begin, None))
  with batching.gathering(devices):
    traced = walk.trace(params, noise, None, None)
  lowered = traced.lower(lowering_platforms=("cuda", "tpu")).as_text()
  gathers = lowered.count("optimization_barrier")
  found.append([images.tolist(), *programs[-2], gathers])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_layers_gather_their_weights_one_after_the_other():
  """A device holds its share and one layer, whatever the number of layers.

  Low-rank updates still find theirs.
  """
  process = simulated.start(WALK, LAYERS, WIDTH, XLA_FLAGS=FLAGS)
  alone, shared = json.loads(simulated.finish(process))
  (want, held, _, none), (got, share, working, gathers) = alone, shared
  assert got == want
  layer = 4 * WIDTH**2  # bytes
  assert held > LAYERS * layer and share < held / 3
  assert layer <= working < 1.5 * layer
  assert (none, gathers) == (0, LAYERS)


DRAW = """
import json, pathlib, sys
import numpy as np
import tiny_flux2, tiny_sd
from synthjax.config import embedded_world
from synthjax.generators import batching, flux2, load_generator
from synthjax.models.flux2 import weights
from synthjax.runtime import memory

held, images = [], []
memory.limit = lambda: 2**40
memory.check = lambda weights, *a, **k: held[-1].append(weights)
block = embedded_world()["generator"]
name, turns = sys.argv[1], sys.argv[3] == "by turns"
if turns:
  batching.STAYING = 0
if name == "stable_diffusion":
  block = {"name": name} | tiny_sd.write_file(pathlib.Path(sys.argv[2]))
elif name == "flux2":
  weights.TAPS, flux2.CONTEXT = tiny_flux2.TAPS, 64
  tiny_flux2.write_folder(pathlib.Path(sys.argv[2]), tiny_flux2.released())
  block = {"name": name, "weights": sys.argv[2], "sampler": "euler",
           "respacing": 4, "image_size": 16, "precision": "highest"}
for fsdp in (1, 4):
  held.append([])
  generator = load_generator(**block | {"batch_size": 1, "fsdp": fsdp})
  images.append(generator.draw(["a fish", "a cat", "a car", "a tree"]))
one, other = np.array(images, int)
off = int(abs(one - other).max())
print(json.dumps([off, float(one.std()), *held]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "how"),
  [
    ("glide", "staying"),
    ("stable_diffusion", "staying"),
    ("stable_diffusion", "by turns"),
    ("flux2", "staying"),
  ],
)
def test_images_of_shared_weights_are_those_of_whole_ones(name, how, tmp_path):
  process = simulated.start(DRAW, name, tmp_path, how, XLA_FLAGS=FLAGS)
  off, spread, whole, share = json.loads(simulated.finish(process))
  assert off <= 1 and spread > 10
  assert len(whole) == len(share) > 1
  assert all(s < 0.35 * w for s, w in zip(share, whole, strict=True))
  assert (min(whole) < max(whole) / 2) == (how == "by turns")
