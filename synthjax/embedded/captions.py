"""Captioned drawings: what the embedded generator and encoder learn from."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.embedded import world
from synthjax.runtime.errors import (
  SHARE,
  TEXTS,
  check_fields,
  check_values,
  one_of,
  unknown_names,
)


def open_captioned(
  split: str,
  *,
  subcategories: Sequence[str] = (),
  leave_out: Sequence[str] = (),
) -> world.Source:
  """Opens a split, or a part of it.

  Args:
    split: a key of `embedded.SPLITS`.
    subcategories: of Unicode, such as "animal-bird"; empty takes all.
    leave_out: categories of Unicode, such as "Symbols".

  Raises:
    UserError: about a subcategory or category that no concept has.
  """
  concepts = world.concepts()
  known = {concept.category for concept in concepts}
  if unknown := [name for name in leave_out if name not in known]:
    raise unknown_names("category", unknown, known)
  known = {concept.subcategory for concept in concepts}
  if unknown := [name for name in subcategories if name not in known]:
    raise unknown_names("subcategory", unknown, known)
  source = world.open_split(split)
  kept = [
    i
    for i, (_, _, concept) in enumerate(source.rows)
    if concepts[concept].category not in leave_out
    and (not subcategories or concepts[concept].subcategory in subcategories)
  ]
  return dataclasses.replace(
    source,
    rows=tuple(source.rows[i] for i in kept),
    labels=tuple(source.labels[i] for i in kept),
  )


def check_captioned(fields: Mapping[str, Any], *, name: str) -> None:
  """Checks a block `data`: of `open_captioned`, and `name_share`.

  Args:
    fields: of the block.
    name: of the task, for the message.

  Raises:
    UserError: about names and values, or a part that no concept is of.
  """
  known = {
    "split": one_of(world.SPLITS),
    "name_share": SHARE,
    "subcategories": TEXTS,
    "leave_out": TEXTS,
  }
  needed = ("split", "name_share")
  check_fields(f"config.{name}.data", fields, known, needed)
  check_values(f"config.{name}.data", fields, known)
  open_captioned(**{k: v for k, v in fields.items() if k != "name_share"})


def name_more(example: dict, rng: np.random.Generator, *, share: float) -> dict:
  """Forgets an example's keywords, so that its caption is its name.

  Args:
    example: with `phrases`, the name first.
    rng: of this example.
    share: of the examples.
  """
  if rng.random() < share:
    return example | {"phrases": example["phrases"][:1]}
  return example


def digest() -> str:
  """Returns the SHA-256 of the embedded set."""
  whole = hashlib.sha256()
  for name in ("concepts.json", "images.zip"):
    whole.update((world.FOLDER / name).read_bytes())
  return whole.hexdigest()


def unknown_words(texts: Iterable[str]) -> list[str]:
  """Lists the words of texts that no caption of training holds.

  The tokenizer reads any word, as pieces of others or as bytes; but networks
  that never met it make nothing of it.

  Returns:
    Words in lower case, in the order that they occur, each once.
  """
  words = (word for text in texts for word in _words(text))
  return [word for word in dict.fromkeys(words) if word not in _known_words()]


@functools.cache
def _known_words() -> frozenset[str]:
  phrases = {
    phrase
    for concept in world.concepts()
    if concept.split == "train"
    for phrase in concept.phrases
  }
  styles = {word for words in world.STYLE_WORDS.values() for word in words}
  texts = [*phrases, *styles, *world.TEMPLATES, "an"]
  return frozenset(word for text in texts for word in _words(text))


def _words(text: str) -> list[str]:
  return re.findall(r"[^\W_]+", text.lower())
