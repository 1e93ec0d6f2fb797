"""Tests of CoOp: parity with PyTorch, its schedule, and what it learns."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.adapt import coop, linear_head
from synthjax.adapt.soft_targets import hard_cross_entropy
from synthjax.encoders.clip import prompt_tokens
from synthjax.models.clip.vit import Transformer
from synthjax.runtime.errors import UserError

WIDTH, DIM, HEADS, LAYERS, CONTEXT = 8, 6, 2, 2, 3
NAMES = [[7, 9], [4, 5, 6, 9], [8, 9]]
START, END = 1, 2
SCALE = 30.0

transformer = Transformer(LAYERS, HEADS, causal=True)
head_of = jax.jit(coop.head_of)


def read_texts(variables, x, end):
  """Stands in for CLIP's text tower: causal, and read at the end."""
  length = x.shape[1]
  x = x + variables["positions"][:length]
  x = transformer.apply(variables["transformer"], x)
  return x[jnp.arange(len(x)), end] @ variables["projection"]


@pytest.fixture(scope="module")
def problem():
  """A tower of random weights, embedded names and image features."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(0, 0.4, shape).astype(np.float32)
  shapes = jax.eval_shape(
    transformer.init, jax.random.key(0), jnp.zeros((1, 9, WIDTH))
  )
  variables = {
    "transformer": jax.tree.map(lambda s: draw(*s.shape), shapes),
    "positions": draw(12, WIDTH),
    "projection": draw(WIDTH, DIM),
  }
  tokens, end = prompt_tokens(
    NAMES, start=START, end=END, length=12, num_context=CONTEXT
  )
  embeddings = draw(10, WIDTH)[tokens]
  return {
    "variables": variables,
    "encode": jax.tree_util.Partial(read_texts, variables),
    "prompts": coop.Prompts(jnp.asarray(embeddings), jnp.asarray(end)),
    "context": draw(CONTEXT, WIDTH),
    "features": draw(11, DIM),
    "labels": rng.integers(0, 3, 11),
  }


def test_context_stands_between_the_start_and_the_name(problem):
  tokens, end = prompt_tokens(
    NAMES, start=START, end=END, length=12, num_context=CONTEXT
  )
  np.testing.assert_array_equal(
    tokens,
    [
      [1, 0, 0, 0, 7, 9, 2, 0, 0],
      [1, 0, 0, 0, 4, 5, 6, 9, 2],
      [1, 0, 0, 0, 8, 9, 2, 0, 0],
    ],
  )
  np.testing.assert_array_equal(end, [6, 8, 6])
  prompts = problem["prompts"]
  x = coop.insert_context(prompts, jnp.asarray(problem["context"]))
  for row, before in zip(x, prompts.embeddings, strict=True):
    np.testing.assert_array_equal(row[1:4], problem["context"])
    np.testing.assert_array_equal(row[:1], before[:1])
    np.testing.assert_array_equal(row[4:], before[4:])


def test_the_context_starts_small():
  context = coop.init_context(jax.random.key(0), 512)
  assert context.shape == (16, 512)
  np.testing.assert_allclose(context.std(), 0.02, rtol=0.03)
  np.testing.assert_allclose(context.mean(), 0.0, atol=1e-3)


def test_logits_and_training_steps_equal_pytorch(problem):
  torch = pytest.importorskip("torch")
  weights = jax.tree.map(torch.tensor, problem["variables"])
  norm = lambda x, p: torch.nn.functional.layer_norm(
    x, (WIDTH,), p["scale"], p["bias"], 1e-5
  )
  dense = lambda x, p: x @ p["kernel"] + p["bias"]

  def attention(x, p):
    k, length, _ = x.shape
    split = dense(x, p["in_proj"]).reshape(k, length, 3, HEADS, -1)
    q, key, v = split.permute(2, 0, 3, 1, 4)
    out = torch.nn.functional.scaled_dot_product_attention(
      q, key, v, is_causal=True
    )
    return dense(out.transpose(1, 2).reshape(x.shape), p["out_proj"])

  def encode(x, end):
    x = x + weights["positions"][: x.shape[1]]
    for i in range(LAYERS):
      p = weights["transformer"]["params"][f"resblocks_{i}"]
      x = x + attention(norm(x, p["ln_1"]), p["attn"])
      h = dense(norm(x, p["ln_2"]), p["mlp"]["c_fc"])
      x = x + dense(h * torch.sigmoid(1.702 * h), p["mlp"]["c_proj"])
    return x[torch.arange(len(x)), end] @ weights["projection"]

  embeddings = torch.tensor(np.asarray(problem["prompts"].embeddings))
  end = torch.tensor(np.asarray(problem["prompts"].end)).long()
  context = torch.nn.Parameter(torch.tensor(problem["context"]))
  images = torch.nn.functional.normalize(torch.tensor(problem["features"]))

  def forward(rows):
    prefix, suffix = embeddings[:, :1], embeddings[:, 1 + CONTEXT :]
    middle = context.expand(len(embeddings), -1, -1)
    texts = encode(torch.cat([prefix, middle, suffix], dim=1), end)
    texts = texts / texts.norm(dim=-1, keepdim=True)
    return SCALE * images[rows] @ texts.T

  rows = np.array([[0, 4, 5, 9], [1, 2, 3, 6], [7, 8, 10, 0], [5, 4, 3, 2]])
  with jax.default_matmul_precision("highest"):
    head = head_of(
      *(problem["encode"], problem["prompts"], problem["context"], SCALE)
    )
    logits = linear_head.logits_fn(head, problem["features"])
  np.testing.assert_allclose(
    logits, forward(np.arange(11)).detach(), rtol=1e-5, atol=1e-4
  )

  # Two epochs of two steps; a large rate, so that the steps can be seen.
  lr = 0.5
  optimizer = torch.optim.SGD([context], momentum=0.9, weight_decay=5e-4)
  losses = []
  for step, index in enumerate(rows):
    optimizer.param_groups[0]["lr"] = 1e-5 if step < 2 else lr
    loss = torch.nn.functional.cross_entropy(
      forward(index), torch.tensor(problem["labels"][index])
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
  with jax.default_matmul_precision("highest"):
    learned = coop.tune(
      *(problem["encode"], problem["prompts"], problem["context"]),
      *(problem["features"], problem["labels"]),
      index=rows,
      num_epochs=2,
      logit_scale=SCALE,
      lr=lr,
    )
  np.testing.assert_allclose(learned.losses, losses, rtol=2e-5)
  want = context.detach().numpy()
  assert np.abs(want - problem["context"]).max() > 0.1
  np.testing.assert_allclose(learned.context, want, rtol=1e-4, atol=1e-5)


def test_the_rate_is_constant_in_an_epoch_and_low_in_the_first():
  rate = coop.learning_rate(2e-3, num_epochs=4, num_steps=12)
  rates = np.array([rate(step) for step in range(12)]).reshape(4, 3)
  np.testing.assert_array_equal(rates, rates[:, :1] * np.ones(3))
  half = (1 + math.cos(math.pi / 4)) / 2
  np.testing.assert_allclose(
    rates[:, 0], [1e-5, 2e-3, 2e-3 * half, 1e-3], rtol=1e-6
  )


def test_learning_finds_a_context_that_explains_the_labels(problem):
  """The labels are those that another, hidden context gives.

  A random tower hears little of its context, so that there is not much to
  learn: the loss falls from 0.268 to 0.194, whatever vector instructions XLA
  compiles for. Accuracy would hang on one image of the 40.
  """
  before = copy.deepcopy(problem["variables"])
  rng = np.random.default_rng(1)
  features = rng.normal(size=(40, DIM)).astype(np.float32)
  hidden = rng.normal(0, 0.4, (CONTEXT, WIDTH))
  tower = problem["encode"], problem["prompts"]
  logits = lambda context: linear_head.logits_fn(
    head_of(*tower, context, SCALE), features
  )
  labels = logits(hidden).argmax(-1)
  index = linear_head.epochs_index(40, batch_size=10, num_epochs=40, seed=0)
  learned = coop.tune(
    *(*tower, problem["context"], features, labels),
    index=index,
    num_epochs=40,
    logit_scale=SCALE,
    lr=0.3,
  )
  losses = np.asarray(learned.losses).reshape(40, -1).mean(1)
  assert learned.context.shape == (CONTEXT, WIDTH)
  assert losses[-3:].mean() < 0.8 * losses[0]
  loss = lambda context: hard_cross_entropy(logits(context), labels).mean()
  assert loss(learned.context) < 0.8 * loss(problem["context"])
  jax.tree.map(np.testing.assert_array_equal, before, problem["variables"])


def test_a_partial_batch_averages_over_its_rows_alone(problem):
  run = lambda index: coop.tune(
    *(problem["encode"], problem["prompts"], problem["context"]),
    *(problem["features"], problem["labels"]),
    index=np.array([index]),
    num_epochs=1,
    logit_scale=SCALE,
  )
  np.testing.assert_allclose(
    run([4, 9, -1]).losses, run([4, 9]).losses, rtol=1e-6
  )
  with pytest.raises(ValueError, match="1 steps for num_epochs=2"):
    coop.tune(
      *(problem["encode"], problem["prompts"], problem["context"]),
      *(problem["features"], problem["labels"]),
      index=np.array([[0]]),
      num_epochs=2,
      logit_scale=SCALE,
    )


def test_names_that_do_not_fit_are_all_named():
  with pytest.raises(UserError, match=r"\{1: 4, 3: 0\}.*1 to 3 tokens"):
    prompt_tokens(
      [[1], [1, 2, 3, 4], [1, 2, 3], []],
      start=START,
      end=END,
      length=8,
      num_context=3,
    )
  with pytest.raises(UserError, match="Found 0 class names"):
    prompt_tokens([], start=START, end=END, length=77)
