r"""Writes the table of nouns of `labels.wordnet`; users never need to.

  apt-get download wordnet-base && dpkg -x wordnet-base_*.deb $DIR
  pip download --no-deps --dest=$DIR timm && unzip -d $DIR $DIR/timm-*.whl
  python -m tools.build_senses --wordnet=$DIR/usr/share/wordnet \
    --synsets=$DIR/timm/data/_info/imagenet21k_miil_synsets.txt \
    --out=synthjax/labels/label_spaces/senses.tsv.gz

It keeps the synsets of WordNet 3.0 that an image can show: physical entities
and games, without the names of single persons and things; of those that lie on
a map, such as Turkey, the ones that WordNet's tagged texts use. cntlist(5WN)
describes the file of counts. A row has, between tabs,

  - how far its id, the noun's offset in data.noun, lies behind the last row's
  - its branch, a letter of wordnet.BRANCHES
  - "p" if ImageNet-21K-P has enough images of it (Ridnik et al. 2021), "i" for
    a single thing
  - its words, the usual one first, each with its place among the meanings of
    that word and how often the tagged texts use it so: "bat:1:2|chiropteran"
  - how many rows above or below each of its hypernyms is
  - what it is, shortened, if one of its words has another meaning here

The same input gives the same bytes.
"""

import argparse
import collections
import gzip
import pathlib
import re
from collections.abc import Collection, Mapping

from synthjax.labels.wordnet import BRANCHES
from tools.wordnet_files import (
  PHYSICAL,
  Noun,
  ancestors,
  read_nouns,
  read_places,
)

GAMES = ("n00523513", "n00456199", "n00430606")  # sports, two kinds of game
GLOSS_LENGTH = 60  # characters
# WordNet's files of lexicographers; of the rest, "thing".
FILES = {
  "05": "animal",
  "20": "plant",
  "13": "food",
  "08": "body part",
  "18": "person",
  "19": "phenomenon",
  "27": "substance",
}
# Branches of the others, by a meaning above; the first one counts.
BELOW = {
  "n03800933": "musical instrument",
  "n04565375": "weapon",
  "n04524313": "vehicle",
  "n03125870": "vehicle",  # craft
  "n03051540": "clothing",
  "n03597469": "jewellery",
  "n04105893": "building",  # room
  "n04341686": "building",  # structure
  "n03528263": "appliance",
  "n03964744": "toy",
  "n03563967": "tool",
  "n03094503": "container",
  "n03405725": "furniture",
  "n04285146": "sports equipment",
  "n03183080": "device",
  "n09287968": "place",  # geological formation
  "n09334396": "place",  # land
  "n09225146": "place",  # body of water
  "n00027167": "place",  # location
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for name, what in (
    ("--wordnet", "folder of WordNet 3.0"),
    ("--synsets", "file of ImageNet ids, one a line"),
    ("--out", "the .tsv.gz to write"),
  ):
    parser.add_argument(name, required=True, type=pathlib.Path, help=what)
  args = parser.parse_args()
  folder = args.wordnet
  nouns = read_nouns((folder / "data.noun").read_text())
  places = read_places((folder / "index.noun").read_text())
  counts = read_counts((folder / "cntlist.rev").read_text())
  pictured = set(args.synsets.read_text().split())
  rows = make_rows(nouns, places, counts, pictured)
  packed = gzip.compress("".join(rows).encode(), 9, mtime=0)
  args.out.write_bytes(packed)
  print(f"{len(rows):,} meanings, {len(packed):,} bytes")


def read_counts(text: str) -> dict[tuple[str, str, int], int]:
  """Reads cntlist.rev: (lemma, file, number in the file) -> tagged uses."""
  counts = {}
  for line in text.splitlines():
    key, _, count = line.split()
    lemma, _, rest = key.partition("%")
    kind, file, number, *_ = rest.split(":")
    if kind == "1":  # a noun
      counts[lemma, file, int(number)] = int(count)
  return counts


def branch_of(nouns: Mapping[str, Noun], key: str, above: set[str]) -> str:
  """Returns a name of BRANCHES, or "" for a meaning that no image shows.

  Args:
    nouns: every noun.
    key: of the meaning.
    above: ids of all meanings above it, and its own.
  """
  if above.intersection(GAMES):
    return "game"
  if PHYSICAL not in above:
    return ""
  file = nouns[key].file
  parts = (name for root, name in BELOW.items() if root in above)
  return FILES.get(file) or next(parts, "thing")


def make_rows(
  nouns: Mapping[str, Noun],
  places: Mapping[tuple[str, str], int],
  counts: Mapping[tuple[str, str, int], int],
  pictured: Collection[str],
) -> list[str]:
  """Returns the lines of the table; see above."""
  uses = {
    (key, word): counts.get((word.lower(), noun.file, number), 0)
    for key, noun in nouns.items()
    for word, number in zip(noun.words, noun.ids, strict=True)
  }
  kept = {}
  for key in sorted(nouns):
    branch = branch_of(nouns, key, {key} | ancestors(nouns, key))
    is_used = any(uses[key, word] for word in nouns[key].words)
    if branch and (not nouns[key].instance or branch == "place" and is_used):
      kept[key] = branch
  meanings = collections.Counter(
    word.lower() for key in kept for word in nouns[key].words
  )
  number = {key: i for i, key in enumerate(kept)}
  letter = {name: letter for letter, name in BRANCHES.items()}
  rows, last = [], 0
  for key, branch in kept.items():
    noun = nouns[key]
    words = [
      _word(word, places[word.lower(), key], uses[key, word])
      for word in noun.words
    ]
    above = [number[a] - number[key] for a in noun.above if a in number]
    several = any(meanings[word.lower()] > 1 for word in noun.words)
    flags_ = "p" * (key in pictured) + "i" * noun.instance
    rows.append(
      f"{int(key[1:]) - last}\t{letter[branch]}\t{flags_}\t"
      f"{'|'.join(words)}\t{' '.join(map(str, above))}\t"
      f"{shorten(noun.gloss) if several else ''}\n"
    )
    last = int(key[1:])
  return rows


def shorten(gloss: str) -> str:
  """Returns the beginning of a gloss, without examples and remarks."""
  text = re.sub(r"\([^)]*\)", "", gloss.split('; "')[0])
  text = " ".join(text.split()).replace(" ,", ",").split("; ")[0]
  if len(text) > GLOSS_LENGTH:
    text = text[:GLOSS_LENGTH].rpartition(" ")[0].rstrip(",;") + " ..."
  return text


def _word(word: str, place: int, count: int) -> str:
  text = word.replace("_", " ")
  if count:
    return f"{text}:{place}:{count}"
  return f"{text}:{place}" if place > 1 else text


if __name__ == "__main__":
  main()
