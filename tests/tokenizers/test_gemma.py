"""SigLIP 2's texts: lower case, the end, and pads, in either form of file."""

import io

import numpy as np
import pytest

from synthjax.runtime.errors import UserError
from synthjax.tokenizers import gemma

TEXTS = [
  "This is a photo of a Red Apple.",
  "two   spaces, and a\nline",
  "ÄPFEL 7 <eos> 🍎",
  "",
]
LETTERS = "▁abcdefghijklmnopqrstuvwxyz.,7<>"
MERGES = [("p", "h"), ("ph", "o"), ("t", "o"), ("pho", "to"), ("a", "▁")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """The same kind of vocabulary as a tokenizer.json and a tokenizer.model."""
  transformers = pytest.importorskip("transformers")
  sentencepiece = pytest.importorskip("sentencepiece")
  folder = tmp_path_factory.mktemp("gemma")
  tokens = [*gemma.SPECIAL, "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
  tokens += [*LETTERS, *("".join(pair) for pair in MERGES)]
  vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
  theirs = transformers.Siglip2Tokenizer(vocabulary, MERGES)
  theirs.backend_tokenizer.save(str(folder / "tokenizer.json"))
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a photo of a red apple, two photos"] * 20),
    model_writer=model,
    model_type="bpe",
    vocab_size=300,
    byte_fallback=True,
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    hard_vocab_limit=False,
    minloglevel=2,
    **{f"{token[1:-1]}_id": i for token, i in gemma.SPECIAL.items()},
  )
  (folder / "tokenizer.model").write_bytes(model.getvalue())
  return folder, theirs


def test_ids_are_those_of_transformers(files):
  folder, theirs = files
  ours = gemma.load(folder / "tokenizer.json")
  for text in TEXTS:
    # Its normalizer has no lower case for what is spelt like a special token.
    want = theirs(text.lower(), add_special_tokens=False).input_ids
    assert ours.ids(text) == want, text
  assert ours.ids("PHOTO") == ours.ids("photo")


def test_a_model_of_sentencepiece_gives_its_ids(files):
  folder, _ = files
  ours = gemma.load(folder / "tokenizer.model")
  for text in TEXTS:
    ids = ours.ids(text)
    assert bytes(text.lower(), "utf8") == _bytes_of(folder, ids) or "<" in text
  assert ours.ids("PHOTO") == ours.ids("photo")


def _bytes_of(folder, ids):
  import sentencepiece

  model = sentencepiece.SentencePieceProcessor(
    model_file=str(folder / "tokenizer.model")
  )
  return model.decode(ids).encode()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_every_text_fills_the_context_and_ends(files, name):
  ours = gemma.load(files[0] / name)
  tokens = ours.siglip_tokens([*TEXTS, "photo " * 99], 64)
  assert tokens.shape == (5, 64) and tokens.dtype == np.int32
  for row, text in zip(tokens, TEXTS, strict=False):
    ids = ours.ids(text)
    assert row.tolist() == [*ids, gemma.EOS] + [gemma.PAD] * (63 - len(ids))
  assert tokens[-1, -1] == gemma.EOS and gemma.PAD not in tokens[-1]


def test_another_models_file_is_refused(tmp_path, files):
  path = tmp_path / "tokenizer.json"
  text = (files[0] / "tokenizer.json").read_text()
  path.write_text(text.replace("<eos>", "</s>"))
  with pytest.raises(UserError, match="belongs to another model"):
    gemma.load(path)
  path = tmp_path / "damaged.json"
  path.write_text(text[:200])
  with pytest.raises(UserError, match="Cannot read the tokenizer"):
    gemma.load(path)
