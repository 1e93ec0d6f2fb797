"""Names in a data set's files and the classes that they are of."""

import unicodedata

import pytest

from synthjax.labels import class_names, spaces
from synthjax.runtime.errors import UserError


def resolve(classes, names):
  found = class_names.resolve(names, {c: i for i, c in enumerate(classes)})
  return [found[name] for name in names]


@pytest.mark.parametrize(
  ("name", "alike"),
  [
    ("Faces_easy", "faces easy"),
    ("AnnualCrop", "Annual Crop"),
    ("jack-o'-lantern", "jack_o_lantern"),
    ("maillot (tank suit)", "maillot__tank_suit_"),
    ("F/A-18", "F-A-18"),
    ("707-320", "707 320"),
    ("001.ak47", "001 AK47"),
    ("salt & pepper", "Salt_&_Pepper"),
    ("Straße", "STRASSE"),
  ],
)
def test_the_single_alike_name_is_the_class(name, alike):
  assert resolve([name, "another"], [alike]) == [0]


@pytest.mark.parametrize(
  ("name", "other"),
  [
    ("2.5 m", "25 m"),
    ("1/2 inch", "12 inch"),
    ("C", "C++"),
    ("C", "C#"),
    ("A", "A-"),
    ("blood A+", "blood A-"),
    ("5 degrees", "-5 degrees"),
    ("offset 5", "offset -5"),
    ("मिल", "मेल"),
    ("คา", "คี"),
    ("m²", "m2"),
    ("résumé", "resume"),
    ("3:1", "31"),
    ("?", "!"),
  ],
)
def test_marks_that_have_a_meaning_make_another_name(name, other):
  assert resolve([name, "another"], [other]) == [None]
  assert resolve([name, other], [other, name]) == [1, 0]


def test_accents_are_one_name_however_they_are_encoded():
  for name in ("Café", "Müller", "한국", "Ångström", "व़"):
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    assert resolve([forms[0]], [forms[1]]) == [0]
    assert resolve([forms[1]], [forms[0]]) == [0]


def test_an_alike_name_is_refused_where_it_might_be_another():
  # Two classes are so.
  assert resolve(["sea-lion", "sea lion"], ["SeaLion"]) == [None]
  # Two names of the files are: the exact one is the class.
  assert resolve(["sea lion"], ["sea lion", "Sea-Lion"]) == [0, None]
  assert resolve(["sea lion"], ["Sea_Lion", "SEA LION"]) == [None, None]
  assert resolve(["sea lion"], ["Sea lion", "SEA LION"]) == [0, 0]
  # Two spellings of one class do not make it ambiguous.
  same = {"sea lion": 4, "Sea-Lion": 4}
  assert class_names.resolve(["SEA LION"], same) == {"SEA LION": 4}


def test_a_refused_name_is_told_with_the_nearest():
  with pytest.raises(UserError) as error:
    class_names.match(["C++", "D"], {"C": 0, "D": 1}, where="files")
  assert "'C++': no class is called so; the nearest is 'C'" in str(error.value)
  assert "'C': this class is not there" in str(error.value)
  assert len(class_names.no_class("x" * 10_000, ["C"])) < 300


def test_a_space_does_not_have_one_name_in_two_encodings():
  with pytest.raises(UserError, match="name"):
    spaces.parse_space(["Caf\u00e9", "Cafe\u0301"], where="bars")


def test_what_has_no_width_is_no_part_of_a_name():
  # As the byte order mark, before the first name of a list.
  assert class_names.resolve(
    ["\ufeffcat", "do\u200bg"], {"cat": 0, "dog": 1}
  ) == {
    "\ufeffcat": 0,
    "do\u200bg": 1,
  }


def test_marked_names_meet_no_other_name():
  names = class_names.unique(["cat", "cat", "cat (a)"], "abc")
  assert names == ("cat (a)", "cat (b)", "cat (a) (c)")
