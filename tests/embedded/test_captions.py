"""What the embedded models learn from."""

import numpy as np
import pytest

from synthjax.config import schema
from synthjax.embedded import captions, world
from synthjax.runtime.errors import UserError


def opened(**fields):
  block = {"split": "train", "name_share": 0.5} | fields
  return schema.read(captions.Captioned, block, "data").open()


def test_parts_of_a_split_hold_what_they_say():
  concepts = world.concepts()
  source = opened(subcategories=("animal-bird",))
  of = [concepts[concept] for _, _, concept in source.rows]
  assert {c.subcategory for c in of} == {"animal-bird"}
  assert {c.split for c in of} == {"train"}
  assert source[0]["concept"] == of[0].name and len(source) == len(of) > 50

  whole = opened()
  rest = opened(leave_out=("Symbols",))
  symbols = [r for r in whole.rows if concepts[r[2]].category == "Symbols"]
  assert len(rest) == len(whole) - len(symbols) and symbols


@pytest.mark.parametrize(
  ("part", "words"),
  [
    (dict(subcategories=("animal-brid",)), "did you mean 'animal-bird'"),
    (dict(leave_out=("Symbol",)), "did you mean 'Symbols'"),
    (dict(split="tarin"), "split='tarin': .* mean 'train'"),
    (dict(subcategories=()), "subcategories=.*: needed names"),
    (dict(name_share=1.5), "name_share=1.5: needed a number from 0 to 1"),
    (dict(name_shares=1), "no field 'name_shares'"),
  ],
)
def test_unknown_parts_are_refused(part, words):
  with pytest.raises(UserError, match=words):
    opened(**part)


def test_keywords_are_forgotten_as_often_as_asked():
  rng = np.random.default_rng(0)
  example = {"phrases": ("name", "word", "other")}
  kept = [
    captions.name_more(example, rng, share=0.3)["phrases"] for _ in range(1000)
  ]
  alone = kept.count(("name",))
  assert alone + kept.count(example["phrases"]) == 1000
  assert 250 < alone < 350


def test_the_digest_is_of_the_shipped_files(monkeypatch, tmp_path):
  before = captions.digest()
  for name in ("concepts.json", "images.zip"):
    (tmp_path / name).write_bytes((world.FOLDER / name).read_bytes())
  monkeypatch.setattr(world, "FOLDER", tmp_path)
  assert captions.digest() == before
  with (tmp_path / "concepts.json").open("a") as file:
    file.write(" ")
  assert captions.digest() != before
