"""CLIP-LoRA: updates that start at nothing, are learned, and are merged."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_world
import torch

from synthjax.adapt import linear_head, lora
from synthjax.adapt.soft_targets import hard_cross_entropy
from synthjax.models import lora as low_rank
from synthjax.models.clip import model as clip
from synthjax.models.clip.vit import Attention
from synthjax.runtime.errors import UserError

RECIPE = lora.LoRA()
TEXTS = ("a bird", "fresh fruit", "drink")


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
  path = tmp_path_factory.mktemp("clip") / "a.safetensors"
  weights = tiny_world.write_clip(path)
  return lora.load_towers(weights, TEXTS, tokenizer="embedded:tokenizer.json")


def images_of(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*shape, 32, 32, 3), dtype=np.uint8)


def updates_of(towers, *, changed=True):
  """Draws updates; those of `init` change nothing."""
  updates = lora.init(towers.variables["params"], 2, jax.random.key(0))
  rng = np.random.default_rng(1)
  draw = lambda x: x + changed * rng.normal(0, 0.1, x.shape).astype("f")
  return jax.tree.map(draw, updates)


@pytest.fixture(scope="module")
def logits_of(towers):
  """Maps updates and images to logits, compiled once for each shape."""
  function = lambda variables, updates, images: lora.logits_fn(
    towers, variables, updates, images, RECIPE.scale
  )
  return functools.partial(jax.jit(function), towers.variables)


def test_updates_of_both_towers_start_as_no_change(towers, logits_of):
  images, updates = images_of(3), updates_of(towers, changed=False)
  assert {path.split("/")[0] for path in updates} == {"visual", "transformer"}
  want = jax.jit(towers.module.apply)(
    towers.variables, clip.preprocess(jnp.asarray(images)), towers.tokens
  )
  got = logits_of(updates, images)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert np.abs(got - logits_of(updates_of(towers), images)).max() > 0.1
  for each in updates.values():  # PyTorch's bound is 1 / sqrt(inputs)
    bound = each["a"].shape[1] ** -0.5
    assert 0.8 * bound < np.abs(each["a"]).max() <= bound
    assert not each["b"].any()


def test_merged_updates_are_those_that_were_added(towers, logits_of):
  images, updates = images_of(3), updates_of(towers)
  want = logits_of(updates, images)
  tuned = lora.merged(towers, updates, RECIPE.scale)
  tower = clip.make_image_tower(towers.module)
  features = tower.apply(tuned["encoder"], clip.preprocess(jnp.array(images)))
  got = linear_head.logits_fn(tuned["head"], features)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_gradients_are_those_of_pytorch():
  """Of the cross entropy behind an attention whose q, k and v are updated."""
  rng, (n, length, d, r) = np.random.default_rng(0), (2, 5, 8, 2)
  draw = lambda *shape: rng.normal(0, 0.5, shape).astype(np.float32)
  x, labels = draw(n, length, d), rng.integers(0, d, (n,))
  a, b, scale = draw(3, d, r), draw(3, r, d), RECIPE.scale
  params = {
    "in_proj": {"kernel": draw(d, 3 * d), "bias": draw(3 * d)},
    "out_proj": {"kernel": draw(d, d), "bias": draw(d)},
  }

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Attention(2, 1.0, 1.0, causal=True, name="attn")(x)

  @jax.jit
  def loss_fn(updates):
    with nn.intercept_methods(low_rank.added({lora.LAYER: updates}, scale)):
      y = Block().apply({"params": {"attn": params}}, x)
    return hard_cross_entropy(y[:, -1], labels).mean()

  got = jax.grad(loss_fn)({"a": a, "b": b})

  tensor = lambda x: torch.tensor(x)
  a, b = tensor(a).requires_grad_(), tensor(b).requires_grad_()
  update = torch.cat([(p @ q).T for p, q in zip(a, b, strict=True)])
  y, _ = torch.nn.functional.multi_head_attention_forward(
    *(tensor(x).transpose(0, 1),) * 3,
    *(d, 2, tensor(params["in_proj"]["kernel"].T) + scale * update),
    *(tensor(params["in_proj"]["bias"]), None, None, False, 0.0),
    tensor(params["out_proj"]["kernel"].T),
    tensor(params["out_proj"]["bias"]),
    attn_mask=torch.triu(torch.ones(length, length), 1).bool(),
  )
  torch.nn.functional.cross_entropy(y[-1], tensor(labels)).backward()
  np.testing.assert_allclose(got["a"], a.grad, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(got["b"], b.grad, rtol=1e-4, atol=1e-6)


def test_the_parts_of_a_dropout_differ_and_keep_the_mean():
  path, seen = lora.LAYER, {}
  ones = jnp.ones((64, 8, 4))
  eye = jnp.broadcast_to(jnp.eye(4), (3, 4, 4))
  updates = {path: {"a": eye, "b": eye}}

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Inner(name="attn")(x)

  class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(12, kernel_init=nn.initializers.zeros, name="in_proj")(x)

  variables = Block().init(jax.random.key(0), ones)
  for seed in (0, 1):
    added = low_rank.added(updates, 1.0, rng=jax.random.key(seed), dropout=0.25)
    with nn.intercept_methods(added):
      seen[seed] = Block().apply(variables, ones).reshape(64, 8, 3, 4)
  q, k, v = np.moveaxis(seen[0], 2, 0)
  for one, other in ((q, k), (k, v), (q, v), (q, seen[1][:, :, 0])):
    assert 0.2 < (one != other).mean() < 0.6  # 2 * 0.25 * 0.75
  assert set(np.unique(q)) == {0, np.float32(4 / 3)}
  np.testing.assert_allclose(seen[0].mean(), 1, atol=0.05)


@pytest.mark.slow
def test_a_seed_learns_the_same_beside_others(towers, logits_of):
  """And each learns from its images, and the losses of the sets are added."""
  images, labels = images_of(4, 2, 2), np.arange(16).reshape(4, 2, 2) % 3
  tx = optax.adamw(1e-2)
  learned = {}
  for seeds in ((0, 1), (1,)):
    objective = lora.lora_tuning(towers, tx, RECIPE, weights=(0.8, 0.2))
    part = slice(2 - len(seeds), None)
    rows = {"image": images[:, part], "label": labels[:, part]}
    batch = {"rows": rows, "frozen": towers.variables}
    state = objective.init(lora.keys_of(seeds), batch)
    step = jax.jit(objective.step)
    state, first = step(state, batch, jax.random.key(9))
    state, _ = step(state, batch, jax.random.key(9))
    learned[seeds] = state.params, first
  together, alone = (learned[seeds][0] for seeds in ((0, 1), (1,)))
  for path, each in together.items():
    for name in ("a", "b"):
      np.testing.assert_allclose(
        each[name][1], alone[path][name][0], rtol=1e-4, atol=1e-5
      )
    assert np.abs(each["b"][0] - each["b"][1]).max() > 1e-3

  logits = logits_of({}, images[:, 1].reshape(-1, 32, 32, 3))
  losses = hard_cross_entropy(logits, labels[:, 1].reshape(-1)).reshape(4, 2)
  want = 0.8 * losses[:, 0].mean() + 0.2 * losses[:, 1].mean()
  np.testing.assert_allclose(learned[(1,)][1]["loss"], want, rtol=1e-4)


def test_a_resnet_is_refused(monkeypatch):
  about = {"model": {"image_tower": "resnet"}}
  fake = type("F", (), {"load_weights": lambda self, w: (w, {}, about)})()
  monkeypatch.setattr(lora, "FAMILY", fake)
  with pytest.raises(UserError, match="choose one with a ViT"):
    lora.load_towers("a.safetensors", TEXTS)
