"""What the embedded models learn from."""

import numpy as np
import pytest

from synthjax.embedded import captions, world
from synthjax.runtime.errors import UserError


def test_parts_of_a_split_hold_what_they_say():
  concepts = world.concepts()
  source = captions.open_captioned("train", subcategories=("animal-bird",))
  of = [concepts[concept] for _, _, concept in source.rows]
  assert {c.subcategory for c in of} == {"animal-bird"}
  assert {c.split for c in of} == {"train"}
  assert source[0]["concept"] == of[0].name and len(source) == len(of) > 50

  whole = captions.open_captioned("train")
  rest = captions.open_captioned("train", leave_out=("Symbols",))
  symbols = [r for r in whole.rows if concepts[r[2]].category == "Symbols"]
  assert len(rest) == len(whole) - len(symbols) and symbols


@pytest.mark.parametrize(
  ("part", "words"),
  [
    (dict(subcategories=("animal-brid",)), "did you mean 'animal-bird'"),
    (dict(leave_out=("Symbol",)), "did you mean 'Symbols'"),
  ],
)
def test_unknown_parts_are_refused(part, words):
  with pytest.raises(UserError, match=words):
    captions.open_captioned("train", **part)


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
