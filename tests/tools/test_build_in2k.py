"""IN-2K: how its classes are drawn and named, and the list that is shipped."""

import collections
import pathlib
import re

import pytest
import yaml

from synthjax.labels import class_names, spaces
from synthjax.runtime.errors import UserError
from tools import build_in2k, build_senses

ROOT = pathlib.Path(__file__).parents[2]

# id: its words, and pointers to what lies right above. Of two synsets with one
# word, the first is what the word commonly means.
TREE = {
  "n00000001": ("entity", ""),
  "n00001930": ("physical_entity", "@00000001"),
  "n00000005": ("tennis", "@00000001"),
  "n00007846": ("person", "@00001930"),
  "n00007847": ("baker", "@00007846"),
  "n05220461": ("body_part", "@00001930"),
  "n07992450": ("taxonomic_group", "@00000001"),
  "n07992451": ("Buteo", "@07992450"),
  "n01000000": ("bird", "@00001930"),
  "n01000001": ("hawk", "@01000000"),
  "n01000002": ("red_hawk scarlet_hawk", "@01000001"),
  "n01000003": ("Old_Red", "@i01000002"),
  "n01000004": ("buzzard", "@00007846"),
  "n01000005": ("buzzard Buteo_buteo", "@01000001"),
  "n01000006": ("jay", "@01000000"),
  "n01000007": ("blue_jay jaybird", "@01000006"),
  "n02000000": ("hat", "@00001930"),
  "n02000001": ("feather_hat", "@02000000 @01000002"),
  "n02000002": ("scarlet_hawk hunting_hat", "@02000000"),
  "n02000003": ("tin_hat", "@00007846"),
  "n02000004": ("tin_hat", "@02000000"),
  "n02000005": ("Jay", "@02000000"),
}
FIRST = {"n01000002": "crimson hawk"}
# Of all in the list: neither above nor below red_hawk, without one below.
ALLOWED = ["n01000005", "n01000007", "n02000002", "n02000004", "n02000005"]


@pytest.fixture
def folder(tmp_path):
  """Writes the tree in the format of WordNet's own files."""
  data, meanings = ["  1 All rights  ", "  2   ", "  3 reserved.  "], {}
  for key, (words, above) in TREE.items():
    words = words.split()
    for word in words:
      meanings.setdefault(word.lower(), []).append(key[1:])
    pointers = [
      re.sub(r"(@i?)(\d+)", r"\1 \2 n 0000", pointer)
      for pointer in above.split()
    ] + ["~ 99999999 n 0000", "+ 88888888 v 0101"]
    data.append(
      f"{key[1:]} 03 n {len(words):02x} {' '.join(f'{w} 0' for w in words)} "
      f"{len(pointers):03d} {' '.join(pointers)} | a gloss; with @ and ~  "
    )
  index = ["  1 All rights  "] + [
    f"{word} n {len(ids)} 2 @ ~ {len(ids)} 0 {' '.join(ids)}  "
    for word, ids in meanings.items()
  ]
  (tmp_path / "data.noun").write_text("\n".join(data) + "\n")
  (tmp_path / "index.noun").write_text("\n".join(index) + "\n")
  return tmp_path


@pytest.fixture
def wordnet(folder):
  return build_in2k.read_wordnet(folder)


def test_the_files_of_wordnet_are_read(wordnet):
  hat = wordnet.nouns["n02000001"]
  assert hat.words == ("feather_hat",)
  assert hat.above == ("n02000000", "n01000002")
  assert wordnet.nouns["n01000003"].above == ("n01000002",)
  assert wordnet.usual["buzzard"] == "n01000004"
  assert wordnet.license == "All rights\n\nreserved.\n"
  assert build_in2k.ancestors(wordnet.nouns, "n01000003") == {
    "n01000002",
    "n01000001",
    "n01000000",
    "n00001930",
    "n00000001",
  }


def test_nothing_above_or_below_the_first_classes_may_be_drawn(wordnet):
  found = build_in2k.candidates(wordnet, TREE, FIRST)
  assert found == ALLOWED
  # "jay" is broad only as long as a jay is in the list.
  shorter = TREE.keys() - {"n01000007"}
  assert "n01000006" in build_in2k.candidates(wordnet, shorter, FIRST)
  # A class need not be listed to keep its relatives out.
  unlisted = TREE.keys() - FIRST.keys()
  assert build_in2k.candidates(wordnet, unlisted, FIRST) == ALLOWED


def test_ids_of_another_wordnet_are_refused(wordnet):
  with pytest.raises(
    UserError, match="2 synsets.*n7, n8.*WordNet 3.0"
  ) as error:
    build_in2k.candidates(wordnet, ["n01000005", "n8"], {"n7": "x"})
  assert "n01000005" not in str(error.value)


def test_a_draw_depends_on_the_seed_alone():
  keys = [f"n{i:08d}" for i in range(1000)]
  drawn = build_in2k.draw(keys, 100, seed=0)
  assert drawn == build_in2k.draw(reversed(keys), 100, seed=0)
  assert drawn == sorted(set(drawn)) and len(drawn) == 100
  # Each of 1,000 once in ten draws of 100: 10 in common, give or take 3.
  common = set(drawn) & set(build_in2k.draw(keys, 100, seed=1))
  assert 0 < len(common) < 30
  # Of fewer candidates, all but those that are gone are drawn again.
  rest = set(build_in2k.draw(set(keys) - set(drawn[:5]), 100, seed=0))
  assert rest > set(drawn[5:]) and len(rest) == 100
  with pytest.raises(UserError, match="Only 1000 .* 1001 are needed"):
    build_in2k.draw(keys, 1001, seed=0)


def test_names_are_unambiguous(wordnet):
  assert build_in2k.choose_names(wordnet, ALLOWED, FIRST) == {
    "n01000005": "buzzard (hawk)",  # commonly a person; no scientific names
    "n01000007": "blue jay",
    "n02000002": "hunting hat",  # the other word is one of a first class
    "n02000004": "tin hat",  # says itself that it is a hat
    "n02000005": "Jay (hat)",
  }
  first = FIRST | {"n00000005": "blue jay", "n01000004": "Tin Hat"}
  names = build_in2k.choose_names(wordnet, ALLOWED, first)
  assert names["n01000007"] == "jaybird"
  assert names["n02000004"] == "tin hat (hat)"


def test_a_written_space_is_read_back():
  shipped = (
    "# Of ImageNet.\nname: imagenet\nprompts: ['a {}']\nclasses:\n"
    "  - {id: 0, name: tench, key: n1}\n"
  )
  names = {"n2": "nut (food)", "n3": "jew's harp", "n4": "1, 2: 3"}
  text = build_in2k.space_text(shipped, names, candidates=1234)
  assert "1,234" in text and "Of ImageNet" not in text
  space = spaces.parse_space(yaml.safe_load(text), where="x")
  assert [(c.id, c.name, c.key) for c in space.classes] == [
    (0, "tench", "n1"),
    (1, "nut (food)", "n2"),
    (2, "jew's harp", "n3"),
    (3, "1, 2: 3", "n4"),
  ]
  assert space.name == "in2k" and space.prompts == ("a {}",)


# --- what is shipped --------------------------------------------------------


def test_in2k_goes_on_where_imagenet_ends():
  space, first = map(spaces.load_space, ("in2k", "imagenet"))
  assert len(space.classes) == 2000
  assert space.classes[:1000] == first.classes
  assert space._replace(name="imagenet", classes=first.classes) == first
  keys = [c.key for c in space.classes]
  assert len(set(keys)) == 2000
  assert keys[1000:] == sorted(keys[1000:])
  assert all(re.fullmatch(r"n\d{8}", key) for key in keys)
  # ImageNet's own two names apart, no other is there twice.
  names = [c.name for c in space.classes]
  counts = collections.Counter(map(class_names.canonical, names))
  assert {n for n, c in counts.items() if c > 1} == {"missile", "sunglasses"}


def test_the_shipped_list_is_the_draw_that_it_says():
  text = (spaces.FOLDER / "in2k.yaml").read_text()
  seed, sha256 = re.search(r"# seed=(\d+) sha256=(\w+)", text).groups()
  keys = [c.key for c in spaces.load_space("in2k").classes[1000:]]
  assert int(seed) == build_in2k.SEED
  assert sha256 == build_in2k.fingerprint(keys)
  assert not set(build_in2k.NOT_DRAWN) & set(keys)


def test_the_licence_of_wordnet_lies_beside_the_list():
  text = (spaces.FOLDER / "WORDNET_LICENSE").read_text()
  assert "WordNet 3.0 Copyright 2006 by Princeton University" in text
  assert 'PROVIDED "AS IS"' in text and text.endswith("preserve same.\n")


@pytest.mark.parametrize("tool", [build_in2k, build_senses])
def test_help_is_no_failure(tool, monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["tool", "--help"])
  with pytest.raises(SystemExit) as stop:
    tool.main()
  assert not stop.value.code and "--synsets" in capsys.readouterr().out
