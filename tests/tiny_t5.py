"""A T5 of random weights and a tokenizer for it, small enough for a test."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.t5.model import T5
from synthjax.weights import files

SIZES = {
  "vocab_size": 112,
  "d_model": 32,
  "d_kv": 8,
  "d_ff": 48,
  "num_layers": 1,
  "num_decoder_layers": 2,
  "num_heads": 3,
}
WORDS = {
  "quality": "small white brown old young happy big wet yellow quiet".split(),
  "thing": (
    "dog cat bird river forest boat house road child tree horse car train "
    "flower mountain bridge woman man elephant butterfly"
  ).split(),
  "verb": (
    "runs sits waits plays sleeps stands is walking was resting looks jumps"
  ).split(),
  "where": "near behind above under beside".split(),
  "place": (
    "park city field kitchen garden sea snow street harbour village meadow "
    "airport stadium library"
  ).split(),
}


def make_variables(*, seed: int = 0, **sizes) -> tuple[T5, dict]:
  """Returns a model and random variables whose texts vary."""
  model = T5(**SIZES | sizes)
  tokens = jnp.zeros((1, 2), int)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), tokens, tokens > 0, tokens
  )
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    values = rng.normal(size=leaf.shape).astype(np.float32)
    if "scale" in path[-1].key:
      return 1 + 0.3 * values
    if "shared" in path[1].key:
      return 0.3 * values
    return values if len(leaf.shape) < 2 else values * leaf.shape[0] ** -0.5

  return model, jax.tree_util.tree_map_with_path(fill, shapes)


def write_t5(path: pathlib.Path, *, seed: int = 0, **sizes) -> str:
  """Writes a T5 of random weights and returns its path."""
  _, variables = make_variables(seed=seed, **sizes)
  description = {"kind": "t5", "model": SIZES | sizes}
  files.save_params(path, variables, description)
  return str(path)


def sentences(count: int = 600) -> list[str]:
  """Returns simple sentences, the same ones each time."""
  rng = np.random.default_rng(0)
  form = "A {quality} {thing} {verb} {where} the {thing} in the {place}."
  rows = ({k: rng.choice(v) for k, v in WORDS.items()} for _ in range(count))
  return [form.format(**row) for row in rows]


def write_tokenizer(path: pathlib.Path, *, pieces: int = 100, **changes) -> str:
  """Trains a spiece.model with T5's special ids and returns its path."""
  import sentencepiece

  trained = io.BytesIO()
  options = {
    "model_type": "unigram",
    "vocab_size": pieces,
    "pad_id": 0,
    "eos_id": 1,
    "unk_id": 2,
    "bos_id": -1,
    "hard_vocab_limit": False,  # so few words have fewer pieces
    "minloglevel": 2,
  }
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences()),
    model_writer=trained,
    **options | changes,
  )
  path.write_bytes(trained.getvalue())
  return str(path)
