"""Token ids under the conventions of GLIDE and of CLIP."""

import numpy as np
import pytest

from synthjax.embedded import world
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe


@pytest.fixture(scope="module")
def tokenizer():
  return bpe.load()


def test_the_two_vocabularies_add_their_special_ids(tokenizer):
  assert tokenizer.bpe.get_vocab_size() == 2046
  assert tokenizer.glide_vocab_size == 2047
  assert tokenizer.clip_vocab_size == 2048


@pytest.mark.parametrize(
  "text", ["a drawing of a red fox.", "it's 42 dogs!", "zürich, 東京", "x"]
)
def test_text_comes_back(tokenizer, text):
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_case_and_spaces_do_not_matter(tokenizer):
  same = tokenizer.encode("a red fox")
  assert tokenizer.encode("  A Red \n\t FOX ") == same


def test_a_word_is_the_same_token_wherever_it_stands(tokenizer):
  first, second = tokenizer.encode("apple"), tokenizer.encode("a red apple")
  # Common words of captions are whole tokens.
  assert len(first) == 1 and len(second) == 3
  assert first[0] == second[-1]


def test_glide_pads_with_the_last_id(tokenizer):
  ids = tokenizer.encode("a red fox")
  tokens, mask = tokenizer.glide_tokens(["a red fox", ""], 8)
  assert tokens.dtype == np.int32 and mask.dtype == bool
  assert tokens.shape == mask.shape == (2, 8)
  assert tokens[0].tolist() == ids + [2046] * (8 - len(ids))
  assert mask[0].tolist() == [True] * len(ids) + [False] * (8 - len(ids))
  # The empty prompt of classifier-free guidance.
  assert (tokens[1] == tokenizer.glide_vocab_size - 1).all()
  assert not mask[1].any()


def test_glide_cuts_long_text_without_an_end(tokenizer):
  ids = tokenizer.encode("a drawing of a red fox")
  tokens, mask = tokenizer.glide_tokens(["a drawing of a red fox"], 4)
  assert tokens[0].tolist() == ids[:4]
  assert mask.all()


def test_clip_ends_with_the_largest_id(tokenizer):
  ids = tokenizer.encode("a red fox")
  tokens = tokenizer.clip_tokens(["a red fox", ""], 8)
  assert tokens.dtype == np.int32 and tokens.shape == (2, 8)
  assert tokens[0].tolist() == [2046, *ids, 2047] + [0] * (6 - len(ids))
  assert tokens[1].tolist() == [2046, 2047] + [0] * 6
  # The text tower pools at the position of the largest id.
  assert tokens.argmax(1).tolist() == [1 + len(ids), 1]
  assert tokens.max() == tokenizer.clip_vocab_size - 1


def test_clip_keeps_the_end_of_a_text_that_is_cut(tokenizer):
  text = "a drawing of a red fox"
  tokens = tokenizer.clip_tokens([text], 5)
  assert tokens[0].tolist() == [2046, *tokenizer.encode(text)[:3], 2047]


def test_no_text_reaches_the_special_ids(tokenizer):
  texts = [p for c in world.concepts() for p in c.phrases]
  texts += ["<|endoftext|>", "</s>", "\x00", "🦊"]
  assert max(max(tokenizer.encode(text)) for text in texts) < 2046


def test_all_that_is_drawn_and_named_fits_a_short_context(tokenizer):
  """The embedded models read 32 tokens."""
  space = spaces.load_space("emoji_all")
  prompts = [
    sentence.format(word)
    for sentence in (*space.templates, *space.prompts)
    for each in space.classes
    for word in (each.name, *each.related)
  ]
  assert max(len(tokenizer.encode(prompt)) for prompt in prompts) <= 30


def test_no_texts_give_no_rows(tokenizer):
  assert tokenizer.clip_tokens([], 5).shape == (0, 5)
  assert tokenizer.glide_tokens([], 5)[1].shape == (0, 5)


@pytest.mark.faults
@pytest.mark.parametrize("text", [None, "", "{}", "no json"])
def test_a_damaged_tokenizer_is_named(tmp_path, text):
  path = tmp_path / "tokenizer.json"
  if text is not None:
    path.write_text(text)
  with pytest.raises(UserError, match=r"(?s)tokenizer\.json.*Hugging Face"):
    bpe.load(path)


def test_lower_case_and_cleaning_leave_the_embedded_tokens_as_they_were(
  tokenizer,
):
  """Its normaliser lower-cases; CLIP's cleaning is for CLIP's vocabulary."""
  texts = [p for c in world.concepts() for p in c.phrases]
  texts += ["caf\u00e9 \u201cquotes\u201d", "&amp; more", "A\tB"]
  tokens, mask = tokenizer.glide_tokens(texts, 64)
  clip_tokens = tokenizer.clip_tokens(texts, 64)
  for i, text in enumerate(texts):
    ids = tokenizer.encode(text)[:62]
    assert tokens[i][mask[i]].tolist()[:62] == ids
    assert clip_tokens[i, 1 : 1 + len(ids)].tolist() == ids
