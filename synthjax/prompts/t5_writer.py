"""T5 as a writer of sentences: one batch shape for each length of input."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.models.t5 import decode as t5_decode
from synthjax.models.t5.model import T5
from synthjax.prompts import sentences
from synthjax.prompts.sentences import Sample
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import (
  COUNT,
  FLAG,
  NOT_NEGATIVE,
  SHARE,
  TEXT,
  WHOLE,
  Kind,
  UserError,
  one_of,
  unknown_names,
)
from synthjax.runtime.progress import counter
from synthjax.tokenizers import bpe, sentence_pieces
from synthjax.weights import files

FIELD = "prompts.writer"  # of the config, for messages
SHORTEST = 8  # inputs are padded to so many tokens, or to twice as many, ...


def check(*, weights: str | None, tokenizer: str | None) -> None:
  """Says what keeps `load` from working, before it costs anything.

  Raises:
    UserError: about weights or a tokenizer that are not there.
  """
  _weights(weights)
  _tokenizer(tokenizer)


def identify(
  *, weights: str, tokenizer: str, **settings: Any
) -> dict[str, Any]:
  """Returns plain data that tells weights, pieces and settings apart."""
  return {
    "writer": "t5",
    "weights": files.sha256(_weights(weights)),
    "tokenizer": files.sha256(_tokenizer(tokenizer)),
    **settings,
  }


def load(
  *,
  weights: str,
  tokenizer: str,
  seed: int,
  batch_size: int,
  max_length: int,
  temperature: float,
  top_k: int,
  top_p: float,
  dtype: str = "float32",
) -> Sample:
  """Loads a T5; what is compiled is compiled when first used.

  Args:
    weights: a file of `synthjax.convert`, as `files.locate` takes it.
    tokenizer: the spiece.model that it was trained with.
    seed: of all sentences; each also depends on its input and its number, and
      on nothing else.
    batch_size: sentences written at once. Fewer are filled up, so that one
      shape is compiled.
    max_length, temperature, top_k, top_p: as in `t5_decode.write`.
    dtype: of the activations.

  Raises:
    UserError: about missing or unfit weights, or a batch that does not split.
  """
  params, about = files.load_params(_weights(weights))
  if about.get("kind") != "t5":
    raise UserError(
      f"{weights} holds weights of {about.get('kind')!r}: config.{FIELD} needs "
      "those of a T5."
    )
  words = sentence_pieces.load(_tokenizer(tokenizer))
  model = T5(**about["model"] | {"dtype": jnp.dtype(dtype)})
  if words.size > model.vocab_size:
    raise UserError(
      f"{weights} knows {model.vocab_size} tokens, but {tokenizer} has "
      f"{words.size}: give the spiece.model that it was trained with."
    )
  mesh = meshes.make_mesh()
  meshes.check_batch(mesh, batch_size, field=f"{FIELD}.batch_size")
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  params = params["params"] if "params" in params else params
  variables = jax.device_put({"params": params}, copied)
  encode = jax.jit(
    partial(model.apply, method="encode"),
    in_shardings=(copied, split, split),
    out_shardings=split,
  )
  write = jax.jit(
    partial(
      t5_decode.write,
      model,
      max_length=max_length,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    ),
    in_shardings=(copied, split, split, split),
    out_shardings=split,
  )

  def run(function, *batch):
    """Calls a function on one batch, filled up with its last row."""
    rows = np.arange(batch_size).clip(max=len(batch[0]) - 1)
    out = function(variables, *(x[rows] for x in batch))
    return np.asarray(out)[: len(batch[0])]

  def batches(count):
    return [slice(i, i + batch_size) for i in range(0, count, batch_size)]

  def sample(texts: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """Writes a sentence for each text and number."""
    sentences = [""] * len(texts)
    tell = counter("prompts", len(texts), unit="sentences")
    rngs = sentence_keys(seed, texts, numbers)
    for length, rows in _by_length(words, texts).items():
      own = [texts[i] for i in rows]
      # Each different text is read once, for all of its sentences.
      distinct = {text: i for i, text in enumerate(dict.fromkeys(own))}
      tokens, mask = words.tokens(list(distinct), length)
      encoded = np.concatenate(
        [run(encode, tokens[s], mask[s]) for s in batches(len(tokens))]
      )
      which, rows = np.array([distinct[t] for t in own]), np.array(rows)
      # Gathered a batch at a time: all at once may not fit the memory.
      for s in batches(len(rows)):
        batch = encoded[which[s]], mask[which[s]], rngs[rows[s]]
        written = run(write, *batch)
        for i, ids in zip(rows[s], written, strict=True):
          sentences[i] = words.decode(ids)
        tell(len(written))
    return sentences

  return sample


def sentence_keys(
  seed: int, texts: Sequence[str], numbers: Sequence[int]
) -> jax.Array:
  """Makes the key of each sentence from the seed, its text and its number."""
  data = np.empty((len(texts), 2), np.uint32)
  for i, (text, number) in enumerate(zip(texts, numbers, strict=True)):
    who = json.dumps([seed, text, number])
    data[i] = np.frombuffer(hashlib.sha256(who.encode()).digest()[:8], "<u4")
  return jax.random.wrap_key_data(data, impl="threefry2x32")


def _by_length(
  words: sentence_pieces.Pieces, texts: Sequence[str]
) -> dict[int, list[int]]:
  """Groups the positions of texts by the length they are padded to.

  It is that of a text alone: were it that of the longest, one class more could
  change the last digits of another's logits.
  """
  lengths = {}
  for text in dict.fromkeys(texts):
    lengths[text] = SHORTEST
    while lengths[text] < len(words.encode(text)):
      lengths[text] *= 2
  groups: dict[int, list[int]] = {}
  for i, text in enumerate(texts):
    groups.setdefault(lengths[text], []).append(i)
  return groups


def _weights(name: str | None) -> epath.Path:
  return files.locate(name, field=f"{FIELD}.weights", family="t5")


def _tokenizer(name: str | None) -> epath.Path:
  path = bpe.locate(name or "")
  if not name or not path.exists():
    found = f"there is no file {path}" if name else "it is not set"
    raise UserError(
      f"config.{FIELD}.tokenizer must name the spiece.model that the weights "
      f"were trained with, but {found}."
    )
  return path


# --- which language model writes prompts, and how, from fields of plain data
# The fields are those of `writer` of the task `prompts`.

PER_CLASS, WRITER = 200, "grammar"
# The fields of a writer's block, and the paper's values.
WRITERS = {
  "t5": {
    "weights": None,
    "tokenizer": None,  # its spiece.model
    "dtype": "float32",
    "batch_size": 256,
    "max_length": 20,  # tokens, with the start
    "temperature": 1.0,  # 0: always the likeliest token
    "top_k": 50,  # 0: all
    "top_p": 1.0,
    "num_samples": None,  # of a class, at a time; None: per_class + 50
    "article": False,  # "a" before the name, as in the authors' EuroSAT labels
    "sentence_template": None,  # with {}; None: the space's first prompt
    # Filters, none of which the paper has; see `text.sentences.Filters`.
    "contains_class": False,
    "min_words": 0,
    "max_words": 0,
    "blocklist": (),  # words, or a file with one on each line
  },
}
KNOWN = {
  "name": one_of(WRITERS),
  "weights": TEXT,
  "tokenizer": TEXT,
  "dtype": one_of(("float32", "bfloat16")),
  "batch_size": COUNT,
  "max_length": COUNT,
  "temperature": NOT_NEGATIVE,
  "top_k": WHOLE,
  "top_p": SHARE,
  "num_samples": COUNT,
  "article": FLAG,
  "sentence_template": TEXT,
  "contains_class": FLAG,
  "min_words": WHOLE,
  "max_words": WHOLE,
  "blocklist": Kind(
    lambda x: isinstance(x, str | tuple | list), "words, or the name of a file"
  ),
}


def read(
  block: Mapping[str, Any], validate: Callable[..., None]
) -> dict[str, Any] | None:
  """Returns every field of the writer's block, or None for the grammar.

  Args:
    block: of the task `prompts`.
    validate: (fields, known names, name=, required=), which raises a UserError
      about names that are not known and those that lack.

  Raises:
    UserError: about an unknown writer or field, or listing every bad value.
  """
  writer = block.get("writer", WRITER)
  if writer == WRITER or "enhanced" not in block["strategies"]:
    return None
  name = writer.get("name") if isinstance(writer, Mapping) else writer
  if name not in WRITERS:
    raise unknown_names("prompts.writer", [name], [WRITER, *WRITERS])
  if not isinstance(writer, Mapping):
    raise UserError(
      f"config.prompts.writer={name!r} needs a block: dict(name={name!r}, "
      "weights=..., tokenizer=...)."
    )
  if "grammar" in block:
    raise UserError(
      f"config.prompts has a grammar and the writer {name!r}, which reads "
      "none: leave one of them out."
    )
  validate(writer, KNOWN, name="prompts.writer", required=("name",))
  writer = WRITERS[name] | dict(writer)
  if writer["num_samples"] is None:
    writer["num_samples"] = block.get("per_class", PER_CLASS) + 50
  template = writer["sentence_template"]
  wrong = {
    "max_length": writer["max_length"] < 2,
    "top_p": not 0 < writer["top_p"] <= 1,
    "max_words": 0 < writer["max_words"] < writer["min_words"],
    "sentence_template": template is not None and template.count("{}") != 1,
  }
  if bad := [
    f"{key}={writer[key]!r}" for key, is_bad in wrong.items() if is_bad
  ]:
    raise UserError(
      f"config.prompts.writer has {', '.join(bad)}. Needed: max_length of 2 "
      "or more, top_p in (0, 1], max_words of min_words or more (or 0), and "
      "one {} in sentence_template."
    )
  writer["blocklist"] = _blocklist(writer["blocklist"])
  return writer


def _blocklist(listed: Any) -> tuple[str, ...]:
  if not isinstance(listed, str):
    return tuple(listed)
  try:
    lines = epath.Path(listed).expanduser().read_text().splitlines()
  except OSError as error:
    raise UserError(
      f"Cannot read config.prompts.writer.blocklist={listed!r}: {error}. It is "
      "a file with one word on each line, or a tuple of words."
    ) from error
  return sentences.read_blocklist(lines)
