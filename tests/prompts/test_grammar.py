"""Language enhancement writes distinct texts and uses the words evenly."""

from collections import Counter

import numpy as np
import pytest

from synthjax.embedded import world
from synthjax.prompts import grammar as enhance
from synthjax.runtime.errors import UserError

GRAMMAR = {
  "templates": ["{word}", "a {style} drawing of {word}"],
  "slots": {"style": ["flat", "outlined"]},
}


def write(words, num_texts, seed=0, grammar=GRAMMAR):
  rng = np.random.default_rng(seed)
  return enhance.enhance(words, num_texts, grammar=grammar, rng=rng)


def test_all_texts_of_a_word():
  assert set(write(["cat"], 10)) == {
    "cat",
    "a flat drawing of cat",
    "an outlined drawing of cat",
  }


@pytest.mark.parametrize("num_texts", [1, 4, 7, 11])
def test_words_are_used_evenly_and_no_text_occurs_twice(num_texts):
  words = ["cat", "dog", "cow", "hen"]
  texts = write(words, num_texts)
  assert len(set(texts)) == len(texts) == num_texts
  uses = Counter(next(w for w in words if w in text) for text in texts)
  counts = [uses[word] for word in words]
  assert max(counts) - min(counts) <= 1


def test_a_word_given_twice_counts_once():
  assert len(write(["cat", " cat", "cat"], 10)) == 3


def test_equal_texts_of_different_words_are_written_once():
  grammar = {
    "templates": ["{word}", "{word} {kind}"],
    "slots": {"kind": ["pie"]},
  }
  texts = write(["apple", "apple pie"], 10, grammar=grammar)
  assert sorted(texts) == ["apple", "apple pie", "apple pie pie"]


def test_the_seed_decides():
  words = [f"word{i}" for i in range(9)]
  assert write(words, 12) == write(words, 12)
  assert write(words, 12) != write(words, 12, seed=1)


def test_no_words_give_no_texts():
  assert write([], 5) == []


@pytest.mark.parametrize("name", enhance.GRAMMARS)
def test_shipped_grammars_have_200_texts_for_few_words(name):
  """The paper draws by 200 sentences for each class."""
  forms = len(enhance.read_grammar(name))
  words = [f"thing {i}" for i in range(-(-200 // forms))]
  texts = write(words, 200, grammar=name)
  assert len(set(texts)) == 200
  assert not any("{" in text or "  " in text for text in texts)


def test_the_drawing_grammar_speaks_as_the_captions_do():
  """The embedded generator knows these styles and templates, and no other."""
  styles = {word for words in world.STYLE_WORDS.values() for word in words}
  drawing = enhance.GRAMMARS["drawing"]
  assert set(drawing["slots"]["style"]) <= styles
  templates = {t.replace("{word}", "{}") for t in drawing["templates"]}
  assert templates <= set(world.TEMPLATES)


@pytest.mark.parametrize(
  ("grammar", "words"),
  [
    ("photos", "did you mean 'photo'"),
    ({"templates": []}, "needs `templates`"),
    ({"templates": ["a drawing"]}, "no {word}"),
    ({"templates": ["a {style} {word}"]}, "fills ['style']"),
    ({"templates": ["{word}"], "slot": {}}, "did you mean 'slots'"),
  ],
)
def test_a_grammar_that_is_not_whole_is_refused(grammar, words):
  with pytest.raises(UserError) as error:
    enhance.read_grammar(grammar)
  assert words in str(error.value)


def test_articles_are_those_of_what_follows():
  written = enhance.enhance(
    ["unicycle", "hourglass"],
    9,
    grammar={"templates": ["a {word}", "An {word}"]},
    rng=np.random.default_rng(0),
  )
  assert set(written) == {
    *("a unicycle", "an hourglass", "A unicycle", "An hourglass")
  }
