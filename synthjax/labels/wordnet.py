"""The table of WordNet's nouns, which `tools.build_senses` writes.

It lies in label_spaces, beside the licence of WordNet. Additions to it stand
below.
"""

import functools
import gzip
import pathlib
import re
from typing import NamedTuple

from synthjax.labels import articles

# Letter of the table -> branch.
BRANCHES = dict(
  zip(
    "abcdefghijklmnopqrstuvw",
    (
      *("animal", "plant", "food", "body part", "person", "phenomenon"),
      *("substance", "musical instrument", "weapon", "vehicle", "clothing"),
      *("jewellery", "building", "appliance", "toy", "tool", "container"),
      *("furniture", "sports equipment", "device", "place", "game", "thing"),
    ),
    strict=True,
  )
)
TABLE = pathlib.Path(__file__).parent / "label_spaces" / "senses.tsv.gz"

# Common meanings that the texts of 1961, which were counted, seldom use.
STANDING = {
  ("bank", "n02787772"),  # the building
  ("date", "n07765073"),  # the fruit
  ("iris", "n05319936"),  # of an eye
  ("iris", "n12411922"),
  ("kite", "n03621473"),  # the toy
  ("squash", "n07715561"),  # the vegetable
}
# Names of several things of one branch.
AMBIGUOUS = {"bow", "spade", "tie"}
# Meanings that are younger than WordNet: name -> branch and description.
YOUNGER = {
  "jaguar": ("vehicle", "a British car"),
  "mustang": ("vehicle", "an American sports car"),
  "tablet": ("device", "a flat computer with a touch screen"),
  "drone": ("vehicle", "a small aircraft with four rotors"),
  "router": ("device", "a box of a computer network"),
}
NOT_NAMED = {"n02083672", "n02570164"}  # their usual words insult


class Row(NamedTuple):
  """A meaning; see `tools.build_senses`."""

  key: str
  branch: str
  pictured: bool
  single: bool
  words: tuple[tuple[str, int, int], ...]  # word, its place and its uses
  above: tuple[int, ...]  # rows
  gloss: str


def find_lemma(name: str) -> str:
  """Returns the word of `index` that a name is, or the name in lower case.

  Case, articles and plurals do not count.
  """
  words = name.lower().replace("_", " ").split()
  if len(words) > 1 and words[0] in ("a", "an", "the"):
    words = words[1:]
  lemma = " ".join(words)
  if lemma in index():
    return lemma
  for ending, singular in (
    ("mice", "mouse"),
    ("geese", "goose"),
    ("ves", "f"),
    ("ves", "fe"),
    ("ies", "y"),
    ("es", ""),
    ("s", ""),
  ):
    if lemma.endswith(ending):
      stem = lemma.removesuffix(ending) + singular
      if stem in index():
        return stem
  return lemma


@functools.cache
def table() -> tuple[tuple[Row, ...], dict[int, tuple[int, ...]]]:
  """Reads all rows, and the rows right below each."""
  rows, below, offset = [], {}, 0
  text = gzip.decompress(TABLE.read_bytes()).decode()
  for i, line in enumerate(text.splitlines()):
    step, branch, marks, words, above, gloss = line.split("\t")
    offset += int(step)
    upper = tuple(i + int(number) for number in above.split())
    for number in upper:
      below.setdefault(number, []).append(i)
    rows.append(
      Row(
        f"n{offset:08d}",
        BRANCHES[branch],
        "p" in marks,
        "i" in marks,
        tuple(_read_word(word) for word in words.split("|")),
        upper,
        gloss,
      )
    )
  return tuple(rows), {i: tuple(kinds) for i, kinds in below.items()}


def _read_word(text: str) -> tuple[str, int, int]:
  word, _, rest = text.partition(":")
  place, _, uses = rest.partition(":")
  return word, int(place or 1), int(uses or 0)


@functools.cache
def index() -> dict[str, list[int]]:
  """Returns word in lower case -> rows."""
  rows_of: dict[str, list[int]] = {}
  for i, row in enumerate(table()[0]):
    for word in dict.fromkeys(word.lower() for word, *_ in row.words):
      rows_of.setdefault(word, []).append(i)
  return rows_of


@functools.cache
def numbers() -> dict[str, int]:
  """Returns ImageNet's id -> row."""
  return {row.key: i for i, row in enumerate(table()[0])}


# --- descriptions -------------------------------------------------------------

# Words that say too little about a meaning.
VAGUE = set(
  "animal|area|artifact|body part|covering|creature|depository|device|"
  "equipment|extremity|female|food|group|heavier-than-air craft|"
  "horny structure|implement|instrumentality|layer|material|matter|"
  "natural object|object|part|person|physical object|physical phenomenon|piece|"
  "pipe|placental|plant|process|region|structure|substance|support|system|thing|"
  "unit|way|whole".split("|")
)
# Meanings whose glosses are not plain.
DESCRIBED = {"n05297523": "a part of the body"}
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

# Empty words that begin a description; and where its noun has ended.
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


def describe(row: Row, lemma: str) -> str:
  """Describes a meaning by the one right above it, or by its gloss."""
  if row.key in DESCRIBED:
    return DESCRIBED[row.key]
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


def _kind(row: Row, lemma: str) -> str:
  rows, _ = table()
  while row.above:
    row = rows[row.above[0]]
    # The first that usually means it: no "brass" for "brass instrument".
    usual = [word for word, place, _ in row.words if place == 1]
    word = row.words[0][0]
    if word not in VAGUE and usual:
      word = usual[0]
    if word in VAGUE:
      return ""  # the meanings above are vaguer still
    if lemma not in word.split():
      return word
  return ""
