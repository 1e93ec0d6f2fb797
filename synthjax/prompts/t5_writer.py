"""T5 as a writer of sentences: one batch shape for each length of input.

The authors' code calls it through the package `keytotext`, whose habits are
kept.
"""

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.config.schema import (
  Count,
  NotNegative,
  Precision,
  Rule,
  Several,
  Whole,
)
from synthjax.models.t5.model import EOS, PAD, T5
from synthjax.prompts import sampling
from synthjax.prompts.sentences import Sample, Writing
from synthjax.runtime import memory
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, gathered
from synthjax.runtime.progress import counter
from synthjax.tokenizers import bpe, sentence_pieces
from synthjax.weights import files

FIELD = "prompts.writer"  # of the config, for messages
SHORTEST = 8  # inputs are padded to so many tokens, or to twice as many, ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields(Writing):
  """Which T5 writes, and how; the defaults are the paper's values."""

  weights: str | None = None  # see `files.locate`
  tokenizer: str | None = None  # its spiece.model
  dtype: Literal["float32", "bfloat16"] = "float32"  # of the activations
  precision: Precision = "default"  # of products of float32
  batch_size: Count = 256  # sentences that each device writes at once
  article: bool = (
    False  # "a" before the name, as in the authors' EuroSAT labels
  )
  max_length: Several = 20  # tokens, with the start
  temperature: NotNegative = 1.0  # 0: always the likeliest token
  top_k: Whole = 50  # 0: all
  top_p: Annotated[
    float, Rule(lambda x: 0 < x <= 1, "a number above 0, up to 1")
  ] = 1.0


def check(fields: Fields) -> None:
  """Checks that the files are there.

  Raises:
    UserError: about weights or a tokenizer that are not.
  """
  with gathered() as attempt:
    attempt(_weights, fields)
    attempt(_tokenizer, fields)


def identify(fields: Fields) -> dict[str, Any]:
  """Returns plain data that identifies weights and pieces."""
  identity = {
    "writer": "t5",
    "weights": files.sha256(_weights(fields)),
    "tokenizer": files.sha256(_tokenizer(fields)),
  }
  if fields.precision != "default":  # as older runs have none
    identity["precision"] = fields.precision
  return identity


def load(fields: Fields, *, seed: int) -> Sample:
  """Loads a T5; functions are compiled when first used.

  Args:
    fields: which one, and how it samples; see `write_tokens`.
    seed: of all sentences; each also depends on its input and its number, and
      on nothing else.

  Raises:
    UserError: about missing or unfit weights; when first used, about a batch
      that does not fit.
  """
  model, params, pieces = _load_model(fields)
  mesh = meshes.make_mesh()
  batch_size = fields.batch_size * mesh.size
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  variables = jax.device_put({"params": params}, copied)
  checked = partial(
    memory.checked,
    held=variables,
    batch_size=fields.batch_size,
    field="config.prompts.batch_size",
  )
  encode = checked(
    jax.jit(
      partial(model.apply, method="encode"),
      in_shardings=(copied, split, split),
      out_shardings=split,
    )
  )
  write = checked(
    jax.jit(
      partial(
        write_tokens,
        model,
        max_length=fields.max_length,
        temperature=fields.temperature,
        top_k=fields.top_k,
        top_p=fields.top_p,
      ),
      in_shardings=(copied, split, split, split),
      out_shardings=split,
    )
  )

  def run(function, *batch):
    """Calls a function on one batch, filled up with its last row."""
    rows = np.arange(batch_size).clip(max=len(batch[0]) - 1)
    with jax.default_matmul_precision(fields.precision):
      out = function(variables, *(x[rows] for x in batch))
    return np.asarray(out)[: len(batch[0])]

  def batches(count):
    return [slice(i, i + batch_size) for i in range(0, count, batch_size)]

  def write_each(texts: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """Writes a sentence for each input and number."""
    sentences = [""] * len(texts)
    report = counter("prompts", len(texts), unit="sentences")
    rngs = sampling.sentence_keys(seed, texts, numbers)
    lengths = {text: len(pieces.encode(text)) for text in dict.fromkeys(texts)}
    groups = sampling.by_length(texts, lengths, shortest=SHORTEST)
    for length, rows in groups.items():
      # Each different text is encoded once, for all of its sentences.
      distinct = dict.fromkeys(texts[i] for i in rows)
      place = {text: i for i, text in enumerate(distinct)}
      tokens, mask = pieces.tokens(list(place), length)
      encoded = np.concatenate(
        [run(encode, tokens[s], mask[s]) for s in batches(len(tokens))]
      )
      which, rows = np.array([place[texts[i]] for i in rows]), np.array(rows)
      # Gathered a batch at a time: all at once may not fit the memory.
      for s in batches(len(rows)):
        batch = encoded[which[s]], mask[which[s]], rngs[rows[s]]
        written = run(write, *batch)
        for i, ids in zip(rows[s], written, strict=True):
          sentences[i] = pieces.decode(ids)
        report(len(written))
    return sentences

  def sample(topics: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """Writes a sentence about each topic and number."""
    inputs = [keywords(topic, article=fields.article) for topic in topics]
    pairs = zip(inputs, numbers, strict=True)
    asked = [(text, number) for texts, number in pairs for text in texts]
    answers = iter(write_each(*zip(*asked, strict=True)))
    parts = [[clean(next(answers)) for _ in texts] for texts in inputs]
    return [" ".join(filter(None, each)) for each in parts]

  return sample


_PREPARE = str.maketrans({",": " ", "'": None, "[": None, "]": None})
# Sentences were split for training: "It is n't a dog ."
_LOOSE = re.compile(r" (?=n't|'(?:m|s|ve|re))")


def keywords(name: str, *, article: bool = False) -> list[str]:
  """Returns the inputs by which the model writes about a class.

  An input is the list of the one name as Python prints it, less some marks; so
  a name with an apostrophe loses it, and keeps the double quotes around it. A
  full stop splits the name into inputs whose sentences are joined.

  Args:
    name: of the class.
    article: writes "a" before it, whatever follows, as in the authors' labels
      of EuroSAT ("a Annual Crop Land").
  """
  text = str([f"a {name}" if article else name]).translate(_PREPARE)
  return [f"{piece} </s>" for piece in text.split(".")]


def clean(text: str) -> str:
  """Closes up loose punctuation, as Hugging Face's tokenizers did by default.

  It was their `clean_up_tokenization_spaces`, at the time of the paper.
  """
  for mark in ".?!,":
    text = text.replace(f" {mark}", mark)
  return _LOOSE.sub("", text.replace(" ' ", "'")).strip()


def _load_model(fields: Fields) -> tuple[T5, Any, sentence_pieces.Pieces]:
  """Returns the network, its parameters on the host, and the pieces."""
  params, about = files.load_params(_weights(fields))
  if about.get("kind") != "t5":
    raise UserError(
      f"{fields.weights} holds weights of {about.get('kind')!r}: "
      f"config.{FIELD} needs those of a T5."
    )
  pieces = sentence_pieces.load(_tokenizer(fields))
  model = T5(**about["model"] | {"dtype": jnp.dtype(fields.dtype)})
  if pieces.size > model.vocab_size:
    raise UserError(
      f"{fields.weights} knows {model.vocab_size} tokens, but "
      f"{fields.tokenizer} has {pieces.size}: give the spiece.model that the "
      "weights were trained with."
    )
  return model, params.get("params", params), pieces


def _weights(fields: Fields) -> epath.Path:
  return files.locate(fields.weights, field=f"{FIELD}.weights", family="t5")


def _tokenizer(fields: Fields) -> epath.Path:
  name = fields.tokenizer
  path = bpe.locate(name or "", [["spiece.model"]])
  if not name or not path.exists():
    problem = f"there is no file {path}" if name else "it is not set"
    raise UserError(
      f"config.{FIELD}.tokenizer must name the spiece.model that the weights "
      f"were trained with, but {problem}."
    )
  return path


# --- one token at a time: greedily, or by sampling ----------------------------


def write_tokens(
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
    temperature: as `sampling.choose`, as are top_k and top_p.
    top_k: likewise.
    top_p: likewise.

  Returns:
    int32 [n, max_length]: PAD, the tokens up to EOS, and PAD to the end.
  """
  n = len(encoded)
  memory = model.apply(variables, encoded, mask, method="remember")

  def unfinished(state):
    position, _, done, _ = state
    return (position < max_length - 1) & ~done.all()

  def step(state):
    position, tokens, done, cache = state
    last = tokens[:, position]
    logits, cache = model.apply(
      variables, last, position, memory, cache, method="step"
    )
    chosen = sampling.choose(
      logits,
      rngs,
      position,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )
    chosen = jnp.where(done, PAD, chosen)
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
