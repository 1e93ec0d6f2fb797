"""Gemma's tokenizer, as SigLIP 2 reads texts by it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError

SPECIAL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
PAD, EOS = SPECIAL["<pad>"], SPECIAL["<eos>"]
# The files that hold it, one or the other: forms for `bpe.locate`.
FORMS = (("tokenizer.json",), ("tokenizer.model",))


class Gemma(NamedTuple):
  """A vocabulary, and SigLIP 2's use of it."""

  encode: Callable[[str], Sequence[int]]  # no special ids
  size: int

  def ids(self, text: str) -> list[int]:
    """Returns all ids of a text in lower case, without the end."""
    return [*self.encode(text.lower())]

  def siglip_tokens(self, texts: Sequence[str], context: int) -> np.ndarray:
    """Encodes texts: lower case, the end, and pads to the context, always.

    A text that is too long is cut, and keeps its end. SigLIP's text tower was
    trained on pads as on any token: other paddings have other features.

    Returns:
      tokens int32 [n, context].
    """
    tokens = np.full((len(texts), context), PAD, np.int32)
    for row, text in zip(tokens, texts, strict=True):
      ids = [*self.ids(text)[: context - 1], EOS]
      row[: len(ids)] = ids
    return tokens


@functools.cache
def load(path: epath.PathLike) -> Gemma:
  """Loads a tokenizer.json of `tokenizers`, or a model of SentencePiece.

  Raises:
    UserError: if the file is missing, damaged, or has other special ids.
  """
  path = epath.Path(path)
  try:
    data = path.read_bytes()
    of = _of_json if data[:1] == b"{" else _of_model
    gemma, found = of(data)
  except Exception as error:  # `tokenizers` raises plain exceptions
    raise UserError(
      f"Cannot read the tokenizer {path}: {error}. It must be the "
      "tokenizer.json or tokenizer.model of a SigLIP 2."
    ) from error
  if found != SPECIAL:
    raise UserError(
      f"{path} has the special tokens {found}, that of SigLIP 2 has {SPECIAL}: "
      "it belongs to another model."
    )
  return gemma


def _of_json(data: bytes) -> tuple[Gemma, dict[str, Any]]:
  import tokenizers  # slow, and not every command reads text

  # Its own template may add the end, and its padding is not SigLIP's.
  model = tokenizers.Tokenizer.from_buffer(data)
  model.no_padding()
  model.no_truncation()
  encode = lambda text: model.encode(text, add_special_tokens=False).ids
  found = {token: model.token_to_id(token) for token in SPECIAL}
  return Gemma(encode, model.get_vocab_size()), found


def _of_model(data: bytes) -> tuple[Gemma, dict[str, Any]]:
  import sentencepiece

  model = sentencepiece.SentencePieceProcessor(model_proto=data)
  ids = model.pad_id(), model.eos_id(), model.bos_id(), model.unk_id()
  found = dict(zip(SPECIAL, ids, strict=True))
  return Gemma(model.encode, model.get_piece_size()), found
