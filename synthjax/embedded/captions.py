"""Captioned drawings: what the embedded generator and encoder learn from."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from synthjax.config import schema
from synthjax.embedded import world
from synthjax.runtime.errors import UserError, unknown_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioned:
  """A block `data` of captioned drawings."""

  split: Annotated[str, schema.one_of(world.SPLITS)]
  name_share: schema.Share  # of the drawings whose caption is their name
  # Unicode subcategories that are taken, such as "animal-bird"; by default all.
  subcategories: schema.Texts = ()
  # Unicode categories that are left out, such as "Symbols".
  leave_out: schema.Texts = ()

  def problems(self) -> Iterable[str]:
    try:
      self.open()
    except UserError as error:
      yield str(error)

  def open(self) -> world.Source:
    return open_captioned(
      self.split, subcategories=self.subcategories, leave_out=self.leave_out
    )


def open_captioned(
  split: str,
  *,
  subcategories: Sequence[str] = (),
  leave_out: Sequence[str] = (),
) -> world.Source:
  """Opens a split, or a part of it; the arguments are fields of `Captioned`.

  Raises:
    UserError: about a subcategory or category that no concept has.
  """
  concepts = world.concepts()
  for kind, names in (("category", leave_out), ("subcategory", subcategories)):
    known = {getattr(concept, kind) for concept in concepts}
    if unknown := [name for name in names if name not in known]:
      raise unknown_names(kind, unknown, known)
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
  """Raises a UserError about a block `data` of the task `name`."""
  schema.read(Captioned, fields, f"config.{name}.data")


def name_more(example: dict, rng: np.random.Generator, *, share: float) -> dict:
  """Drops the keywords of a share of the examples: their caption is the name.

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

  The tokenizer reads any word, as pieces of others or as bytes; but it means
  nothing to networks that were not trained with it.

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
