"""CLIP's tokenizer from the two files that Hugging Face's folders hold."""

import json

import numpy as np
from etils import epath

from synthjax.errors import UserError
from synthjax.text import tokenize

START, END = "<|startoftext|>", "<|endoftext|>"


def read(
  vocabulary: epath.PathLike, merges: epath.PathLike
) -> tokenize.Tokenizer:
  """Builds the released CLIP's tokenizer.

  Args:
    vocabulary: path of `vocab.json`, which only has to agree.
    merges: path of `merges.txt`.

  Raises:
    UserError: if a file is missing, or they are not those of CLIP.
  """
  words = tokenize.clip_bpe(merges)
  vocab = words.bpe.get_vocab()
  want = vocab | {START: len(vocab), END: len(vocab) + 1}
  try:
    found = json.loads(epath.Path(vocabulary).read_text())
  except (OSError, ValueError) as error:
    raise UserError(
      f"Cannot read {vocabulary} ({type(error).__name__}: {error}): it is "
      "missing or damaged. Fetch it again."
    ) from None
  if found != want:
    found = found if isinstance(found, dict) else {}
    odd = [token for token, i in want.items() if found.get(token) != i]
    raise UserError(
      f"{vocabulary} is not the vocabulary of CLIP that {merges} makes: it has "
      f"{len(found):,} tokens, not {len(want):,}, or other ids for {len(odd):,}"
      f" of these, such as {', '.join(odd[:3]) or 'none'}. Only the vocabulary "
      "of OpenAI's CLIP is known: fetch both files again."
    )
  return words


def pad(
  tokens: np.ndarray, words: tokenize.Tokenizer, pad_token: str
) -> np.ndarray:
  """Replaces the zeros after each end by another token.

  Args:
    tokens: int32 [n, l] of `Tokenizer.clip_tokens`.
    words: the tokenizer.
    pad_token: END, or one of the vocabulary.

  Returns:
    int32 [n, l].

  Raises:
    UserError: about a token that is not in the vocabulary.
  """
  end = words.clip_vocab_size - 1
  number = end if pad_token == END else words.bpe.token_to_id(pad_token)
  if number is None:
    raise UserError(
      f"The prompts are to be filled up with {pad_token!r}, which is no token "
      "of this vocabulary: give the tokenizer that belongs to the weights."
    )
  after = np.arange(tokens.shape[1]) > (tokens == end).argmax(-1)[:, None]
  return np.where(after, np.int32(number), tokens)
