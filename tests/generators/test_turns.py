"""Text encoders leave the devices before images are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_flux2
import tiny_sd

from synthjax.generators import (
  adapters,
  batching,
  encodings,
  load_generator,
)
from synthjax.runtime import memory
from synthjax.runtime.errors import UserError

MIB = 2**20
PROMPTS = ["a red apple", "a fish", "", "a dog", "a red apple", "a cat"]


class Matrix:
  """A module whose weights are used in float32."""

  dtype = np.float32


def mebibytes(count):
  return {"w": np.arange(count * MIB // 4, dtype=np.float32)}


def place(monkeypatch, room, **sizes):
  """Places networks of so many MiB, "text" and others, in room MiB."""
  monkeypatch.setattr(memory, "limit", lambda: room and int(room * MIB))
  return batching.in_turns(
    dict.fromkeys(sizes, Matrix),
    lambda module: (),
    {name: mebibytes(count) for name, count in sizes.items()},
    batching.own_devices(),
    texts=["text"],
  )


def deleted(params):
  return {x.is_deleted() for x in jax.tree.leaves(params)}


def test_networks_take_turns_and_come_back_the_same(monkeypatch):
  weights_of = place(monkeypatch, 10, text=3, unet=4, vae=1)
  texts, drawing = weights_of("text"), weights_of("unet", "vae")
  for _ in range(2):
    encoding = texts.get()
    np.testing.assert_array_equal(encoding["text"]["w"], mebibytes(3)["w"])
    assert texts.get()["text"]["w"] is encoding["text"]["w"]
    walking = drawing.get()
    assert deleted(encoding) == {True} and deleted(walking) == {False}
    np.testing.assert_array_equal(walking["unet"]["w"], mebibytes(4)["w"])
  assert memory.held_bytes(texts.held) == 3 * MIB
  assert memory.held_bytes(drawing.held) == 5 * MIB
  texts.get()
  assert deleted(walking) == {True}
  # Those that learn low-rank updates need all at once.
  assert deleted(weights_of("text", "unet", "vae").get()) == {False}


@pytest.mark.parametrize("room", [None, 32])
def test_up_to_a_quarter_of_the_memory_all_stay(monkeypatch, room):
  weights_of = place(monkeypatch, room, text=3, unet=5)
  texts, drawing = weights_of("text"), weights_of("unet")
  encoding = texts.get()
  assert drawing.get() and texts.get() and deleted(encoding) == {False}
  for weights in (texts, drawing):
    assert memory.held_bytes(weights.held) == 8 * MIB


def test_more_than_a_quarter_of_the_memory_is_not_left_there(monkeypatch):
  weights_of = place(monkeypatch, 31.9, text=3, unet=5)
  encoding = weights_of("text").get()
  weights_of("unet").get()
  assert deleted(encoding) == {True}


def test_the_larger_turn_must_fit_and_not_the_sum(monkeypatch):
  monkeypatch.setattr(memory, "GIB", MIB)
  weights_of = place(monkeypatch, 5.5, text=5, unet=3, vae=2)  # .95 of it: 5.2
  with pytest.raises(UserError, match=r"need 10\.0 GiB.*text 5.0, unet 3.0"):
    weights_of("text", "unet", "vae").get()
  for sizes in ({"text": 5.5, "unet": 1}, {"text": 1, "unet": 4, "vae": 1.5}):
    with pytest.raises(
      UserError, match=r"need 5\.5 GiB on each device \(text .*, then unet"
    ):
      place(monkeypatch, 5.5, **sizes)


# --- what is estimated and kept -----------------------------------------------


def make(monkeypatch, room, **sizes):
  """Returns a generator with encodings and images of 1 MiB each."""
  weights_of = place(monkeypatch, room, **sizes)
  calls = []

  def encode(params, tokens):
    row = params["text"]["w"][: MIB // 4]
    return tokens[:, None] * row[None]

  def inputs_of(prompts):
    calls.append(list(prompts))
    return np.array([len(prompt) for prompt in prompts], np.float32)

  def begin(start_steps, params, texts, rngs, references):
    encoded, _, _ = texts
    return encoded[:, 1] + params["unet"]["w"][0]

  def finish(params, texts, rngs, x):
    return jnp.full((len(x), 512, 512, 1), x[:, None, None, None])

  def make_reader(batch_size):
    return encodings.first(
      encode,
      weights_of("text"),
      inputs_of,
      batching.own_devices(),
      batch_size,
      context=lambda: batching.tracing(batching.own_devices(), "highest"),
    )

  def generator(batch_size):
    return batching.make_generator(
      begin,
      finish,
      weights_of("unet"),
      make_reader,
      batching.own_devices(),
      batch_size=batch_size,
      precision="highest",
      identity={},
      image_size=512,
      reference_size=1,
      num_steps=1,
    )

  return generator, calls


def first_batch(generator):
  """Returns how many images each device draws at once."""
  count = 300 * jax.local_device_count()
  rngs = jax.random.split(jax.random.key(0), count)
  images = next(generator.stream(["a"] * count, rngs))
  return len(images) / jax.local_device_count()


@pytest.mark.parametrize(
  ("room", "sizes", "count"),
  [
    # n images take n MiB, and so do their encodings.
    (22, {"text": 8, "unet": 4}, 8),  # 20.9 - 4 = 16.9 > 2 * 8
    # Beside the text encoder are 6.5 for n of encodings.
    (30, {"text": 22, "unet": 4}, 4),
    (40, {"text": 9, "unet": 1}, 8),  # all stay: 38 - 10 = 28 < 2 * 16
  ],
)
def test_a_batch_fits_beside_the_larger_turn(monkeypatch, room, sizes, count):
  generator, _ = make(monkeypatch, room, **sizes)
  assert first_batch(generator(None)) == count


def test_a_batch_whose_encodings_do_not_fit_is_refused(monkeypatch):
  monkeypatch.setattr(memory, "GIB", MIB)
  generator, _ = make(monkeypatch, 28, text=8, unet=4)
  # 4 of weights, 16 of images, 16 of encodings.
  with pytest.raises(
    UserError, match=r"batch_size=16 needs about 36\.0 GiB .*, 4\.0 of it"
  ):
    first_batch(generator(16))
  assert first_batch(generator(4)) == 4


def test_the_host_keeps_so_many_encodings_and_no_more(monkeypatch):
  n = jax.local_device_count()
  monkeypatch.setattr(encodings, "HOST_BYTES", 4 * n * MIB)
  generator, calls = make(monkeypatch, None, text=8, unet=4)
  drawing, prompts = generator(1), [str(i) for i in range(6 * n)]
  rngs = jax.random.split(jax.random.key(0), len(prompts))
  stream = drawing.stream(prompts, rngs)
  next(stream)
  encoded = lambda: {p for batch in calls for p in batch if p}
  # Those of four batches before the first image; the others later.
  assert encoded() == {*prompts[: 4 * n]}
  assert len(list(stream)) == 5 and encoded() == {*prompts}
  calls.clear()
  last = prompts[-n:]
  drawing.draw(last, rngs[-n:])
  assert not encoded()
  drawing.draw(prompts[:n], rngs[:n])
  assert encoded() == {*prompts[:n]}


# --- Stable Diffusion and FLUX.2 ----------------------------------------------


@pytest.fixture
def block(request, tmp_path, monkeypatch):
  """Returns config.generator of tiny networks, which are guided."""
  if request.param != "flux2":
    block = tiny_sd.write_file(tmp_path, request.param)
    return {"name": "stable_diffusion", **block, "negative_prompt": "blurry"}
  block = tiny_flux2.write_flux2(tmp_path, monkeypatch)
  return block | {"negative_prompt": "blurry"}


@pytest.fixture
def turns(monkeypatch):
  """Lists whose turn it is; the weights of the others must be deleted."""
  order, in_turns = [], batching.in_turns

  def watched(*given, **more):
    weights_of, placed = in_turns(*given, **more), {}

    def watch(*names):
      weights = weights_of(*names)

      def get():
        params = weights.get()
        for others, theirs in placed.items():
          if others != names:
            assert deleted(theirs) == {True}, others
        placed[names] = params
        if order[-1:] != [names]:
          order.append(names)
        return params

      return weights._replace(get=get)

    return watch

  monkeypatch.setattr(batching, "in_turns", watched)
  return order


@pytest.mark.slow
@pytest.mark.parametrize("block", ["v1", "xl", "flux2"], indirect=True)
def test_images_are_the_same_by_turns(block, request, monkeypatch):
  """Whatever prompts are encoded together, and what leaves the devices."""
  rngs = jax.random.split(jax.random.key(1), len(PROMPTS))
  want = load_generator(**block).draw(PROMPTS, rngs)
  assert want.std() > 10
  monkeypatch.setattr(memory, "limit", lambda: 2**31)
  monkeypatch.setattr(batching, "STAYING", 0)
  monkeypatch.setattr(encodings, "HOST_BYTES", 1)  # a batch at a time
  turns = request.getfixturevalue("turns")
  generator = load_generator(**block)
  assert not turns
  backwards = generator.draw(PROMPTS[::-1], rngs[::-1])
  np.testing.assert_array_equal(backwards[::-1], want)
  texts, drawing = turns[:2]
  assert texts[0] == "text" and "vae" in drawing
  assert turns == 3 * [texts, drawing]
  generator.draw(PROMPTS[:2], rngs[:2])  # whose encodings are there
  assert len(turns) == 6


@pytest.mark.slow
@pytest.mark.parametrize("block", ["v1"], indirect=True)
def test_updates_and_their_learning_find_all_weights(block, monkeypatch):
  """Low-rank updates change the text encoders, and the guiding prompt."""
  plain, rngs = load_generator(**block), jax.random.split(jax.random.key(1), 2)
  shapes = jax.eval_shape(
    lambda rng: plain.adaptable.init(2, rng), jax.random.key(0)
  )

  def read(place):
    rng = np.random.default_rng(place)
    draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
    return jax.tree.map(draw, shapes)

  draw = lambda generator: generator.adapted(read).draw(
    PROMPTS[:2], rngs, adapters=[(0,), (1,)]
  )
  want = draw(plain)
  frozen = jax.device_get(plain.adaptable.frozen())
  monkeypatch.setattr(memory, "limit", lambda: 2**31)
  monkeypatch.setattr(batching, "STAYING", 0)
  other = load_generator(**block)
  np.testing.assert_array_equal(draw(other), want)
  again = other.adaptable.frozen()
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), frozen)
  assert adapters.with_text("a", "b") == "b"
