"""Tokens of the released vocabularies: CLIP's, GLIDE's and T5's."""

import gzip
import json
import os
import pathlib
import random

import numpy as np
import pytest

from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe


@pytest.fixture(scope="module")
def vocab():
  folder = os.environ.get("SYNTHJAX_VOCAB")
  if not folder:
    pytest.skip("SYNTHJAX_VOCAB must name the folder of the vocabularies")
  return pathlib.Path(folder)


@pytest.fixture(scope="module")
def clip_bpe(vocab):
  return bpe.clip_bpe(vocab / "bpe_simple_vocab_16e6.txt.gz")


@pytest.fixture(scope="module")
def glide_bpe(vocab):
  return bpe.glide_bpe(vocab / "encoder.json.gz", vocab / "vocab.bpe.gz")


@pytest.mark.golden
def test_clip_tokens_equal_the_recorded_ones(clip_bpe, golden):
  case = golden("clip_tokens")
  want = case["out/tokens"]
  got = clip_bpe.clip_tokens(case["meta"]["prompts"], want.shape[1])
  np.testing.assert_array_equal(got, want)
  assert clip_bpe.clip_vocab_size == case["meta"]["vocab_size"]


@pytest.mark.golden
def test_glide_tokens_equal_the_recorded_ones(glide_bpe, golden):
  case = golden("glide_tokens")
  want = case["out/tokens"]
  got, mask = glide_bpe.glide_tokens(case["meta"]["prompts"], want.shape[1])
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(mask, case["out/mask"])
  assert glide_bpe.glide_vocab_size == case["meta"]["n_vocab"]


@pytest.mark.parametrize(
  ("text", "ids"),
  [
    ("a photo of a dog.", [320, 1125, 539, 320, 1929, 269]),
    (
      "a centered satellite photo of annual crop land.",
      [320, 24584, 10316, 1125, 539, 2906, 9955, 973, 269],
    ),
    (
      "a photo of a Tu-134, a type of aircraft.",
      [*(320, 1125, 539, 320, 5760, 268, 272, 274, 275, 267, 320, 3877)]
      + [539, 7706, 269],
    ),
  ],
)
def test_clip_prompts_have_their_known_ids(clip_bpe, text, ids):
  tokens = clip_bpe.clip_tokens([text], 77)[0]
  assert tokens[: len(ids) + 2].tolist() == [49406, *ids, 49407]
  assert not tokens[len(ids) + 2 :].any()


@pytest.mark.parametrize(
  ("text", "ids"),
  [
    (
      "an oil painting of a corgi",
      [272, 3056, 12036, 286, 257, 1162, 12397],
    ),
    (
      "a centered satellite photo of annual crop land",
      [64, 19254, 11210, 4590, 286, 5079, 13833, 1956],
    ),
    (
      "A Red Tractor parked beside two old barns.",
      [64, 2266, 38278, 19584, 13970, 734, 1468, 25203, 82, 13],
    ),
    ("it's 42 dogs!", [270, 338, 5433, 6844, 0]),
  ],
)
def test_glide_prompts_have_their_known_ids(glide_bpe, text, ids):
  tokens, mask = glide_bpe.glide_tokens([text], 128)
  assert tokens[0][mask[0]].tolist() == ids
  assert (tokens[0][~mask[0]] == 50256).all()


AWKWARD = [
  "",
  " ",
  "\U0001f98a\U0001f468\u200d\U0001f469\u200d\U0001f467 \u6771\u4eac\u30bf",
  "&amp;lt;b&amp;gt; fish &#39;n&#39; chips",
  "tab\there\u00a0there\u3000everywhere \r\n",
  "schÃ¶n schon",
  "\u039f\u0394\u039f\u03a3 \u0130stanbul STRA\u00dfE \ufb01ne",
  "1234 \u00bd \u2167 \u0663",
  "it'S WE'LL they're 'tis",
  "a_b--c!!! ...",
  "<|endoftext|> and <|startoftext|>",
  "no\u0308 e\u0301",
]


def made_up_texts(number=300):
  letters = "abcXYZ0159'.,-_&;#!? \t\n\u00e9\u00df\u0130\u03a3\u4eac\U0001f98a"
  rng = random.Random(0)
  return [
    "".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(number)
  ]


def plain_bpe(word, ranks, suffix=""):
  """Merges the letters of a word, the first learnt pair first."""
  pieces = [*word[:-1], word[-1] + suffix]
  while len(pieces) > 1:
    pairs = list(zip(pieces, pieces[1:], strict=False))
    best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
    if best not in ranks:
      break
    merged, i = [], 0
    while i < len(pieces):
      if tuple(pieces[i : i + 2]) == best:
        merged.append("".join(best))
        i += 2
      else:
        merged.append(pieces[i])
        i += 1
    pieces = merged
  return pieces


def byte_letters():
  """GPT-2's letters of the 256 bytes, as its paper's vocabulary spells them."""
  kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = iter(range(256, 512))
  return {b: chr(b if b in kept else next(others)) for b in range(256)}


def read_ranks(path, number=None):
  lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1:]
  pairs = [tuple(line.split()) for line in lines if line][:number]
  return {pair: rank for rank, pair in enumerate(pairs)}


def test_clip_reads_awkward_texts_as_a_plain_implementation(clip_bpe, vocab):
  regex = pytest.importorskip("regex")
  ranks = read_ranks(vocab / "bpe_simple_vocab_16e6.txt.gz", 48_894)
  letters = byte_letters()
  ids = clip_bpe.bpe.get_vocab()
  words = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
  )
  for text in AWKWARD + made_up_texts():
    want = [
      ids[piece]
      for word in words.findall(bpe.clean(text))
      for piece in plain_bpe([letters[b] for b in word.encode()], ranks, "</w>")
    ]
    tokens = clip_bpe.clip_tokens([text], 77)[0]
    got = tokens[1 : tokens.argmax()].tolist()
    assert got == want[:75], repr(text)


def test_glide_reads_awkward_texts_as_a_plain_implementation(glide_bpe, vocab):
  regex = pytest.importorskip("regex")
  ranks = read_ranks(vocab / "vocab.bpe.gz")
  ids = json.loads(gzip.decompress((vocab / "encoder.json.gz").read_bytes()))
  letters = byte_letters()
  words = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
  )
  for text in AWKWARD + made_up_texts():
    want = [
      ids[piece]
      for word in words.findall(text.lower())
      for piece in plain_bpe([letters[b] for b in word.encode()], ranks)
    ]
    tokens, mask = glide_bpe.glide_tokens([text], 128)
    assert tokens[0][mask[0]].tolist() == want[:128], repr(text)


@pytest.mark.parametrize(
  ("text", "cleaned"),
  [
    ("  A\tB \n C\u3000D ", "a b c d"),
    ("&amp;lt;b&gt;", "<b>"),
    ("\u201cfancy\u201d", '"fancy"'),
    ("sch\u00c3\u00b6n", "sch\u00f6n"),  # UTF-8 once read as Latin-1
    ("", ""),
  ],
)
def test_texts_for_clip_are_cleaned(text, cleaned):
  assert bpe.clean(text) == cleaned


def test_special_tokens_spelt_out_are_plain_text(clip_bpe, glide_bpe):
  tokens = clip_bpe.clip_tokens(["a <|endoftext|> b"], 77)[0]
  assert (tokens == 49407).sum() == 1
  assert tokens.argmax() == np.flatnonzero(tokens)[-1]
  tokens, mask = glide_bpe.glide_tokens(["<|endoftext|>"], 128)
  assert 50256 not in tokens[0][mask[0]]


def test_a_long_text_for_clip_is_cut_and_keeps_its_end(clip_bpe):
  tokens = clip_bpe.clip_tokens(["word " * 500], 77)[0]
  assert tokens[0] == 49406 and tokens[-1] == 49407
  assert (tokens[1:-1] == tokens[1]).all()


def test_released_tokenizers_are_kept_as_one_file(
  clip_bpe, glide_bpe, tmp_path
):
  for each, text in ((clip_bpe, "a red fox, 42"), (glide_bpe, "A red fox!")):
    path = tmp_path / f"{each.clip_vocab_size}.json"
    each.bpe.save(str(path))
    loaded = bpe.load(path)
    assert loaded.encode(text) == each.encode(text)
    assert loaded.clip_tokens([text], 9).tolist() == (
      each.clip_tokens([text], 9).tolist()
    )
  assert glide_bpe.decode(glide_bpe.encode("A red fox!")) == "a red fox!"
  assert clip_bpe.decode(clip_bpe.encode("a red fox, 42")) == (
    "a red fox , 4 2"  # CLIP keeps words apart, not how they were spaced
  )


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["missing", "short", "cut", "other"])
def test_a_damaged_vocabulary_is_refused(vocab, tmp_path, damage):
  path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
  data = (vocab / path.name).read_bytes()
  if damage == "short":
    lines = gzip.decompress(data).split(b"\n")[:1000]
    path.write_bytes(gzip.compress(b"\n".join(lines)))
  elif damage == "cut":
    path.write_bytes(data[:100_000])
  elif damage == "other":
    path.write_text("a page\nnot a list of pairs of pieces\n")
  with pytest.raises(UserError, match=r"bpe_simple_vocab_16e6\.txt\.gz"):
    bpe.clip_bpe(path)


@pytest.mark.faults
def test_files_of_two_vocabularies_are_refused(vocab, tmp_path):
  ids = json.loads(gzip.decompress((vocab / "encoder.json.gz").read_bytes()))
  del ids["ing"]
  (tmp_path / "encoder.json").write_text(json.dumps(ids))
  for encoder in (tmp_path / "encoder.json", vocab / "vocab.bpe.gz"):
    with pytest.raises(UserError, match="of one vocabulary"):
      bpe.glide_bpe(encoder, vocab / "vocab.bpe.gz")


def test_a_released_tokenizer_that_is_not_here_names_the_command(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path))
  with pytest.raises(UserError, match="synthjax.weights fetch glide`"):
    bpe.locate("released:glide/tokenizer.json")
  path = tmp_path / "weights" / "glide" / "tokenizer.json"
  path.parent.mkdir(parents=True)
  path.write_text("{}")
  assert bpe.locate("released:glide/tokenizer.json") == path
