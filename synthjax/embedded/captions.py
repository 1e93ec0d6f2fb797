"""Captioned drawings: what the embedded generator and encoder learn from."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Annotated

import numpy as np

from synthjax.config import schema
from synthjax.embedded import world
from synthjax.runtime.errors import unknown_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioned:
  """A block `data` of captioned drawings."""

  split: Annotated[str, schema.one_of(world.SPLITS)]
  name_share: schema.Share  # of the drawings whose caption is their name
  # Unicode subcategories that are taken, such as "animal-bird"; by default all.
  subcategories: schema.Texts = ()
  # Unicode categories that are left out, such as "Symbols".
  leave_out: schema.Texts = ()
  # Styles that are left out.
  leave_out_styles: schema.Texts = ()

  def problems(self) -> Iterable[str]:
    for field, kind in (
      ("leave_out", "category"),
      ("subcategories", "subcategory"),
    ):
      allowed = {getattr(concept, kind) for concept in world.concepts()}
      if unknown := [x for x in getattr(self, field) if x not in allowed]:
        yield f"{field}: {unknown_names(kind, unknown, allowed)}"
    styles = [s for s in world.STYLES if world.STYLES[s] == "train"]
    if unknown := [x for x in self.leave_out_styles if x not in styles]:
      yield f"leave_out_styles: {unknown_names('style', unknown, styles)}"

  def open(self) -> world.Source:
    """Opens the drawings."""
    concepts, source = world.concepts(), world.open_split(self.split)
    kept = [
      i
      for i, (style, _, concept) in enumerate(source.rows)
      if style not in self.leave_out_styles
      and concepts[concept].category not in self.leave_out
      and (
        not self.subcategories
        or concepts[concept].subcategory in self.subcategories
      )
    ]
    return dataclasses.replace(
      source,
      rows=tuple(source.rows[i] for i in kept),
      labels=tuple(source.labels[i] for i in kept),
    )


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
