"""Says in few words what a noun of the table is: "a wading bird"."""

import re

from synthjax import articles
from synthjax.data import nouns

# What says too little about a meaning.
VAGUE = set(
  "animal|area|artifact|body part|covering|creature|depository|device|"
  "equipment|extremity|female|food|group|heavier-than-air craft|"
  "horny structure|implement|instrumentality|layer|material|matter|"
  "natural object|object|part|person|physical object|physical phenomenon|piece|"
  "pipe|placental|plant|process|region|structure|substance|support|system|thing|"
  "unit|way|whole".split("|")
)
# Meanings whose glosses say it in no plain words.
SAID = {"n05297523": "a part of the body"}
# No article stands before kinds of these branches, or of these last words.
UNCOUNTED = ("food", "phenomenon", "substance", "game")
MASSES = (
  *("baggage", "clothing", "equipment", "furniture", "light"),
  *("neckwear", "porcelain", "storage", "ware", "weather"),
)
_CUT = re.compile(
  r"[,;:]| (?:that|which|who|with|from|consisting|usually|used|having|whose|"
  r"in which|\.\.\.)(?: |$)"
)

_LOOSE = ("a", "an", "and", "by", "for", "in", "of", "on", "or", "the", "to")

# What begins a description, and says nothing; and where its noun has ended.
_KIND_OF = re.compile(
  r"((any|one) of )?((an?|the|some|various) )?"
  r"((kind|type|sort|species|breed|form|piece|pair|set)s? of )?((an?|the) )?"
)
_AFTER = re.compile(
  r"[^\w\s'-]|\b(?:and|as|at|by|for|found|from|having|held|in|kept|like|made|of|"
  r"on|or|played|seen|so|that|to|used|which|who|whose|with|without|worn)\b"
)


def head_word(description: str) -> str:
  """Returns the noun of a description: the "bird" of "a large wading bird"."""
  text = description.strip()
  text = text[_KIND_OF.match(text.lower()).end() :]
  words = _AFTER.split(text, maxsplit=1)[0].split()
  return words[-1] if words else ""


def describe(row: nouns.Row, lemma: str) -> str:
  """Says what a meaning is, by what lies right above it, or by its gloss."""
  if row.key in SAID:
    return SAID[row.key]
  kind = _kind(row, lemma)
  if kind:
    if row.branch in UNCOUNTED or kind.endswith(MASSES):
      return kind
    return f"{articles.article_of(kind)} {kind}"
  text = re.sub(
    r"^(any|one) of (the )?(various|several|numerous)? ?", "", row.gloss
  )
  text = _CUT.split(text.removesuffix(" ..."))[0]
  words = text.split()[:8]
  while words and words[-1] in _LOOSE:
    del words[-1]
  return " ".join(words) or row.branch


def _kind(row: nouns.Row, lemma: str) -> str:
  rows, _ = nouns.table()
  while row.above:
    row = rows[row.above[0]]
    # The first that usually means it: no "brass" for "brass instrument".
    known = [word for word, place, _ in row.words if place == 1]
    word = row.words[0][0]
    if word not in VAGUE and known:
      word = known[0]
    if word in VAGUE:
      return ""  # what is above is vaguer still
    if lemma not in word.split():
      return word
  return ""
