"""Byte-level BPE: text to token ids, by the conventions of GLIDE and CLIP."""

import functools
import gzip
import html
import io
import os
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime import cache, hub
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json

MAX_TEXT = 1 << 26  # bytes; the largest vocabulary has 3 MB
EMBEDDED = epath.Path(__file__).parent.parent / "embedded" / "tokenizer.json"
_END_OF_WORD = "</w>"  # in the vocabulary of the released CLIP
# Contractions, words, single digits, and runs of anything else but space.
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_MERGES = 48_894  # the released file holds more than CLIP uses


class Tokenizer(NamedTuple):
  """One byte-level BPE of V tokens (ids 0 to V - 1), under two conventions.

  GLIDE adds one id: V, the pad. CLIP adds two: V, the start, and V + 1, the
  end, which its text tower finds as the largest id; its pad is 0.
  """

  bpe: Any  # tokenizers.Tokenizer

  @property
  def glide_vocab_size(self) -> int:
    return self.bpe.get_vocab_size() + 1

  @property
  def clip_vocab_size(self) -> int:
    return self.bpe.get_vocab_size() + 2

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, in lower case.

    The embedded vocabulary also has single spaces in its texts; the released
    GLIDE's keeps them all.
    """
    return self.bpe.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids, without pads, start and end."""
    size = self.bpe.get_vocab_size()
    return self.bpe.decode([int(i) for i in ids if i < size]).strip()

  def glide_tokens(
    self, texts: Sequence[str], context: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts for GLIDE: no start, no end, cut to the context.

    Returns:
      tokens int32 [n, l], padded with the last id of the vocabulary, and mask
      bool [n, l], true on the text. The empty prompt is all padding.
    """
    pad = self.bpe.get_vocab_size()
    tokens = np.full((len(texts), context), pad, np.int32)
    mask = np.zeros((len(texts), context), bool)
    for row, text in enumerate(texts):
      ids = self.glide_ids(text)[:context]
      tokens[row, : len(ids)] = ids
      mask[row, : len(ids)] = True
    return tokens, mask

  def glide_ids(self, text: str) -> list[int]:
    """Returns the ids of a text for GLIDE."""
    return self.encode(text.lower())

  def clip_tokens(self, texts: Sequence[str], context: int) -> np.ndarray:
    """Encodes texts for CLIP: start, text, end, then zeros.

    A text that is too long is cut, and keeps its end. Texts for the released
    vocabulary are cleaned as CLIP's training texts were (`clean`). Special
    tokens that are spelt out in a text are read as plain text.

    Returns:
      tokens int32 [n, l].
    """
    assert context >= 2, "There must be room for the start and the end."
    start = self.bpe.get_vocab_size()
    tokens = np.zeros((len(texts), context), np.int32)
    for row, text in enumerate(texts):
      ids = [start, *self.clip_ids(text)[: context - 2], start + 1]
      tokens[row, : len(ids)] = ids
    return tokens

  def clip_ids(self, text: str) -> list[int]:
    """Returns the ids of a text for CLIP, without start and end."""
    if getattr(self.bpe.model, "end_of_word_suffix", None) == _END_OF_WORD:
      text = clean(text)
    return self.encode(text)


def clean(text: str) -> str:
  """Cleans a text as the released CLIP does, and lower-cases it.

  It repairs broken encodings, resolves HTML entities (twice, as some are
  themselves escaped), and joins spaces of all kinds to single ones.
  """
  import ftfy  # slow, and only needed with released weights

  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return " ".join(text.split()).lower()


def clip_bpe(path: epath.PathLike) -> Tokenizer:
  """Builds the released CLIP's tokenizer: 49,406 tokens, without the specials.

  Args:
    path: of `bpe_simple_vocab_16e6.txt.gz`.

  Raises:
    UserError: if the file is not that one.
  """
  return _clip_bpe(_read_merges(path), path)


def _clip_bpe(
  merges: Sequence[tuple[str, str]], path: epath.PathLike
) -> Tokenizer:
  """Builds it from the merges that a file holds; see `clip_bpe`."""
  from tokenizers import Regex, decoders, models, pre_tokenizers

  merges = merges[:_CLIP_MERGES]
  if len(merges) < _CLIP_MERGES:
    raise UserError(
      f"{path} holds {len(merges):,} merges, CLIP needs {_CLIP_MERGES:,}: it "
      "is not the bpe_simple_vocab_16e6.txt.gz of its release, or cut short."
    )
  tokens = [*_byte_letters(), *(c + _END_OF_WORD for c in _byte_letters())]
  tokens += [left + right for left, right in merges]
  vocab = {token: i for i, token in enumerate(tokens)}
  bpe = models.BPE(vocab, merges, end_of_word_suffix=_END_OF_WORD)
  words = pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True)
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  return _assemble(
    bpe,
    pre_tokenizers.Sequence([words, letters]),
    decoders.Sequence(
      [decoders.Replace(_END_OF_WORD, "\u0120"), decoders.ByteLevel()]
    ),
  )


def glide_bpe(encoder: epath.PathLike, merges: epath.PathLike) -> Tokenizer:
  """Builds the released GLIDE's tokenizer: 50,256 tokens, without the end.

  Args:
    encoder: path of `encoder.json`, possibly gzipped.
    merges: path of `vocab.bpe`, likewise.

  Raises:
    UserError: if the files are not those, or do not belong together.
  """
  from tokenizers import decoders, models, pre_tokenizers

  try:
    vocab = parse_json(_read_text(encoder), dict)
    # The end token is also the pad, which Tokenizer adds itself.
    fits = vocab.pop("<|endoftext|>") == len(vocab)
    fits = fits and sorted(vocab.values()) == list(range(len(vocab)))
  except (ValueError, KeyError, TypeError):
    fits = False
  pairs = _read_merges(merges)
  fits = fits and all({a, b, a + b} <= vocab.keys() for a, b in pairs)
  if not fits or len(vocab) != len(pairs) + 256:
    raise UserError(
      f"{encoder} and {merges} are not the encoder.json and vocab.bpe of one "
      "vocabulary, that ends with <|endoftext|>: fetch them again."
    )
  words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  return _assemble(models.BPE(vocab, pairs), words, decoders.ByteLevel())


def _assemble(model: Any, pre_tokenizer: Any, decoder: Any) -> Tokenizer:
  import tokenizers

  bpe = tokenizers.Tokenizer(model)
  bpe.normalizer = tokenizers.normalizers.Lowercase()
  bpe.pre_tokenizer, bpe.decoder = pre_tokenizer, decoder
  return Tokenizer(bpe)


def _byte_letters() -> list[str]:
  """Returns the letters that stand for bytes, in the vocabularies' order.

  Bytes that print in Latin-1 stand for themselves and come first; the others
  are the letters from U+0100 on.
  """
  prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  return [*map(chr, prints), *map(chr, range(0x100, 0x200 - len(prints)))]


def _read_merges(path: epath.PathLike) -> list[tuple[str, str]]:
  """Reads the pairs below the first line, which is a version."""
  lines = _read_text(path).split("\n")[1:]
  pairs = [tuple(line.split(" ")) for line in lines if line]
  if not pairs or any(len(pair) != 2 for pair in pairs):
    raise UserError(
      f"{path} is not a file of BPE merges: a line with a version, then lines "
      "of two pieces with a space between."
    )
  return pairs


def _read_text(path: epath.PathLike) -> str:
  """Reads a text file of up to MAX_TEXT bytes, gzipped or not."""
  try:
    with epath.Path(path).open("rb") as file:
      data = file.read(MAX_TEXT + 1)
    if data[:2] == b"\x1f\x8b":
      with gzip.open(io.BytesIO(data)) as packed:
        data = packed.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
      raise ValueError(
        f"it holds more than {MAX_TEXT:,} bytes, which no vocabulary needs"
      )
    return data.decode()
  except (OSError, EOFError, ValueError, zlib.error) as error:
    raise UserError(
      f"Cannot read {path} ({type(error).__name__}: {error}): it is missing, "
      "damaged, or no text. Fetch it again."
    ) from error


# The files of a tokenizer in a folder; the first form that is whole counts, and
# its last file stands for it.
FORMS = (("vocab.json", "merges.txt"), ("tokenizer.json",))


def locate(name: str, forms: Sequence[Sequence[str]] = FORMS) -> epath.Path:
  """Finds a tokenizer's file.

  Args:
    name: a path, local or gs://, "embedded:NAME" for one of the package,
      "released:NAME/FILE" for a fetched one, or "hf://org/name@revision" for
      one of the Hugging Face hub. Of a folder, it is the file of a form.
    forms: see FORMS.

  Raises:
    UserError: about a released one that has not been fetched, a folder without
      one, or as `hub.snapshot`.
  """
  if name.startswith("embedded:"):
    return EMBEDDED.parent / name.removeprefix("embedded:")
  if name.startswith(cache.RELEASED):
    return epath.Path(cache.fetched(name))
  if name.startswith(hub.SCHEME):
    chosen = []

    def wanted(names):
      inner = hub.parse(name).inner
      is_file = inner in names and not inner.endswith(_WEIGHTS)
      folder = inner if inner not in names else inner.rpartition("/")[0]
      chosen[:] = [inner] if is_file else _form(names, folder, forms, name)
      return chosen

    return epath.Path(hub.snapshot(name, wanted)) / chosen[-1]
  path = epath.Path(name).expanduser()
  if name and "://" not in name and path.is_dir():
    names = [file.name for file in path.iterdir()]
    return path / _form(names, "", forms, name)[-1]
  return path


_WEIGHTS = (
  ".safetensors",
  ".bin",
  ".pt",
  ".pth",
  ".msgpack",
  ".npz",
  ".index.json",
)


def beside(weights: str, forms: Sequence[Sequence[str]] = FORMS) -> epath.Path:
  """Finds the tokenizer beside weights, which may lie where `locate` looks.

  Raises:
    UserError: as `locate`.
  """
  if weights.startswith(cache.RELEASED):
    weights = f"{weights.partition('/')[0]}/{forms[-1][0]}"
  elif "://" not in weights and weights:
    path = epath.Path(weights).expanduser()
    weights = os.fspath(path.parent if path.is_file() else path)
  return locate(weights, forms)


def _form(
  names: Sequence[str], folder: str, forms: Sequence[Sequence[str]], place: str
) -> list[str]:
  """Returns the files of the first form that a folder has whole."""
  start = f"{folder}/" if folder else ""
  for form in forms:
    if {*(paths := [f"{start}{file}" for file in form])} <= {*names}:
      return paths
  sought = " or ".join(" with ".join(form) for form in forms)
  raise UserError(
    f"{place} has no tokenizer that can be read here: {sought} is needed."
  )


@functools.cache
def load(path: epath.PathLike = EMBEDDED) -> Tokenizer:
  """Loads a tokenizer.json of Hugging Face's `tokenizers`; by default ours.

  That of Hugging Face's CLIP holds the start and the end among its tokens: it
  gives the same tokenizer as `read`, which reads a merges.txt with the
  vocab.json beside it.

  Raises:
    UserError: if the file is missing or is not such a tokenizer.
  """
  import tokenizers  # slow, and not every command reads text

  vocabulary, merges = FORMS[0]
  if epath.Path(path).name == merges:
    return read(epath.Path(path).parent / vocabulary, path)
  try:
    text = epath.Path(path).read_text()
    bpe = tokenizers.Tokenizer.from_str(text)
    if bpe.token_to_id(START) is not None:
      model = parse_json(text)["model"]
      # Older files join the two pieces of a merge by a space.
      merges = [
        tuple(m.split(" ") if isinstance(m, str) else m)
        for m in model["merges"]
      ]
      return _agreeing(_clip_bpe(merges, path), model["vocab"], path, path)
  except UserError:
    raise
  except Exception as error:  # tokenizers raises nothing more specific
    raise UserError(
      f"Cannot read the tokenizer {path}: {error}. It must be the "
      "tokenizer.json of Hugging Face's `tokenizers`."
    ) from error
  return Tokenizer(bpe)


# --- CLIP's tokenizer from the files of Hugging Face's folders ----------------

START, END = "<|startoftext|>", "<|endoftext|>"


def read(vocabulary: epath.PathLike, merges: epath.PathLike) -> Tokenizer:
  """Builds the released CLIP's tokenizer.

  Args:
    vocabulary: path of `vocab.json`, which only has to agree.
    merges: path of `merges.txt`.

  Raises:
    UserError: if a file is missing, or they are not those of CLIP.
  """
  tokenizer = clip_bpe(merges)
  try:
    ids = parse_json(epath.Path(vocabulary).read_bytes())
  except (OSError, ValueError) as error:
    raise UserError(
      f"Cannot read {vocabulary} ({type(error).__name__}: {error}): it is "
      "missing or damaged. Fetch it again."
    ) from None
  return _agreeing(tokenizer, ids, vocabulary, merges)


def _agreeing(
  tokenizer: Tokenizer,
  ids: Any,
  vocabulary: epath.PathLike,
  merges: epath.PathLike,
) -> Tokenizer:
  """Returns the tokenizer of `merges`, if `ids` of `vocabulary` are its own."""
  vocab = tokenizer.bpe.get_vocab()
  vocab |= {START: len(vocab), END: len(vocab) + 1}
  if ids != vocab:
    ids = ids if isinstance(ids, dict) else {}
    odd = [token for token, i in vocab.items() if ids.get(token) != i]
    raise UserError(
      f"{vocabulary} is not the vocabulary of CLIP that {merges} makes: it has "
      f"{len(ids):,} tokens, not {len(vocab):,}, or other ids for {len(odd):,}"
      f" of these, such as {', '.join(odd[:3]) or 'none'}. Only the vocabulary "
      "of OpenAI's CLIP is supported: fetch it again."
    )
  return tokenizer


def pad_clip(
  tokens: np.ndarray, tokenizer: Tokenizer, pad_token: str
) -> np.ndarray:
  """Replaces the zeros after each end by another token.

  Args:
    tokens: int32 [n, l] of `Tokenizer.clip_tokens`.
    tokenizer: that made them.
    pad_token: END, or one of the vocabulary.

  Returns:
    int32 [n, l].

  Raises:
    UserError: about a token that is not in the vocabulary.
  """
  end = tokenizer.clip_vocab_size - 1
  number = end if pad_token == END else tokenizer.bpe.token_to_id(pad_token)
  if number is None:
    raise UserError(
      f"The prompts are to be filled up with {pad_token!r}, which is no token "
      "of this vocabulary: give the tokenizer that belongs to the weights."
    )
  after = np.arange(tokens.shape[1]) > (tokens == end).argmax(-1)[:, None]
  return np.where(after, np.int32(number), tokens)
