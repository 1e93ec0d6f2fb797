"""Sentences about classes: T5's pieces, what is asked, what is kept."""

import hashlib

import jax
import numpy as np
import pytest
import tiny_t5

from synthjax.convert import files
from synthjax.errors import UserError
from synthjax.generators import t5
from synthjax.text import pieces, sentences

# --- pieces -----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("t5")
  tiny_t5.write_tokenizer(folder / "spiece.model")
  tiny_t5.write_t5(folder / "t5.safetensors")
  return folder


@pytest.fixture(scope="module")
def words(folder):
  return pieces.load(folder / "spiece.model")


def test_pieces_equal_those_of_transformers(folder, words):
  """Of transformers 5, which differs where a text spells "</s>"."""
  from transformers import T5Tokenizer

  theirs = T5Tokenizer.from_pretrained(folder)
  for text in (
    *tiny_t5.sentences(20),
    "",
    "a",
    "  two   spaces ",
    "Zürich, QED: 42!",
    "ﬁne ½ ｗｉｄｅ",  # NFKC
  ):
    ids = words.encode(text)
    assert ids == theirs(text).input_ids
    assert ids[-1] == 1 and ids.count(1) == 1
    spelt = words.encode(f"{text} </s>")
    assert spelt == ids  # not doubled
    assert theirs(f"{text} </s>").input_ids == [*ids, 1]
    if 2 not in ids:
      said = words.decode(ids)
      assert said == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", ["</s>", " </s>", ""])
def test_an_empty_text_is_its_end(words, text):
  assert words.encode(text) == [1]


def test_an_end_within_a_text_stays(words):
  dog, cat = words.encode("dog"), words.encode("cat")
  assert words.encode("dog </s> cat") == dog + cat


def test_special_ids_are_not_read(words):
  dog = words.encode("dog")[:-1]
  ids = [0, *dog, words.size, words.size + 28, 1, 0, 0]
  assert words.decode(ids) == "dog"


def test_tokens_are_padded(words):
  tokens, mask = words.tokens(["dog", "a dog"], 12)
  for row, text in enumerate(("dog", "a dog")):
    assert tokens[row][mask[row]].tolist() == words.encode(text)
    assert not tokens[row][~mask[row]].any()


@pytest.mark.faults
def test_other_files_are_no_pieces_of_t5(tmp_path):
  (tmp_path / "odd").write_bytes(b"not a model")
  for name in ("odd", "gone"):
    with pytest.raises(UserError, match=f"{name}.*must be the spiece.model"):
      pieces.load(tmp_path / name)
  other = tiny_t5.write_tokenizer(tmp_path / "other", pad_id=-1, unk_id=0)
  with pytest.raises(UserError, match=r"\(-1, 1, 0\).*another model"):
    pieces.load(other)


# --- what the model is asked ------------------------------------------------


@pytest.mark.parametrize(
  ("name", "inputs"),
  [
    ("Forest", ["Forest </s>"]),
    ("Sea, Lake", ["Sea  Lake </s>"]),
    ("farmer's market", ['"farmers market" </s>']),
    ("box [open]", ["box open </s>"]),
    ("St. Bernard", ["St </s>", " Bernard </s>"]),
    ("etc.", ["etc </s>", " </s>"]),
    ("café", ["café </s>"]),
  ],
)
def test_names_are_prepared_as_keytotext_does(name, inputs):
  assert sentences.keywords(name) == inputs


def test_an_article_is_always_a_as_in_the_released_labels():
  for name in ("Annual Crop Land", "River"):
    assert sentences.keywords(name, article=True) == [f"a {name} </s>"]


@pytest.mark.parametrize(
  ("text", "cleaned"),
  [
    (" a dog runs . ", "a dog runs."),
    ("It is n't a dog , is it ?", "It isn't a dog, is it?"),
    ("the dogs ' park ! they 're", "the dogs'park! they're"),
    ("a dog's life", "a dog's life"),
  ],
)
def test_loose_punctuation_is_closed_up(text, cleaned):
  assert sentences.clean(text) == cleaned


def test_loose_punctuation_is_closed_up_as_in_transformers():
  from transformers import PreTrainedTokenizerBase

  theirs = PreTrainedTokenizerBase.clean_up_tokenization
  rng = np.random.default_rng(0)
  bits = ["dog", ".", "?", "!", ",", "'", "n't", "'m", "'s", "'ve", "'re", "-"]
  for _ in range(300):
    text = " ".join(rng.choice(bits, 8))
    assert sentences.clean(text) == theirs(None, text).strip()


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

  def sample(texts, numbers):
    calls.append(list(zip(texts, numbers, strict=True)))
    return [
      f" {text.removesuffix(' </s>')} {number % unique} ."
      for text, number in calls[-1]
    ]

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


def test_the_sentences_of_a_divided_name_are_joined():
  written, _ = write(["St. Bernard"], stub(unique=100)[0], num_samples=6)
  assert sorted(written["St. Bernard"]) == [
    f"St {i}. Bernard {i}." for i in range(6)
  ]


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
    filters=sentences.Filters(True, 3, 8, ("dirty",)),
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


def test_a_blocklist_has_one_entry_a_line():
  lines = ["# people", "man", "", " old woman  # and her"]
  assert sentences.read_blocklist(lines) == ("man", "old woman")


# --- T5 as the sampler ------------------------------------------------------


def load(folder, **changes):
  options = {
    "weights": str(folder / "t5.safetensors"),
    "tokenizer": str(folder / "spiece.model"),
    "seed": 0,
    "batch_size": 4,
    "max_length": 12,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
  }
  return t5.load(**options | changes)


LONG = "a big white horse near the old harbour </s>"


def test_a_sentence_depends_on_its_text_its_number_and_the_seed(folder):
  sample = load(folder)
  texts, numbers = ["dog </s>", LONG, "dog </s>", "cat </s>", LONG], range(5)
  five = sample(texts, numbers)
  assert len(set(five)) == 5
  assert sample(texts[::-1], numbers[::-1]) == five[::-1]
  assert sample(texts[2:3], [2]) == five[2:3]
  assert load(folder, batch_size=3)(texts, numbers) == five
  assert load(folder, seed=1)(texts, numbers) != five
  assert sample(texts, [7, *range(1, 5)])[0] != five[0]


def test_texts_are_padded_by_their_own_length(folder, words):
  groups = t5._by_length(words, ["dog </s>", LONG, "cat </s>", "dog </s>"])
  assert groups == {8: [0, 2, 3], 32: [1]}
  assert 16 < len(words.encode(LONG)) <= 32


def test_greedy_sentences_are_all_the_same(folder):
  assert (
    len(set(load(folder, temperature=0.0)(["dog </s>"] * 3, range(3)))) == 1
  )


def test_keys_differ_for_every_sentence():
  keys = t5.sentence_keys(0, ["a", "a", "b"], [0, 1, 0])
  other = t5.sentence_keys(1, ["a"], [0])
  data = [*jax.random.key_data(keys).tolist(), *jax.random.key_data(other)]
  assert len({tuple(map(int, row)) for row in data}) == 4


def test_progress_counts_sentences(folder, capsys):
  load(folder)(["dog </s>"] * 6, range(6))
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith("prompts: 6/6 sentences")


@pytest.mark.faults
def test_unfit_weights_are_refused(folder, tmp_path):
  small = tiny_t5.write_t5(tmp_path / "small.safetensors", vocab_size=50)
  with pytest.raises(UserError, match="knows 50 tokens"):
    load(folder, weights=small)
  clip = tmp_path / "clip.safetensors"
  files.save_params(clip, {"params": {"x": np.zeros(1)}}, {"kind": "clip"})
  with pytest.raises(UserError, match="weights of 'clip'.*those of a T5"):
    load(folder, weights=str(clip))
