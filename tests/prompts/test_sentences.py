"""Sentences about classes: which are kept, and drawn."""

import hashlib

import numpy as np
import pytest

from synthjax.prompts import sentences

# --- what is kept -----------------------------------------------------------


def rng_of(name):
  digest = hashlib.sha256(name.encode()).digest()
  return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def write(names, sample, **changes):
  options = {
    "per_class": 6,
    "num_samples": 8,
    "rng_of": rng_of,
    "filters": sentences.Filters(),
  }
  return sentences.write({n: n for n in names}, sample, **options | changes)


def stub(unique):
  """Returns a sampler whose sentences repeat, and the list of its calls."""
  calls = []

  def sample(topics, numbers):
    calls.append(list(zip(topics, numbers, strict=True)))
    return [f"{topic} {number % unique}." for topic, number in calls[-1]]

  return sample, calls


def test_different_sentences_are_drawn_from_more():
  sample, calls = stub(unique=100)
  written, counts = write(["dog", "cat"], sample)
  assert len(calls) == 1 and len(calls[0]) == 16
  for name in ("dog", "cat"):
    assert len(set(written[name])) == 6
    assert set(written[name]) < {f"{name} {i}." for i in range(8)}
  # As the generator of the class draws them.
  order = rng_of("dog").choice(8, 6, replace=False)
  assert written["dog"] == [f"dog {i}." for i in order]
  assert counts["sampled"] == 16 and counts["duplicates"] == 0


def test_a_class_depends_on_no_other():
  alone, _ = write(["dog"], stub(unique=100)[0])
  among, _ = write(["cat", "dog", "hen"], stub(unique=100)[0])
  assert among["dog"] == alone["dog"]


def test_classes_with_too_few_are_asked_again():
  """Of 8 sentences, 4 are "cat" ones without a number: one differs."""

  def sample(texts, numbers):
    asked.append(set(texts))
    return [
      f"{text} {number if 'dog' in text or number % 2 else ''}"
      for text, number in zip(texts, numbers, strict=True)
    ]

  asked = []
  written, counts = write(["dog", "cat"], sample)
  assert [len(names) for names in asked] == [2, 1]
  assert len(written["dog"]) == len(written["cat"]) == 6
  assert counts["sampled"] == 24 and counts["duplicates"] == 3 + 4


def test_numbers_go_on_from_round_to_round():
  sample, calls = stub(unique=1)
  written, counts = write(["dog"], sample)
  assert written == {"dog": ["dog 0."]}
  assert len(calls) == sentences.ROUNDS
  numbers = [number for call in calls for _, number in call]
  assert numbers == list(range(8 * sentences.ROUNDS))
  assert counts["duplicates"] == 8 * sentences.ROUNDS - 1


def test_dropped_sentences_are_counted_once_by_reason():
  answers = [
    "A dog runs in the big park.",
    "A cat runs in the park.",  # no dog
    "dog",  # short
    "A dog and a dog and a dog and a dog.",  # long
    "A dirty dog runs home.",  # blocked
    "...",
    "A cat runs in the park.",
    "A cat sits in the park.",
  ]
  written, counts = write(
    ["dog"],
    lambda texts, numbers: [answers[n % 8] for n in numbers],
    filters=sentences.Filters(
      contains_class=True, min_words=3, max_words=8, blocklist=("dirty",)
    ),
  )
  assert written["dog"] == answers[:1]
  assert counts == {
    "sampled": 64,
    "duplicates": 57,
    "empty": 1,
    "contains_class": 2,
    "min_words": 1,
    "max_words": 1,
    "blocklist": 1,
  }


@pytest.mark.parametrize(
  ("sentence", "name"),
  [
    ("Two DOGS run.", "dog"),
    ("Foxes and buses.", "fox"),
    ("Foxes and buses.", "Bus"),
    ("The ladies' glasses", "lady"),
    ("leaves on a knife", "leaf"),
    ("Children play.", "child"),
    ("a polar bear's den", "polar bear"),
    ("a polar-bear", "polar bear"),
    ("the forests", "a Forest"),
    ("a residential building", "Residential Buildings"),
    ("A", "a"),
  ],
)
def test_names_are_found_in_the_singular_and_plural(sentence, name):
  assert sentences.contains(sentence, name)


@pytest.mark.parametrize(
  ("sentence", "name"),
  [
    ("A hotdog.", "dog"),
    ("a bear in the polar night", "polar bear"),
    ("polar", "polar bear"),
    ("", "dog"),
  ],
)
def test_other_words_are_no_names(sentence, name):
  assert not sentences.contains(sentence, name)


def test_a_blocklist_has_one_entry_a_line(tmp_path):
  path = tmp_path / "words.txt"
  path.write_text("# people\nman\n\n old woman  # and her\n")
  assert sentences.read_blocklist(str(path)) == ("man", "old woman")
  assert sentences.read_blocklist(("man",)) == ("man",)
