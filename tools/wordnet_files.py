"""The nouns in the files of WordNet 3.0, as wndb(5WN) describes them."""

from collections.abc import Mapping
from typing import NamedTuple

PHYSICAL = "n00001930"  # physical entity
HYPERNYMS = ("@", "@i")  # of kinds, of instances


class Noun(NamedTuple):
  """A meaning in WordNet."""

  file: str  # number of the lexicographers' file
  words: tuple[str, ...]  # the usual one first
  ids: tuple[int, ...]  # of the words, as keys of senses have them
  above: tuple[str, ...]  # hypernyms
  instance: bool  # a single thing
  gloss: str


def read_nouns(text: str) -> dict[str, Noun]:
  """Reads data.noun: ImageNet's id -> meaning."""
  nouns = {}
  for line in text.splitlines():
    if line.startswith("  "):  # of the licence
      continue
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    end = 4 + 2 * int(fields[3], 16)
    pointers = list(
      zip(fields[end + 1 :: 4], fields[end + 2 :: 4], strict=False)
    )
    nouns[f"n{fields[0]}"] = Noun(
      fields[1],
      tuple(fields[4:end:2]),
      tuple(int(number, 16) for number in fields[5:end:2]),
      tuple(f"n{to}" for kind, to in pointers if kind in HYPERNYMS),
      any(kind == "@i" for kind, _ in pointers),
      gloss.strip(),
    )
  return nouns


def read_licence(text: str) -> str:
  """Reads the licence at the head of data.noun, without its line numbers."""
  lines = [line for line in text.splitlines() if line.startswith("  ")]
  texts = ["".join(line.split(maxsplit=1)[1:]).rstrip() for line in lines]
  return "\n".join(texts) + "\n"


def read_places(text: str) -> dict[tuple[str, str], int]:
  """Reads index.noun: (lemma, id) -> place among the lemma's meanings."""
  places = {}
  for line in text.splitlines():
    if not line.startswith("  "):
      fields = line.split()
      for i, offset in enumerate(fields[-int(fields[2]) :]):
        places[fields[0], f"n{offset}"] = i + 1
  return places


def ancestors(nouns: Mapping[str, Noun], key: str) -> set[str]:
  """Returns the ids of all meanings above one, without itself."""
  above, waiting = set(), [key]
  while waiting:
    new = set(nouns[waiting.pop()].above) - above
    above |= new
    waiting += new
  return above
