"""Names of files and folders that any system takes, made of any text."""

import fnmatch

import pytest
from odd_rows import IDS, NAMES

from synthjax.data.formats import png_folder
from synthjax.labels import class_names, file_names, spaces


@pytest.mark.parametrize(
  "image_id", ["basic-3-12-s0-5", "rg16-0-0-s2-11", "a_b", "0" * 80]
)
def test_an_id_that_any_system_takes_is_its_own_key(image_id):
  assert file_names.key_of(image_id) == image_id


@pytest.mark.parametrize("image_id", [*IDS, "-rf", "x" * 500, "a\0b", "\ud800"])
def test_a_key_is_one_word_without_a_dot(image_id):
  key = file_names.key_of(image_id)
  assert len(key) <= 80 and set(key) <= set(
    "abcdefghijklmnopqrstuvwxyz0123456789_-"
  )
  assert not key.startswith("-")


def test_class_folders_keep_what_names_they_can():
  names = ["Siamese cat", "a.b", "größe", "日本"]
  assert file_names.folder_names(names) == names
  odd = [
    *NAMES,
    "gr\u00f6\u00dfe",
    "gro\u0308\u00dfe",
    ".",
    "x" * 400,
    "nul.txt",
  ]
  odd = list(dict.fromkeys([*odd, "metadata.jsonl", "a\\b", "tail. ", "\t"]))
  made = file_names.folder_names(odd, png_folder.RESERVED)
  assert len({name.casefold() for name in made}) == len(odd)
  for name in made:
    assert file_names.is_inside(name) and "/" not in name and "\\" not in name
    assert not name.startswith(".") and not name.endswith((".", " "))
    assert len(name.encode()) < 255 and name.isprintable()
    assert name not in png_folder.RESERVED and name.casefold() != "con"


def test_no_class_folder_is_a_split_to_hugging_face():
  """`datasets` 5.2.0 finds words of splits in paths by these patterns."""
  words = "train training validation valid dev val test testing eval evaluation"
  names = ["test tube", "dev kit", "bullet train", "test", "crash.test-2 dummy"]
  names += ["val_3", "a eval b", "9test", "__init__", "x" * 175 + " testing"]
  kept = ["contest", "trainer", "Valid", "dévaluation", "latest test+"]
  assert file_names.folder_names(kept) == kept
  for name in file_names.folder_names(names):
    assert not name.startswith(("__", ".")), name
    for word in words.split():
      for form in ("{}", "{}[{}]*", "*[{}]{}", "*[{}]{}[{}]*"):
        sep = "-._ 0-9"
        pattern = form.replace("[{}]", f"[{sep}]").replace("{}", word)
        assert not fnmatch.fnmatchcase(name, pattern), (name, pattern)
  space = spaces.parse_space([*names, *kept], where="here")
  assert {*names} < png_folder.class_folders(space).keys()  # of older exports


def test_names_that_two_classes_share_get_their_ids():
  space = spaces.LabelSpace(
    "birds and machines",
    (
      spaces.Class(0, "crane", key="n1"),
      spaces.Class(1, "crane", key="n2"),
      spaces.Class(2, "jay"),
    ),
  )
  assert space.class_names == ("crane (n1)", "crane (n2)", "jay")
  assert class_names.lookup(space) == {
    "crane (0)": 0,
    "crane (1)": 1,
    "crane (n1)": 0,
    "crane (n2)": 1,
    "jay": 2,
    "n1": 0,
    "n2": 1,
  }


@pytest.mark.parametrize(
  ("name", "inside"),
  [
    ("a.png", True),
    ("a/b.png", True),
    ("a..b", True),
    ("../a", False),
    ("a/../b", False),
    ("/a", False),
    ("a\\..\\b", False),
    ("", False),
  ],
)
def test_a_path_that_leads_elsewhere_is_known(name, inside):
  assert file_names.is_inside(name) is inside
