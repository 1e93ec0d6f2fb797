"""T5 as the writer of sentences: its pieces, and what it samples."""

import jax
import numpy as np
import pytest
import tiny_t5

from synthjax.prompts import sampling, t5_writer
from synthjax.runtime import memory
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
  assert t5_writer.keywords(name) == inputs


def test_an_article_is_always_a_as_in_the_released_labels():
  for name in ("Annual Crop Land", "River"):
    assert t5_writer.keywords(name, article=True) == [f"a {name} </s>"]


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
  assert t5_writer.clean(text) == cleaned


def test_loose_punctuation_is_closed_up_as_in_transformers():
  from transformers import PreTrainedTokenizerBase

  theirs = PreTrainedTokenizerBase.clean_up_tokenization
  rng = np.random.default_rng(0)
  bits = ["dog", ".", "?", "!", ",", "'", "n't", "'m", "'s", "'ve", "'re", "-"]
  for _ in range(300):
    text = " ".join(rng.choice(bits, 8))
    assert t5_writer.clean(text) == theirs(None, text).strip()


# --- T5 as the sampler ------------------------------------------------------


def load(folder, seed=0, **changes):
  options = {
    "weights": str(folder / "t5.safetensors"),
    "tokenizer": str(folder / "spiece.model"),
    "batch_size": 4,
    "max_length": 12,
  }
  return t5_writer.load(t5_writer.Fields(**options | changes), seed=seed)


LONG = "a big white horse near the old harbour"


@pytest.mark.slow
def test_a_sentence_depends_on_its_text_its_number_and_the_seed(folder):
  sample = load(folder)
  texts, numbers = ["dog", LONG, "dog", "cat", LONG], range(5)
  five = sample(texts, numbers)
  assert len(set(five)) == 5
  assert sample(texts[::-1], numbers[::-1]) == five[::-1]
  assert sample(texts[2:3], [2]) == five[2:3]
  assert load(folder, batch_size=3)(texts, numbers) == five
  assert load(folder, seed=1)(texts, numbers) != five
  assert sample(texts, [7, *range(1, 5)])[0] != five[0]


def test_texts_are_padded_by_their_own_length():
  lengths = {"dog": 3, LONG: 17, "cat": 8}
  groups = sampling.by_length(["dog", LONG, "cat", "dog"], lengths, shortest=8)
  assert groups == {8: [0, 2, 3], 32: [1]}


@pytest.mark.slow
def test_the_sentences_of_a_divided_name_are_joined(folder):
  sample = load(folder)
  both = sample(["St. Bernard"], [3])[0]
  assert both == " ".join(filter(None, sample(["St", " Bernard"], [3, 3])))


def test_greedy_sentences_are_all_the_same(folder):
  assert len(set(load(folder, temperature=0.0)(["dog"] * 3, range(3)))) == 1


def test_keys_differ_for_every_sentence():
  keys = sampling.sentence_keys(0, ["a", "a", "b"], [0, 1, 0])
  other = sampling.sentence_keys(1, ["a"], [0])
  data = [*jax.random.key_data(keys).tolist(), *jax.random.key_data(other)]
  assert len({tuple(map(int, row)) for row in data}) == 4


def test_progress_counts_sentences(folder, capsys):
  load(folder)(["dog"] * 6, range(6))
  line = capsys.readouterr().err.splitlines()[-1]
  assert line.startswith("prompts: 6/6 sentences")


@pytest.mark.faults
def test_a_batch_that_does_not_fit_is_refused_before_it_runs(
  folder, monkeypatch
):
  monkeypatch.setattr(memory, "limit", lambda: 2**40)
  few = load(folder)(["dog"] * 5, range(5))
  monkeypatch.setattr(memory, "limit", lambda: 2**22)
  assert load(folder)(["dog"] * 5, range(5)) == few
  sample = load(folder, batch_size=4096)
  problem = r"config\.prompts\.batch_size=4096 needs about .*: set it to \d+\."
  with pytest.raises(UserError, match=problem):
    sample(["dog"], [0])


@pytest.mark.faults
def test_unfit_weights_are_refused(folder, tmp_path):
  small = tiny_t5.write_t5(tmp_path / "small.safetensors", vocab_size=50)
  with pytest.raises(UserError, match="knows 50 tokens"):
    load(folder, weights=small)
  clip = tmp_path / "clip.safetensors"
  files.save_params(clip, {"params": {"x": np.zeros(1)}}, {"kind": "clip"})
  with pytest.raises(UserError, match="weights of 'clip'.*those of a T5"):
    load(folder, weights=str(clip))
