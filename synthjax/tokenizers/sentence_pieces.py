"""Text to the pieces that T5 reads and writes, by a spiece.model."""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError

PAD, EOS, UNK = 0, 1, 2
END = "</s>"  # EOS, where a text spells it out


class Pieces(NamedTuple):
  """A SentencePiece model under T5's conventions.

  Ids beyond its own, up to T5's 32,128, mean nothing in a text: 100 are the
  blanks of pre-training ("<extra_id_0>" and so on), the others pad the table.
  """

  model: Any  # sentencepiece.SentencePieceProcessor

  @property
  def size(self) -> int:
    return self.model.get_piece_size()

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, with EOS at their end.

    A literal "</s>" is EOS, and one at the end is not doubled, as in Hugging
    Face's tokenizer in Python (transformers 2 to 4, T5Tokenizer). The one in
    Rust, which is all that transformers 5 has, puts a second EOS behind it.
    """
    ids = []
    for part in self.model.encode(text.split(END)):
      ids += [*part, EOS]
    # The text that ends in "</s>" has nothing behind it.
    return ids[:-1] if len(ids) > 1 and ids[-2] == EOS else ids

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids, without pads, EOS and ids beyond the pieces."""
    size = self.size
    kept = [int(i) for i in ids if i not in (PAD, EOS) and i < size]
    return self.model.decode(kept)

  def tokens(
    self, texts: Sequence[str], length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts that have at most `length` ids.

    Returns:
      tokens int32 [n, l], padded, and mask bool [n, l], true on the text.
    """
    tokens = np.full((len(texts), length), PAD, np.int32)
    mask = np.zeros((len(texts), length), bool)
    for row, text in enumerate(texts):
      ids = self.encode(text)
      tokens[row, : len(ids)] = ids
      mask[row, : len(ids)] = True
    return tokens, mask


@functools.cache
def load(path: str | os.PathLike) -> Pieces:
  """Loads a spiece.model, local or `gs://`.

  Raises:
    UserError: if the file is missing, damaged, or has other special ids.
  """
  import sentencepiece  # not every command reads text

  try:
    data = epath.Path(path).read_bytes()
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
  except (OSError, RuntimeError) as error:
    raise UserError(
      f"Cannot read the tokenizer {path}: {error}. It must be the spiece.model "
      "that the T5 was trained with."
    ) from error
  special = model.pad_id(), model.eos_id(), model.unk_id()
  if special != (PAD, EOS, UNK):
    raise UserError(
      f"{path} has pad, eos and unk at {special}, T5 at {(PAD, EOS, UNK)}: it "
      "belongs to another model."
    )
  return Pieces(model)
