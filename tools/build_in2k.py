r"""Draws the label space IN-2K; users never need to, as the package holds it.

  apt-get download wordnet-base && dpkg -x wordnet-base_*.deb $DIR
  pip download --no-deps --dest=$DIR timm && unzip -d $DIR $DIR/timm-*.whl
  python -m tools.build_in2k --wordnet=$DIR/usr/share/wordnet \
    --synsets=$DIR/timm/data/_info/imagenet21k_miil_synsets.txt \
    --yaml=synthjax/labels/label_spaces

The paper adds to ImageNet-1K 1,000 classes of ImageNet-21K, drawn at random and
disjoint from it, and says neither which nor how. Here a class is drawn from the
synsets

  - of ImageNet-21K-P (Ridnik et al. 2021), the 11,221 with enough images
  - that are no class of ImageNet-1K, and lie neither above nor below one
  - that have no other synset of ImageNet-21K-P below them, as broad ones
    ("artifact") show nothing in particular: so no two of those drawn lie above
    one another, either
  - that are physical entities, but neither people nor parts of bodies, as
    filtered GLIDE was trained without images of people, nor two whose usual
    words insult

"Above" is by hypernyms and instance hypernyms of WordNet 3.0, whose noun
offsets are ImageNet's ids. The draw takes those of the smallest hashes, which
no library's generator of random numbers can change. Files written:

  in2k.yaml          ImageNet's classes, then those drawn, by their ids
  WORDNET_LICENSE    WordNet's licence, which every copy must have beside it
"""

import argparse
import hashlib
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from synthjax.labels import class_names, spaces
from synthjax.runtime.errors import UserError
from tools import wordnet_files
from tools.wordnet_files import PHYSICAL, Noun, ancestors

SEED = 0
NUM_DRAWN = 1000
NOT_DRAWN = (
  "n00007846",  # person
  "n05220461",  # body part
  # Their usual words insult: a female dog, a grouper.
  "n02083672",
  "n02570164",
)
TAXON = "n07992450"  # taxonomic group: "Buteo"

HEADER = """\
# IN-2K: ImageNet-1K's classes, and {num_drawn} of {candidates} further ones of
# ImageNet-21K, drawn by tools/build_in2k.py. They are not those
# of the paper, whose list was not released. Keys are the synsets. The further
# names are WordNet 3.0's, Copyright 2006 by Princeton University; its licence
# is in WORDNET_LICENSE.
# seed={seed} sha256={sha256}
"""


class WordNet(NamedTuple):
  """The nouns."""

  nouns: dict[str, Noun]  # by ImageNet's ids
  usual: dict[str, str]  # lemma in lower case -> id of its commonest meaning
  license: str


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for name, what in (
    ("--wordnet", "folder of WordNet 3.0 with data.noun and index.noun"),
    ("--synsets", "file with an ImageNet id, such as n01440764, on each line"),
    ("--yaml", "folder to write in"),
  ):
    parser.add_argument(name, required=True, type=pathlib.Path, help=what)
  args = parser.parse_args()
  wordnet, out = read_wordnet(args.wordnet), args.yaml
  listed = args.synsets.read_text().split()
  first = {c.key: c.name for c in spaces.load_space("imagenet").classes}
  allowed = candidates(wordnet, listed, first)
  drawn = draw(allowed, NUM_DRAWN, SEED)
  names = choose_names(wordnet, drawn, first)
  shipped = (spaces.FOLDER / "imagenet.yaml").read_text()
  (out / "in2k.yaml").write_text(space_text(shipped, names, len(allowed)))
  (out / "WORDNET_LICENSE").write_text(wordnet.license)
  print(f"{len(drawn)} of {len(allowed)} candidates, {fingerprint(drawn)}")


def read_wordnet(folder: pathlib.Path) -> WordNet:
  """Reads the nouns of a folder of WordNet's files."""
  text = (folder / "data.noun").read_text()
  places = wordnet_files.read_places((folder / "index.noun").read_text())
  usual = {lemma: key for (lemma, key), place in places.items() if place == 1}
  nouns = wordnet_files.read_nouns(text)
  return WordNet(nouns, usual, wordnet_files.read_licence(text))


def candidates(
  wordnet: WordNet, listed: Iterable[str], first: Collection[str]
) -> list[str]:
  """Returns the synsets that may be drawn, in order; see above.

  Args:
    wordnet: every noun.
    listed: ids of synsets to choose from.
    first: ids of the earlier classes.

  Raises:
    UserError: naming the ids that WordNet does not hold.
  """
  listed = set(listed)
  if unknown := sorted((listed | set(first)) - wordnet.nouns.keys()):
    raise UserError(
      f"{len(unknown)} synsets are not in this WordNet: "
      f"{', '.join(unknown[:10])}. The ids of ImageNet are offsets in WordNet "
      "3.0 alone, as n01440764; give --wordnet its folder."
    )
  above = {key: ancestors(wordnet.nouns, key) for key in listed | set(first)}
  above_first = set().union(*(above[key] for key in first))
  above_listed = set().union(*(above[key] for key in listed))
  return [
    key
    for key in sorted(listed - set(first) - above_first - above_listed)
    if not above[key] & set(first)
    and PHYSICAL in above[key]
    and not {key, *above[key]} & set(NOT_DRAWN)
  ]


def draw(keys: Iterable[str], count: int, seed: int) -> list[str]:
  """Draws `count` of the keys, each as likely as another; returns them sorted.

  Raises:
    UserError: when there are fewer.
  """
  keys = set(keys)
  if len(keys) < count:
    raise UserError(
      f"Only {len(keys)} synsets may be drawn, and {count} are needed: give "
      "--synsets a longer list."
    )
  rank = lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest()
  return sorted(sorted(keys, key=rank)[:count])


def choose_names(
  wordnet: WordNet, drawn: Iterable[str], first: Mapping[str, str]
) -> dict[str, str]:
  """Returns id -> name, for generator and classifier.

  The name is the first of the synset's words that commonly means it, is no word
  or name of an earlier class, and is not scientific ("Buteo buteo"). If there
  is none, it is the first word and its kind, "buzzard (hawk)", as CLIP's
  authors write "kite (bird of prey)"; or that word alone if it ends with the
  kind, "tea bag".

  Args:
    wordnet: every noun.
    drawn: ids to name.
    first: id -> name of the earlier classes.
  """
  canonical = class_names.canonical
  taken = {canonical(name) for name in first.values()}
  taken |= {canonical(w) for key in first for w in wordnet.nouns[key].words}
  names = {}
  for key in drawn:
    noun = wordnet.nouns[key]
    for lemma in noun.words:
      is_usual = wordnet.usual[lemma.lower()] == key
      if is_usual and canonical(lemma) not in taken:
        if not _is_scientific(wordnet, lemma):
          name = lemma
          break
    else:
      name, kind = noun.words[0], wordnet.nouns[noun.above[0]].words[0]
      if canonical(name) in taken or not name.endswith(kind):
        name = f"{name} ({kind})"
    names[key] = name.replace("_", " ")
    taken.add(canonical(name))
  return names


def _is_scientific(wordnet: WordNet, lemma: str) -> bool:
  """Returns whether a lemma begins with a genus, as "Buteo_buteo" does."""
  word = lemma.partition("_")[0]
  genus = wordnet.usual.get(word.lower())
  return (
    word[:1].isupper()
    and genus is not None
    and TAXON in ancestors(wordnet.nouns, genus)
  )


def space_text(shipped: str, names: Mapping[str, str], candidates: int) -> str:
  """Writes the label space.

  Args:
    shipped: the text of imagenet.yaml.
    names: id -> name of the classes to add, in order.
    candidates: number of synsets that could be drawn, for the comment.
  """
  header = HEADER.format(
    num_drawn=f"{len(names):,}",
    candidates=f"{candidates:,}",
    seed=SEED,
    sha256=fingerprint(names),
  )
  body = [line for line in shipped.splitlines() if not line.startswith("#")]
  start = sum("{id:" in line for line in body)
  body[body.index("name: imagenet")] = "name: in2k"
  for number, (key, name) in enumerate(names.items(), start):
    if not re.fullmatch(r"[A-Za-z][\w' -]*", name):
      name = f'"{name}"'  # as YAML might read it otherwise
    body.append(f"  - {{id: {number}, name: {name}, key: {key}}}")
  return header + "\n".join(body) + "\n"


def fingerprint(keys: Iterable[str]) -> str:
  """Returns the SHA-256 of a draw."""
  return hashlib.sha256("\n".join(keys).encode()).hexdigest()


if __name__ == "__main__":
  main()
