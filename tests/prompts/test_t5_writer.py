"""T5 as the writer of sentences: its pieces, and what it samples."""

import jax
import numpy as np
import pytest
import tiny_t5

from synthjax.prompts import t5_writer
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import sentence_pieces
from synthjax.weights import files

# --- pieces -----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("t5")
  tiny_t5.write_tokenizer(folder / "spiece.model")
  tiny_t5.write_t5(folder / "t5.safetensors")
  return folder


@pytest.fixture(scope="module")
def words(folder):
  return sentence_pieces.load(folder / "spiece.model")


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
      sentence_pieces.load(tmp_path / name)
  other = tiny_t5.write_tokenizer(tmp_path / "other", pad_id=-1, unk_id=0)
  with pytest.raises(UserError, match=r"\(-1, 1, 0\).*another model"):
    sentence_pieces.load(other)


# --- T5 as the sampler ------------------------------------------------------


def load(folder, seed=0, **changes):
  options = {
    "weights": str(folder / "t5.safetensors"),
    "tokenizer": str(folder / "spiece.model"),
    "batch_size": 4,
    "max_length": 12,
  }
  return t5_writer.load(t5_writer.Fields(**options | changes), seed=seed)


LONG = "a big white horse near the old harbour </s>"


@pytest.mark.slow
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
  groups = t5_writer._by_length(
    words, ["dog </s>", LONG, "cat </s>", "dog </s>"]
  )
  assert groups == {8: [0, 2, 3], 32: [1]}
  assert 16 < len(words.encode(LONG)) <= 32


def test_greedy_sentences_are_all_the_same(folder):
  assert (
    len(set(load(folder, temperature=0.0)(["dog </s>"] * 3, range(3)))) == 1
  )


def test_keys_differ_for_every_sentence():
  keys = t5_writer.sentence_keys(0, ["a", "a", "b"], [0, 1, 0])
  other = t5_writer.sentence_keys(1, ["a"], [0])
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
