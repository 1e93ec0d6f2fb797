"""Qwen3's tokenizer: prompts for FLUX.2, questions, and what is answered."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.runtime.errors import UserError

PAD = "<|endoftext|>"
END = "<|im_end|>"  # of an answer
# What Qwen3's chat template puts around a message that it is to answer without
# thinking about it.
BEFORE = "<|im_start|>user\n"
BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_TOKENS = (PAD, "<|im_start|>", "<|im_end|>", "<think>", "</think>")


class Qwen(NamedTuple):
  """A byte-level BPE, in which special tokens may be spelt out."""

  bpe: Any  # tokenizers.Tokenizer

  @property
  def largest(self) -> int:
    """The largest id that a text can have."""
    return max(self.bpe.get_vocab().values())

  def ids(self, text: str) -> list[int]:
    """Returns the ids of a text."""
    return self.bpe.encode(text, add_special_tokens=False).ids

  def id_of(self, token: str) -> int:
    """Returns the id of a special token."""
    return self.bpe.token_to_id(token)

  def chat_ids(self, text: str) -> list[int]:
    """Encodes a text as a user's message, with the beginning of an answer."""
    return self.ids(f"{BEFORE}{text}{BEHIND}")

  def decode(self, ids: Sequence[int]) -> str:
    """Returns a text without special tokens."""
    return self.bpe.decode(list(ids), skip_special_tokens=True)

  def chat_tokens(
    self, texts: Sequence[str], context: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts as `chat_ids` does.

    Returns:
      tokens int32 [n, context], cut, or filled up by PAD; and mask bool
      [n, context], true on the rest.
    """
    tokens = np.full((len(texts), context), self.id_of(PAD), np.int32)
    mask = np.zeros((len(texts), context), bool)
    for row, text in enumerate(texts):
      ids = self.chat_ids(text)[:context]
      tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return tokens, mask


@functools.cache
def load(path: epath.PathLike) -> Qwen:
  """Loads a tokenizer.json.

  Raises:
    UserError: if the file is missing, damaged, or that of another model.
  """
  import tokenizers  # slow, and not every command reads text

  try:
    bpe = tokenizers.Tokenizer.from_str(epath.Path(path).read_text())
  except Exception as error:  # `tokenizers` raises plain exceptions
    raise UserError(
      f"Cannot read the tokenizer {path}: {error}. It must be the "
      "tokenizer.json of a Qwen3."
    ) from error
  if lacking := [t for t in _TOKENS if bpe.token_to_id(t) is None]:
    raise UserError(
      f"{path} has no {', '.join(lacking)}: it belongs to another model than "
      "Qwen3."
    )
  bpe.no_padding()
  bpe.no_truncation()
  return Qwen(bpe)
