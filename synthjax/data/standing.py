"""Which meanings of a word stand: those that people and pictures know.

A meaning stands if it is the usual word of something that ImageNet-21K-P has
images of, or if WordNet's tagged texts use the word for it often enough. The
numbers below were chosen by looking at what they flag among ImageNet's 1,000
names.
"""

import re

from synthjax.data import nouns

# One meaning is so common above this many tagged uses that only such count as
# have this share of them.
COMMON, SHARE = 25, 0.05
LEAST_USES, LEAST_SHARE = 2, 0.2  # that let a meaning stand with no pictures
PERSON_USES = 3  # more than figures of speech have


def stands(row: nouns.Row, lemma: str, uses: int, most: int) -> bool:
  """Tells whether people and pictures know a meaning of a word.

  Args:
    row: the meaning.
    lemma: the word.
    uses: of the word in this meaning, in WordNet's tagged texts.
    most: uses of the meaning of the word that has most.
  """
  if (lemma, row.key) in nouns.STANDING:
    return True
  if row.single:
    return uses > 0
  usual = row.words[0][0].lower() == lemma
  if row.branch in ("person", "phenomenon") and uses < PERSON_USES:
    # "He is a tiger"; and microwaves are seen as ovens alone.
    known = row.pictured and usual or uses == most > 0
    often = uses >= LEAST_SHARE * most and most < COMMON
    return known and often and not _is_figure(row)
  if uses < max(most, 1) and re.search(
    rf"\b{re.escape(lemma)}(s|es)?\b", row.gloss
  ):
    return False  # the flesh, fur, ball or player of the other meaning
  if uses == most > 0 or uses >= max(LEAST_USES, LEAST_SHARE * most):
    return True
  known = usual or uses >= LEAST_SHARE * most > 0
  return row.pictured and known and (most < COMMON or uses >= SHARE * most)


def _is_figure(row: nouns.Row) -> bool:
  """Tells whether a person is called so in jest or anger: "a skunk"."""
  above = nouns.table()[0][row.above[0]] if row.above else row
  figures = ("person", "unpleasant person", "unpleasant woman", "large person")
  return above.words[0][0] in figures
