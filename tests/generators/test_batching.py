"""What all generators share: stages, precision, and batches that fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.generators import Adapted, batching, encodings
from synthjax.runtime import memory
from synthjax.runtime.errors import UserError

MIB = 2**20


@pytest.fixture
def make():
  """Returns a generator of 1 MiB of weights, and what was traced of it.

  An image takes 1 MiB, in float32.
  """
  traced = []

  def begin(start_steps, params, texts, rngs, references):
    traced.append((start_steps, jax.config.jax_default_matmul_precision))
    if isinstance(texts, tuple):  # with 1 MiB of adapters for each of them
      texts = texts[0] + texts[1].mean((1, 2))
    x = texts * params["w"][0]
    return x if references is None else x + references.mean((1, 2, 3))

  def finish(params, texts, rngs, x):
    traced.append("finish")
    return jnp.full((len(x), 512, 512, 1), x[:, None, None, None])

  def make_reader(count):
    def read(prompts, coming):
      texts = jnp.zeros(len(prompts))
      if isinstance(prompts[0], str):
        return texts
      return texts, jnp.zeros(
        (len(prompts), len(prompts[0].adapters), MIB // 4)
      )

    return encodings.Reader(read)

  def make(batch_size, precision="default", **more):
    generator = batching.make_generator(
      begin,
      finish,
      batching.staying({"w": jnp.ones(MIB // 4)}),
      make_reader,
      batching.own_devices(),
      batch_size=batch_size,
      precision=precision,
      identity={"generator": "made up"},
      image_size=512,
      reference_size=1,
      num_steps=9,
      **more,
    )
    return generator, traced

  return make


def draw(generator, count, steps=None):
  rngs = jax.random.split(jax.random.key(0), count)
  references = None if steps is None else np.zeros((count, 1, 1, 3), np.uint8)
  return generator.draw([""] * count, rngs, references, steps)


def test_other_start_steps_compile_the_first_stage_alone(make):
  generator, traced = make(2)
  for steps in (None, 3, 5, 3, None):
    assert draw(generator, 3, steps).shape == (3, 512, 512, 1)
  stages = [stage if stage == "finish" else stage[0] for stage in traced]
  assert stages == [None, "finish", 3, 5]


def test_the_precision_is_traced_and_identified_where_it_is_not_the_default(
  make,
):
  for precision, identity in (
    ("default", {"generator": "made up"}),
    ("highest", {"generator": "made up", "precision": "highest"}),
  ):
    generator, traced = make(1, precision)
    draw(generator, 1)
    assert traced[-2:] == [(None, precision), "finish"]
    assert generator.identity == identity


def test_a_batch_is_as_large_as_the_memory_allows(make, monkeypatch):
  count = jax.local_device_count()
  assert make(None)[0].batch_size == batching.BATCH_SIZE * count  # unknown
  monkeypatch.setattr(batching, "MOST", 32)
  for room, batch_size in ((4, 2), (20, 16), (70, 32)):
    monkeypatch.setattr(memory, "limit", lambda room=room: room * MIB)
    before = len(make(None)[1])
    generator, traced = make(None)
    assert len(traced) == before  # a finished workdir needs no batch
    rngs = jax.random.split(jax.random.key(0), 40 * count)
    prompts = [""] * len(rngs)
    assert len(next(generator.stream(prompts, rngs))) == batch_size * count
    assert make(3)[0].batch_size == 3 * count


def test_adapters_of_a_batch_take_memory_as_well(make, monkeypatch):
  """An image takes 1 MiB, and each of its two adapters another one."""
  monkeypatch.setattr(batching, "MOST", 64)
  monkeypatch.setattr(memory, "limit", lambda: 40 * MIB)
  count, example = jax.local_device_count(), Adapted("", (0, 0))
  for batch_size, more in ((32, {}), (8, {"example": example})):
    generator, _ = make(None, **more)
    rngs = jax.random.split(jax.random.key(0), 40 * count)
    images = next(generator.stream([""] * len(rngs), rngs))
    assert len(images) == batch_size * count
  drawn = make(16, example=example)[0]
  with pytest.raises(UserError, match="batch_size=16 needs .* set it to 8"):
    drawn.draw([""], rngs[:1], adapters=[(0, 1)])


def test_a_batch_that_does_not_fit_is_refused_before_it_is_drawn(
  make, monkeypatch
):
  monkeypatch.setattr(memory, "limit", lambda: 20 * MIB)
  monkeypatch.setattr(memory, "GIB", MIB)
  with pytest.raises(
    UserError,
    match=r"batch_size=32 needs about 33.0 GiB on each device, 1.0 of it for "
    r"what stays .* 20.0 GiB: set it to 16",
  ):
    draw(make(32)[0], 1)
  assert draw(make(16)[0], 1).shape == (1, 512, 512, 1)
  monkeypatch.setattr(memory, "limit", lambda: MIB + 1)
  with pytest.raises(UserError, match="not even one fits"):
    draw(make(4)[0], 1)
