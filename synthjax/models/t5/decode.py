"""Writes with T5, one token at a time: greedily, or by sampling."""

import jax
import jax.numpy as jnp

from synthjax.models.t5.model import EOS, PAD, T5


def write(
  model: T5,
  variables: dict,
  encoded: jax.Array,
  mask: jax.Array,
  rngs: jax.Array,
  *,
  max_length: int = 20,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
) -> jax.Array:
  """Writes a sequence for each encoded text; to be jitted whole.

  A sequence depends on its text and its key, not on its place in the batch.

  Args:
    model: whose `encode` made `encoded`.
    variables: of the model.
    encoded: [n, l, d_model].
    mask: bool [n, l], false on padding.
    rngs: [n] keys.
    max_length: tokens of a sequence, the first PAD counted.
    temperature: divides the logits; 0 always takes the likeliest token.
    top_k: tokens to choose from; 0 for all.
    top_p: probability that the tokens to choose from have together, at least.

  Returns:
    int32 [n, max_length]: PAD, the tokens up to EOS, and PAD to the end.
  """
  n = len(encoded)
  memory = model.apply(variables, encoded, mask, method="remember")

  def choose(logits, position):
    if not temperature:
      return logits.argmax(-1)
    logits = keep_likely(logits / temperature, top_k=top_k, top_p=top_p)
    keys = jax.vmap(jax.random.fold_in, (0, None))(rngs, position)
    return jax.vmap(jax.random.categorical)(keys, logits)

  def unfinished(state):
    position, _, done, _ = state
    return (position < max_length - 1) & ~done.all()

  def step(state):
    position, tokens, done, cache = state
    last = tokens[:, position]
    logits, cache = model.apply(
      variables, last, position, memory, cache, method="step"
    )
    chosen = jnp.where(done, PAD, choose(logits, position))
    tokens = tokens.at[:, position + 1].set(chosen.astype(jnp.int32))
    return position + 1, tokens, done | (chosen == EOS), cache

  tokens = jnp.full((n, max_length), PAD, jnp.int32)
  # The last token is written, but never read.
  cache = empty_cache(model, n, max_length - 1)
  state = jnp.int32(0), tokens, jnp.zeros(n, bool), cache
  return jax.lax.while_loop(unfinished, step, state)[1]


def empty_cache(model: T5, n: int, length: int) -> tuple:
  """Returns keys and values [n, length, heads, d_kv] of each decoder block."""
  shape = n, length, model.num_heads, model.d_kv
  zeros = jnp.zeros(shape, model.dtype)
  return ((zeros, zeros),) * model.num_decoder_layers


def keep_likely(logits: jax.Array, *, top_k: int, top_p: float) -> jax.Array:
  """Sets the logits of unlikely tokens to -inf.

  It first drops all but the top_k. Of these it keeps the fewest whose
  probabilities reach top_p (Holtzman et al. 2020), the likeliest always, and
  those as likely as the last one.

  Args:
    logits: float32 [n, v].
    top_k: 0 for all.
    top_p: in (0, 1].

  Returns:
    float32 [n, v].
  """
  if 0 < top_k < logits.shape[-1]:
    lowest = jax.lax.top_k(logits, top_k)[0][:, -1:]
    logits = jnp.where(logits < lowest, -jnp.inf, logits)
  if top_p < 1:
    ordered = -jnp.sort(-logits)  # the likeliest first
    probs = jax.nn.softmax(ordered)
    before = jnp.cumsum(probs, axis=-1) - probs
    lowest = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
    logits = jnp.where(logits < lowest, -jnp.inf, logits)
  return logits
