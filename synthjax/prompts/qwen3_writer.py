"""Qwen3 as a writer of sentences: asked in words, about scenes that vary."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.config.schema import Count, NotNegative, Precision, Rule, Whole
from synthjax.models.qwen3 import weights as convert
from synthjax.models.qwen3.model import Qwen3
from synthjax.prompts import sampling
from synthjax.prompts.sentences import HAS_SLOT, Writing
from synthjax.runtime import memory
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import counter
from synthjax.tokenizers import qwen
from synthjax.weights import files

FIELD = "prompts.writer"  # of the config, for messages
SHORTEST = 64  # messages are filled up to so many tokens, or to twice as many
MESSAGE = (
  "Write the caption of one photo, in one plain English sentence of at most 20 "
  "words. The photo shows: {topic}. Name it in the caption. Where it suits "
  "that: {scene}. Answer with the caption alone."
)
# Alone, a model of few temperatures keeps to the likeliest scene of a class.
SCENES = (
  *("in a close-up", "seen from afar", "seen from above", "from a low angle"),
  *("in the background of the photo", "partly hidden", "several of them"),
  *("at the edge of the photo", "out of focus behind it", "from the side"),
  *("in bright sunlight", "at dusk", "at night", "in fog", "in the rain"),
  *("in snow", "in the golden light of the evening", "in the shade"),
  *("indoors", "in a studio", "in a city street", "in the countryside"),
  *("by the water", "in a forest", "in a museum", "on a plain background"),
  *("with people", "in motion", "old and worn", "new and clean", "in a crowd"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields(Writing):
  """Which Qwen3 writes, and how; sampled as published for answers."""

  weights: str | None = None  # a folder of Qwen3 or FLUX.2-klein, or hf://
  message: Annotated[
    str, Rule(lambda x: "{topic}" in x, "text with {topic}")
  ] = MESSAGE  # {scene} is two of the scenes, drawn for each sentence
  scenes: tuple[str, ...] = SCENES
  contains_class: bool = True
  sentence_template: Annotated[str, HAS_SLOT] = "{}"
  dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the activations
  precision: Precision = "default"  # of products of float32
  batch_size: Count = 64  # sentences that each device writes at once
  max_length: Count = 48  # tokens of a sentence, with the end
  temperature: NotNegative = 0.7  # 0: always the likeliest token
  top_k: Whole = 20  # 0: all
  top_p: Annotated[
    float, Rule(lambda x: 0 < x <= 1, "a number above 0, up to 1")
  ] = 0.8

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    if "{scene}" in self.message and len(self.scenes) < 2:
      yield (
        f"scenes={self.scenes!r}, of which the message takes two: give more, "
        "or leave {scene} out of the message"
      )


def check(fields: Fields) -> None:
  """Checks that the files are there.

  Raises:
    UserError: about those that are not.
  """
  convert.files_of(_folder(fields))


def identify(fields: Fields) -> dict[str, Any]:
  """Returns plain data that identifies weights and tokenizer."""
  folder = _folder(fields)
  return {
    "writer": convert.KIND,
    "weights": files.sha256_of_each(convert.files_of(folder), folder),
    "precision": fields.precision,
  }


def _folder(fields: Fields) -> epath.Path:
  return files.locate(
    fields.weights, field=f"{FIELD}.weights", family=convert.KIND
  )


def message(fields: Fields, topic: str, number: int, *, seed: int) -> str:
  """Returns what is asked for a sentence; its scenes are drawn."""
  digest = hashlib.sha256(json.dumps([seed, topic, number]).encode()).digest()
  rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
  text = fields.message
  if "{scene}" in text:
    scene = ", ".join(rng.choice(fields.scenes, 2, replace=False))
    text = text.replace("{scene}", scene)
  return text.replace("{topic}", topic)


def load(fields: Fields, *, seed: int):
  """Loads a Qwen3; functions are compiled when first used.

  Args:
    fields: which one, and how it is asked.
    seed: of all sentences; each also depends on its topic and its number, and
      on nothing else.

  Returns:
    A `sentences.Sample`.

  Raises:
    UserError: about missing or unfit weights; when first used, about a batch
      that does not fit.
  """
  folder = _folder(fields)
  model, variables, tokenizer = convert.from_folder(folder)
  model = model.clone(dtype=jnp.dtype(fields.dtype))
  words = qwen.load(tokenizer)
  if words.largest >= model.vocab_size:
    raise UserError(
      f"The tokenizer of {folder} has ids up to {words.largest:,}, but the "
      f"weights know {model.vocab_size:,}: they are not of one release."
    )
  mesh = meshes.make_mesh()
  batch_size = fields.batch_size * mesh.size
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  # The files are mapped: the host holds no copy.
  variables = jax.device_put(variables, copied)
  pad, end = words.id_of(qwen.PAD), words.id_of(qwen.END)
  write = memory.checked(
    jax.jit(
      partial(
        write_tokens,
        model,
        max_length=fields.max_length,
        end=end,
        temperature=fields.temperature,
        top_k=fields.top_k,
        top_p=fields.top_p,
      ),
      in_shardings=(copied, split, split, split),
      out_shardings=split,
    ),
    held=variables,
    batch_size=fields.batch_size,
    field="config.prompts.batch_size",
  )

  def sample(topics: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """Writes a sentence about each topic and number."""
    sentences = [""] * len(topics)
    report = counter("prompts", len(topics), unit="sentences")
    texts = [
      message(fields, topic, number, seed=seed)
      for topic, number in zip(topics, numbers, strict=True)
    ]
    rngs = sampling.sentence_keys(seed, texts, numbers)
    ids = {text: words.chat_ids(text) for text in dict.fromkeys(texts)}
    counts = {text: len(of_text) for text, of_text in ids.items()}
    groups = sampling.by_length(texts, counts, shortest=SHORTEST)
    for room, rows in groups.items():
      for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        # Filled up with the last one.
        whole = [*batch, *batch[-1:] * (batch_size - len(batch))]
        lengths = np.array([counts[texts[i]] for i in whole], np.int32)
        shape = batch_size, room + fields.max_length
        tokens = np.full(shape, pad, np.int32)
        for row, i in enumerate(whole):
          tokens[row, : lengths[row]] = ids[texts[i]]
        with jax.default_matmul_precision(fields.precision):
          tokens = write(variables, tokens, lengths, rngs[np.array(whole)])
        for i, row, length in zip(
          batch, np.asarray(tokens), lengths, strict=False
        ):
          answer = row[length : length + fields.max_length]
          sentences[i] = first_line(words.decode(until(answer, end)))
        report(len(batch))
    return sentences

  return sample


def until(ids: np.ndarray, end: int) -> list[int]:
  """Returns the ids before the first end; none if there is no end.

  A sentence that does not end in time is cut, and no sentence.
  """
  ends = np.flatnonzero(ids == end)
  return ids[: ends[0]].tolist() if len(ends) else []


def first_line(answer: str) -> str:
  """Returns the first line of an answer, without quotes around it."""
  lines = [line.strip() for line in answer.splitlines()]
  line = next(filter(None, lines), "")
  for quotes in ('""', "''", "\u201c\u201d"):
    if len(line) > 1 and line[0] + line[-1] == quotes:
      line = line[1:-1].strip()
  return line


# --- one token at a time ------------------------------------------------------


def write_tokens(
  model: Qwen3,
  variables: dict,
  tokens: jax.Array,
  lengths: jax.Array,
  rngs: jax.Array,
  *,
  max_length: int,
  end: int,
  temperature: float = 0.0,
  top_k: int = 0,
  top_p: float = 1.0,
) -> jax.Array:
  """Writes behind each text; to be jitted whole.

  Texts are read a token at a time, too, all from the first place on: so they
  need no padding in front, and one step serves both. What is written depends on
  its text and its key, not on its place in the batch.

  Args:
    model: that writes.
    variables: of the model.
    tokens: int32 [n, l], texts, with room for max_length behind each.
    lengths: int32 [n] of the texts.
    rngs: [n] keys.
    max_length: tokens to write, with the end.
    end: the token that ends an answer.
    temperature: as `sampling.choose`, as are top_k and top_p.
    top_k: likewise.
    top_p: likewise.

  Returns:
    int32 [n, l]: the texts, what is written up to the end or max_length, and
    the tokens that were there.
  """
  choose = partial(
    sampling.choose, temperature=temperature, top_k=top_k, top_p=top_p
  )

  def step(state):
    position, tokens, done, memory = state
    logits, memory = model.apply(
      variables, tokens[:, position], position, memory, method="step"
    )
    chosen = choose(logits, rngs, position).astype(jnp.int32)
    after = position + 1
    writes = (after >= lengths) & ~done
    chosen = jnp.where(writes, chosen, tokens[:, after])
    tokens = tokens.at[:, after].set(chosen)
    is_last = (chosen == end) | (after + 1 >= lengths + max_length)
    return after, tokens, done | (writes & is_last), memory

  memory = model.empty_memory(*tokens.shape)
  state = jnp.int32(0), tokens, jnp.zeros(len(tokens), bool), memory
  return jax.lax.while_loop(lambda state: ~state[2].all(), step, state)[1]
