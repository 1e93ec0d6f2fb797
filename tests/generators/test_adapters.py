"""Low-rank adapters of GLIDE: applied, merged, saved, and one for each row."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_glide
import torch

from synthjax.generators import (
  adapters,
  encodings,
  glide,
  keys,
  load_generator,
)
from synthjax.models import lora
from synthjax.models.glide import weights as glide_weights
from synthjax.models.glide.model import Glide
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files

PROMPTS = ["a red apple", "a fish", "a car"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
  folder = tmp_path_factory.mktemp("glide")
  return load_generator(**tiny_glide.write_glide(folder))


def updates_of(params, seed=0, rank=2):
  """Draws updates that change something."""
  rng = np.random.default_rng(seed)
  updates = lora.init(params, glide_weights.LOW_RANK, rank, jax.random.key(0))
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  return jax.tree.map(draw, updates)


def test_updates_of_rows_are_those_that_are_merged_into_weights(generator):
  model = Glide(vocab_size=bpe.load().glide_vocab_size, **tiny_glide.SIZES)
  params = jax.device_get(generator.adaptable.frozen())
  each = [updates_of(params, seed) for seed in (0, 1)]
  rng = np.random.default_rng(0)
  x = rng.normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
  tokens = np.arange(16, dtype=np.int32).reshape(2, 8)

  @jax.jit
  def predict(params, updates, x):
    tile = lambda y: jnp.concatenate([y] * (len(x) // 2))
    inputs = x, jnp.full(len(x), 400), tile(tokens), tile(tokens < 12)
    with nn.intercept_methods(lora.added(updates)):
      return model.apply({"params": params}, *inputs)

  rows = adapters.gather(each.__getitem__, [(0,), (1,)])
  # A batch of twice as many rows, as guidance without a classifier has.
  got = predict(params, rows, np.concatenate([x, x[::-1]]))
  merged = [predict(lora.merge(params, u), {}, x) for u in each]
  for i in range(2):
    np.testing.assert_allclose(got[i], merged[i][i], rtol=1e-3, atol=1e-4)
  assert np.abs(got[0] - merged[1][0]).max() > 0.01
  # Row 2 has the image and adapter of rows 1 and 0, and the prompt of row 0.
  assert np.abs(got[2] - got[0]).max() > 0.01


def test_the_mean_of_adapters_is_that_of_what_they_add():
  params = {"x": {"qkv": {"kernel": np.zeros((6, 9))}}}
  each = [updates_of(params, seed) for seed in (0, 1)]
  product = lambda u: u["x/qkv"]["a"] @ u["x/qkv"]["b"]
  got = product(adapters.gather(each.__getitem__, [(1, 0), (1, 1)]))
  want = (product(each[0]) + product(each[1])) / 2
  np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(got[1], product(each[1]), rtol=1e-4, atol=1e-6)


def test_slices_and_gradients_are_those_of_pytorch():
  """Of three updates beside each other, for rows of their own."""
  rng, (n, length, d, r, e, s) = np.random.default_rng(0), (2, 5, 6, 2, 4, 3)
  draw = lambda *shape: rng.normal(0, 0.5, shape).astype(np.float32)
  x, kernel, wanted = draw(n, length, d), draw(d, s * e), draw(n, length, s * e)
  a, b, scale = draw(n, s, d, r), draw(n, s, r, e), 0.7

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(s * e, use_bias=False, name="qkv")(x)

  def loss_fn(updates):
    with nn.intercept_methods(lora.added({"qkv": updates}, scale)):
      y = Net().apply({"params": {"qkv": {"kernel": kernel}}}, x)
    return jnp.square(y - wanted).mean()

  loss, got = jax.value_and_grad(loss_fn)({"a": a, "b": b})
  a, b = (torch.tensor(w, requires_grad=True) for w in (a, b))
  x = torch.tensor(x)
  y = x @ torch.tensor(kernel)
  y = y + scale * torch.cat([x @ a[:, i] @ b[:, i] for i in range(s)], dim=-1)
  want = (y - torch.tensor(wanted)).square().mean()
  want.backward()
  np.testing.assert_allclose(loss, want.item(), rtol=1e-5)
  np.testing.assert_allclose(got["a"], a.grad, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(got["b"], b.grad, rtol=1e-4, atol=1e-6)


def test_a_file_holds_the_layout_of_diffusers(tmp_path, generator):
  from safetensors.numpy import load_file

  adaptable = generator.adaptable
  updates = updates_of(adaptable.frozen())
  path = tmp_path / "a.safetensors"
  adapters.save(path, adaptable, updates, scale=0.5)
  saved = load_file(path)
  # Layer by layer: the matrices of a linear layer, and a convolution's kernels.
  layer = "text_encoder.transformer.resblocks.0.attn.c_qkv"
  each = updates["text/transformer_resblocks_0/attn_c_qkv"]
  np.testing.assert_array_equal(saved[f"{layer}.lora_A.weight"], each["a"][0].T)
  np.testing.assert_array_equal(
    saved[f"{layer}.lora_B.weight"], 0.5 * each["b"][0].T
  )
  assert saved["unet.middle_block.1.qkv.lora_A.weight"].shape == (2, 32, 1)
  assert len(saved) == 2 * len(updates)
  read = adapters.reader([path], adaptable)(0)
  for name, each in updates.items():
    np.testing.assert_array_equal(read[name]["a"], each["a"])
    np.testing.assert_array_equal(read[name]["b"], 0.5 * each["b"])
  del saved[f"{layer}.lora_B.weight"]
  with pytest.raises(UserError, match="attn_c_qkv/kernel: weights have None"):
    adapters.from_diffusers(adaptable, saved)
  with pytest.raises(UserError, match="no weights .lora_A.weight"):
    adapters.from_diffusers(adaptable, {})
  saved[f"{layer}.alpha"] = np.float32(4)
  with pytest.raises(UserError, match="such as .*alpha.*alpha / rank"):
    adapters.from_diffusers(adaptable, saved)


def test_shapes_are_traced_once_for_all_files(tmp_path, generator):
  adaptable, traced = generator.adaptable, []
  paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
  for seed, path in enumerate(paths):
    rank = 3 if seed == 2 else 2
    updates = updates_of(adaptable.frozen(), seed, rank)
    adapters.save(path, adaptable, updates)
  init = lambda *args: traced.append(args) or adaptable.init(*args)
  read = adapters.reader(paths, adaptable._replace(init=init))
  ranks = [next(iter(read(i).values()))["a"].shape[-1] for i in range(3)]
  assert ranks == [2, 2, 3]
  assert [rank for rank, _ in traced] == [2, 3]


def test_empty_prompts_of_coming_adapters_are_read_early(tmp_path, monkeypatch):
  """A batch for each of four classes: pairs of prompts, two in an encoding."""
  encoded, cached = [], encodings.cached

  def watched(encode, **more):
    return cached(lambda p: encoded.append(p) or encode(p), **more)

  def blank(side):
    return lambda _, *given: jnp.zeros((4, side, side, 3), jnp.uint8)

  monkeypatch.setattr(encodings, "cached", watched)
  monkeypatch.setattr(glide, "_draw_small", blank(8))
  monkeypatch.setattr(glide, "_enlarge", blank(16))
  generator = load_generator(**tiny_glide.write_glide(tmp_path))
  each = [updates_of(generator.adaptable.frozen(), seed) for seed in range(4)]
  places = [(i // 4,) for i in range(16)]
  prompts = [f"a photo of {place}" for (place,) in places]
  generator.adapted(each.__getitem__).draw(prompts, adapters=places)
  found = [[(p.prompt != "", *p.adapters) for p in batch] for batch in encoded]
  pairs = [(is_text, i) for i in range(4) for is_text in (True, False)]
  assert found == [pairs[:4], pairs[4:]]


def test_updates_that_change_nothing_are_refused(tmp_path, generator):
  """Whether they are written or read, and where there is no layer for any."""
  adaptable = generator.adaptable
  path, updates = tmp_path / "a.safetensors", updates_of(adaptable.frozen())
  for part in "ab":
    nothing = {
      name: each | {part: 0 * each[part]} for name, each in updates.items()
    }
    with pytest.raises(UserError, match="a.safetensors has learned nothing"):
      adapters.save(path, adaptable, nothing)
    assert not path.exists()
  files.save_arrays(path, adapters.to_diffusers(adaptable, nothing), {})
  with pytest.raises(UserError, match="All updates in .*a.safetensors are 0"):
    adapters.reader([path], adaptable)(0)
  with pytest.raises(UserError, match="no layer .* ends in one of qkv"):
    updates_of({"x": {"conv": {"kernel": np.zeros((6, 9))}}})
  one = {name: each | {"b": 0 * each["b"]} for name, each in updates.items()}
  last = [*one][-1]
  assert lora.has_updates(one | {last: updates[last]})


@pytest.mark.slow
def test_an_image_has_its_own_adapters_in_any_batch(generator):
  """And an adapter that changes nothing draws what the generator does."""
  params = generator.adaptable.frozen()
  each = [updates_of(params, seed) for seed in (0, 1)]
  each += [jax.tree.map(np.zeros_like, each[0])]
  adapted, rngs = (
    generator.adapted(each.__getitem__),
    keys.prompt_keys(PROMPTS, 0),
  )
  draw = lambda *rows, **more: np.concatenate(
    [*adapted.stream([PROMPTS[i] for i in rows], rngs[np.array(rows)], **more)]
  )
  plain = generator.draw(PROMPTS)
  np.testing.assert_array_equal(draw(0, 1, 2), plain)
  together = draw(0, 1, 2, adapters=[(0,), (1,), (2,)])
  assert np.abs(together[2].astype(int) - plain[2]).max() <= 1
  assert (np.abs(together[:2].astype(int) - plain[:2]).max((1, 2, 3)) > 3).all()
  alone = draw(1, adapters=[(1,)])
  np.testing.assert_array_equal(alone[0], together[1])
  mixed = draw(1, 2, adapters=[(0, 1), (1, 1)])
  assert np.abs(mixed[0].astype(int) - together[1]).max() > 1
