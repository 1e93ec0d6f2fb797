"""T5: decoding, sampling, and the names of the released weights."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_t5

from synthjax.models.t5.model import T5
from synthjax.prompts.sampling import keep_likely
from synthjax.prompts.t5_writer import empty_cache, write_tokens

VOCAB = tiny_t5.SIZES["vocab_size"]


def make_texts(lengths):
  rng = np.random.default_rng(1)
  mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
  return np.where(mask, rng.integers(3, VOCAB, mask.shape), 0), mask


def make_encoded(model, variables, lengths):
  tokens, mask = make_texts(lengths)
  encode = jax.jit(partial(model.apply, method="encode"))
  return np.asarray(encode(variables, tokens, mask)), mask


def keys(count, seed=0):
  return jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(seed), jnp.arange(count)
  )


def test_t5_base_has_the_published_number_of_parameters():
  tokens = jnp.zeros((1, 2), int)
  shapes = jax.eval_shape(
    T5().init, jax.random.key(0), tokens, tokens > 0, tokens
  )
  sizes = [math.prod(x.shape) for x in jax.tree.leaves(shapes)]
  assert sum(sizes) == 222_903_552


# --- decoding ---------------------------------------------------------------


def test_one_token_at_a_time_gives_the_logits_of_all_at_once():
  model, variables = tiny_t5.make_variables()
  encoded, mask = make_encoded(model, variables, (5, 3))
  tokens = np.array([[0, 7, 9, 11, 4], [0, 5, 5, 8, 30]])
  apply = partial(model.apply, variables)
  with jax.default_matmul_precision("highest"):
    decode = jax.jit(partial(apply, method="decode"))
    whole = decode(tokens, encoded, mask)
    memory = apply(encoded, mask, method="remember")
    step = jax.jit(partial(apply, method="step"))
    cache = empty_cache(model, 2, 5)
    for position in range(5):
      logits, cache = step(tokens[:, position], position, memory, cache)
      np.testing.assert_allclose(logits, whole[:, position], atol=1e-5)


def test_padding_and_neighbours_change_nothing():
  model, variables = tiny_t5.make_variables()
  tokens, mask = make_texts((5, 3))
  run = jax.jit(model.apply)
  start = np.array([[0, 7, 9]])
  both = run(variables, tokens, mask, np.repeat(start, 2, axis=0))
  for row, length in enumerate((5, 3)):
    own = tokens[row : row + 1, :length]
    alone = run(variables, own, own > 0, start)
    np.testing.assert_allclose(both[row], alone[0], atol=1e-5)


def test_a_text_ends_with_eos_and_is_padded():
  n = 200
  model, variables = tiny_t5.make_variables()
  encoded, mask = make_encoded(model, variables, (4,) * n)
  # Hot enough for every token, eos too, to be about as likely.
  write = jax.jit(partial(write_tokens, model, max_length=9, temperature=20))
  tokens = np.asarray(write(variables, encoded, mask, keys(n)))
  assert tokens.shape == (n, 9) and not tokens[:, 0].any()
  ended = 0
  for row in tokens:
    (ends,) = np.nonzero(row == 1)
    if len(ends):
      ended += ends[0] < 8  # before the last place
      assert len(ends) == 1 and not row[ends[0] + 1 :].any()
  # Of 200 x 7 tokens, one in 112 is eos: 12.5, give or take 3.5.
  assert 4 <= ended <= 40


@pytest.mark.parametrize("max_length", [2, 6])
def test_the_length_counts_the_start(max_length):
  model, variables = tiny_t5.make_variables()
  encoded, mask = make_encoded(model, variables, (4,))
  write = jax.jit(partial(write_tokens, model, max_length=max_length))
  tokens = write(variables, encoded, mask, keys(1))
  assert tokens.shape == (1, max_length)


@pytest.mark.slow
def test_texts_are_the_same_in_batches_of_any_size():
  model, variables = tiny_t5.make_variables()
  encoded, mask = make_encoded(model, variables, (5, 3, 4, 5, 2, 1, 3, 4))
  write = jax.jit(partial(write_tokens, model, max_length=10, top_k=20))
  rngs = keys(8)
  written = {}
  for size in (1, 3, 8):
    rows = []
    for first in range(0, 8, size):
      part = np.arange(first, first + size) % 8  # the last one is filled up
      rows.append(write(variables, encoded[part], mask[part], rngs[part]))
    written[size] = np.concatenate(rows)[:8]
  np.testing.assert_array_equal(written[1], written[8])
  np.testing.assert_array_equal(written[3], written[8])
  assert len({tuple(row) for row in written[8].tolist()}) == 8


def test_only_the_key_decides_between_texts_of_one_input():
  model, variables = tiny_t5.make_variables()
  encoded, mask = make_encoded(model, variables, (5,))
  encoded, mask = encoded.repeat(4, axis=0), mask.repeat(4, axis=0)
  write = jax.jit(partial(write_tokens, model, max_length=8))
  rngs = keys(3)[np.array([0, 1, 0, 2])]
  tokens = np.asarray(write(variables, encoded, mask, rngs))
  np.testing.assert_array_equal(tokens[0], tokens[2])
  assert len({tuple(row) for row in tokens.tolist()}) == 3


# --- sampling ---------------------------------------------------------------

PROBS = np.array([0.1, 0.4, 0.05, 0.25, 0.2])


@pytest.mark.parametrize(
  ("top_k", "top_p", "kept"),
  [
    (0, 1.0, [0, 1, 2, 3, 4]),
    (2, 1.0, [1, 3]),
    (9, 1.0, [0, 1, 2, 3, 4]),
    (0, 0.3, [1]),
    (0, 1e-9, [1]),  # always at least one
    (0, 0.5, [1, 3]),
    (0, 0.66, [1, 3, 4]),
    # Of the two left by top_k, 0.4 / 0.65 is 0.615.
    (2, 0.61, [1]),
    (2, 0.62, [1, 3]),
  ],
)
def test_the_tokens_kept_are_those_counted_by_hand(top_k, top_p, kept):
  logits = jnp.log(jnp.array([PROBS, PROBS]))
  got = keep_likely(logits, top_k=top_k, top_p=top_p)
  for row in np.asarray(got):
    assert np.flatnonzero(np.isfinite(row)).tolist() == kept
    np.testing.assert_allclose(row[kept], np.log(PROBS[kept]), rtol=1e-6)


@pytest.mark.parametrize(
  ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.8, 12, 0.9)]
)
def test_frequencies_of_first_tokens_are_the_probabilities(
  temperature, top_k, top_p
):
  n = 20_000
  model, variables = tiny_t5.make_variables()
  encoded, mask = make_encoded(model, variables, (5,))
  start = jnp.zeros((1, 1), int)
  apply = jax.jit(partial(model.apply, method="decode"))
  logits = np.asarray(apply(variables, start, encoded, mask), float)[0, 0]
  order = np.argsort(-logits)
  probs = np.exp(logits / temperature - logits.max() / temperature)
  if top_k:
    probs[order[top_k:]] = 0
  probs /= probs.sum()
  before = np.cumsum(probs[order]) - probs[order]
  probs[order[before >= top_p]] = 0
  probs /= probs.sum()

  write = jax.jit(
    partial(
      write_tokens,
      model,
      max_length=2,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )
  )
  many = np.broadcast_to(encoded, (n, *encoded.shape[1:]))
  tokens = write(variables, many, np.broadcast_to(mask, (n, 5)), keys(n))
  counts = np.bincount(np.asarray(tokens)[:, 1], minlength=VOCAB)
  assert not counts[probs == 0].any()
  # Pearson's statistic has mean f and variance 2f; tokens too rare for it
  # are taken together.
  common = probs * n >= 5
  seen = np.append(counts[common], counts[~common].sum())
  expected = np.append(probs[common], probs[~common].sum()) * n
  seen, expected = seen[expected > 0], expected[expected > 0]
  statistic, freedom = ((seen - expected) ** 2 / expected).sum(), len(seen) - 1
  assert freedom >= 5
  assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


def test_half_precision_stays_near():
  model, variables = tiny_t5.make_variables()
  tokens, mask = make_texts((5, 3))
  start = np.array([[0, 7, 9]] * 2)
  want = jax.jit(model.apply)(variables, tokens, mask, start)
  half = T5(**tiny_t5.SIZES, dtype=jnp.bfloat16)
  got = jax.jit(half.apply)(variables, tokens, mask, start)
  assert got.dtype == jnp.float32
  assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
