"""What language models that write have in common: keys, lengths, choices."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def sentence_keys(
  seed: int, texts: Sequence[str], numbers: Sequence[int]
) -> jax.Array:
  """Makes the key of each sentence from the seed, its text and its number."""
  data = np.empty((len(texts), 2), np.uint32)
  for i, (text, number) in enumerate(zip(texts, numbers, strict=True)):
    who = json.dumps([seed, text, number])
    data[i] = np.frombuffer(hashlib.sha256(who.encode()).digest()[:8], "<u4")
  return jax.random.wrap_key_data(data, impl="threefry2x32")


def by_length(
  texts: Sequence[str], lengths: Mapping[str, int], *, shortest: int
) -> dict[int, list[int]]:
  """Groups the positions of texts by the length they are filled up to.

  It is `shortest`, or twice as many, ...: it depends on the text alone. With
  that of the longest text, one more class could change the last digits of
  another's logits.

  Args:
    texts: may repeat.
    lengths: of each text, in tokens.
    shortest: tokens.
  """
  groups: dict[int, list[int]] = {}
  for i, text in enumerate(texts):
    length = shortest
    while length < lengths[text]:
      length *= 2
    groups.setdefault(length, []).append(i)
  return groups


def choose(
  logits: jax.Array,
  rngs: jax.Array,
  position: jax.Array,
  *,
  temperature: float,
  top_k: int,
  top_p: float,
) -> jax.Array:
  """Chooses the next token of each text.

  Args:
    logits: float32 [n, v].
    rngs: [n] keys of the texts.
    position: [] of the token before.
    temperature: divides the logits; 0 always takes the likeliest token.
    top_k: tokens to choose from; 0 for all.
    top_p: probability that the tokens to choose from have together, at least.

  Returns:
    int [n].
  """
  if not temperature:
    return logits.argmax(-1)
  logits = keep_likely(logits / temperature, top_k=top_k, top_p=top_p)
  keys = jax.vmap(jax.random.fold_in, (0, None))(rngs, position)
  return jax.vmap(jax.random.categorical)(keys, logits)


def keep_likely(logits: jax.Array, *, top_k: int, top_p: float) -> jax.Array:
  """Sets the logits of unlikely tokens to -inf.

  It first drops all but the top_k. Then it keeps the fewest whose
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
