"""Text to token ids, as GLIDE wants them and as CLIP does."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.errors import UserError

EMBEDDED = pathlib.Path(__file__).parent.parent / "embedded" / "tokenizer.json"


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
    """Returns the ids of a text, lower-cased and with single spaces."""
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
      ids = self.encode(text)[:context]
      tokens[row, : len(ids)] = ids
      mask[row, : len(ids)] = True
    return tokens, mask

  def clip_tokens(self, texts: Sequence[str], context: int) -> np.ndarray:
    """Encodes texts for CLIP: start, text, end, then zeros.

    A text that is too long is cut, and keeps its end.

    Returns:
      tokens int32 [n, l].
    """
    assert context >= 2, "There must be room for the start and the end."
    start = self.bpe.get_vocab_size()
    tokens = np.zeros((len(texts), context), np.int32)
    for row, text in enumerate(texts):
      ids = [start, *self.encode(text)[: context - 2], start + 1]
      tokens[row, : len(ids)] = ids
    return tokens


def locate(name: str) -> pathlib.Path:
  """Finds a tokenizer's file: a path, or "embedded:NAME" of the package."""
  if name.startswith("embedded:"):
    return EMBEDDED.parent / name.removeprefix("embedded:")
  return pathlib.Path(name).expanduser()


@functools.cache
def load(path: str | pathlib.Path = EMBEDDED) -> Tokenizer:
  """Loads a tokenizer.json of Hugging Face's `tokenizers`; by default ours.

  Raises:
    UserError: if the file is missing or is not such a tokenizer.
  """
  import tokenizers  # slow, and not every command reads text

  try:
    bpe = tokenizers.Tokenizer.from_str(epath.Path(path).read_text())
  except Exception as error:  # tokenizers raises nothing more specific
    raise UserError(
      f"Cannot read the tokenizer {path}: {error}. It must be the "
      "tokenizer.json of Hugging Face's `tokenizers`."
    ) from error
  return Tokenizer(bpe)
