"""What lies behind the last token that a network reads is told beforehand."""

import json
import logging

import numpy as np
import pytest

from synthjax import encoders, generators
from synthjax.config import embedded_world
from synthjax.data.generated import scores
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import cut_texts

LONG = (
  "seen from the left, with large round eyes and long fins and stripes, "
  "swimming in a round glass bowl that stands on a wooden table, "
)
WORDS = cut_texts.Reads(str.split, 4)


def fish(first, second):
  return spaces.parse_space(
    [
      {"name": "fish", "key": "a", "description": first},
      {"name": "fish", "key": "b", "description": second},
      {"name": "banana", "key": "c"},
    ],
    where="here",
  )


@pytest.fixture
def warned(caplog):
  caplog.set_level(logging.WARNING)
  cut_texts._warn.cache_clear()
  return lambda: caplog.text


def test_two_classes_that_become_one_are_refused():
  texts = {"x": ["a b c d e"], "y": ["a b c d f"], "z": ["a b c"]}
  with pytest.raises(UserError, match="first 4 tokens.*\n  'x' and 'y'\n"):
    cut_texts.check_classes(WORDS, texts, field="config.encoder")
  # Another template tells them apart.
  texts = {name: [*of, f"{name} it is"] for name, of in texts.items()}
  cut_texts.check_classes(WORDS, texts, field="config.encoder")


def test_a_cut_text_is_warned_of_once(warned):
  for _ in range(2):
    texts = {"x": ["a b c d e", "a b c d"], "y": ["f"]}
    cut_texts.check_classes(WORDS, texts, field="config.encoder")
  assert warned().count("1 of 3 texts have more than the 4 tokens") == 1
  assert "\n  a b c d e" in warned()


def test_classes_of_one_text_are_warned_of(warned):
  cut_texts.check_classes(WORDS, {"x": ["a"], "y": ["a"]}, field="here")
  assert "'x' and 'y'" in warned() and "description" in warned()
  assert cut_texts.warn_of_cut(None, ["a b c d e"], field="here") == 0


def test_the_embedded_networks_say_what_they_read(warned, tmp_path):
  world = embedded_world()

  def check(first, second):
    classes = [dict(name="cod", description=d) for d in (first, second)]
    classes = [c | {"key": str(i)} for i, c in enumerate(classes)]
    (tmp_path / "x.json").write_text(json.dumps(classes))
    encoders.check_texts(str(tmp_path / "x.json"), world["encoder"])

  with pytest.raises(UserError, match="reads the first 22 tokens"):
    check(LONG + "red", LONG + "blue")
  check("red, " + LONG, "blue, " + LONG)
  assert "texts have more than the 22 tokens that config.encoder" in warned()
  reads = generators.reads(**world["generator"])
  assert reads.room == 16 and len(reads.ids("a drawing of a fish")) == 5


def test_an_encoder_that_says_nothing_is_found_out_by_its_features():
  def encode(texts):  # reads the first 20 letters
    cut = [text[:20].ljust(20).encode() for text in texts]
    return np.array([list(text) for text in cut], np.float32)

  space = fish("a small red one", "a small blue one")
  scores.encode_classes(encode, 1.0, fish("red", "blue"))
  with pytest.raises(UserError, match="for one"):
    scores.encode_classes(encode, 1.0, space)
