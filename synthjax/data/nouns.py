"""The table of nouns that `build_senses` writes and `senses` reads.

It lies in label_spaces, beside the licence of WordNet. What it does not know
stands below.
"""

import functools
import gzip
import pathlib
from typing import NamedTuple

# What the table calls by a letter.
BRANCHES = dict(
  zip(
    "abcdefghijklmnopqrstuvw",
    (
      "animal",
      "plant",
      "food",
      "body part",
      "person",
      "phenomenon",
      "substance",
      "musical instrument",
      "weapon",
      "vehicle",
      "clothing",
      "jewellery",
      "building",
      "appliance",
      "toy",
      "tool",
      "container",
      "furniture",
      "sports equipment",
      "device",
      "place",
      "game",
      "thing",
    ),
    strict=True,
  )
)
TABLE = pathlib.Path(__file__).parent / "label_spaces" / "senses.tsv.gz"

# Meanings that stand although the counts, of texts of 1961, do not say so.
STANDING = {
  ("bank", "n02787772"),  # the building
  ("date", "n07765073"),  # the fruit
  ("iris", "n05319936"),  # of an eye
  ("iris", "n12411922"),
  ("kite", "n03621473"),  # the toy
  ("squash", "n07715561"),  # the vegetable
}
# Names of several things of no kind that is told apart above.
TOLD = {"bow", "spade", "tie"}
# Meanings that are younger than WordNet: name -> branch and what it is.
YOUNGER = {
  "jaguar": ("vehicle", "a British car"),
  "mustang": ("vehicle", "an American sports car"),
  "tablet": ("device", "a flat computer with a touch screen"),
  "drone": ("vehicle", "a small aircraft with four rotors"),
  "router": ("device", "a box of a computer network"),
}
NOT_NAMED = {"n02083672", "n02570164"}  # their usual words insult


class Row(NamedTuple):
  """A meaning; see `build_senses`."""

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
  found: dict[str, list[int]] = {}
  for i, row in enumerate(table()[0]):
    for word in dict.fromkeys(word.lower() for word, *_ in row.words):
      found.setdefault(word, []).append(i)
  return found


@functools.cache
def numbers() -> dict[str, int]:
  """Returns ImageNet's id -> row."""
  return {row.key: i for i, row in enumerate(table()[0])}
