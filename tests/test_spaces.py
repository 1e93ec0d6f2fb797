"""Label spaces: the built-in ones, and what is said about a user's own."""

import json
import time
from collections import Counter

import pytest
import yaml

from synthjax.data import class_names, embedded, embedded_spaces, spaces
from synthjax.errors import UserError

FARM = {
  "name": "farm",
  "classes": [
    {"id": 1, "name": "barn"},
    {"id": 0, "name": "tractor", "related": ["combine harvester"]},
  ],
  "templates": ["a photo of a {}.", "a bad photo of a {}."],
}


def error_of(fields) -> str:
  with pytest.raises(UserError) as error:
    spaces.parse_space(fields, where="farm.yaml")
  return str(error.value)


@pytest.mark.parametrize(
  ("name", "size"), [("emoji10", 10), ("emoji16", 16), ("emoji_all", 84)]
)
def test_built_in_spaces(name, size):
  space = spaces.load_space(name)
  assert space.name == name
  assert [c.id for c in space.classes] == list(range(size))
  assert len(set(space.class_names)) == size
  parts = [part for c in space.classes for part in c.subcategories]
  assert len(parts) == len(set(parts))
  for sentence in (*space.templates, *space.prompts):
    assert sentence.format("fox").count("fox") == 1


@pytest.mark.parametrize("name", embedded_spaces.SPACES)
def test_related_words_never_are_held_out_concepts(name):
  split_of = {c.name: c.split for c in embedded.concepts()}
  for each in spaces.load_space(name).classes:
    assert len(each.related) >= 4
    assert {split_of[word] for word in each.related} == {"train"}


def test_concept_spaces_hold_drawn_concepts_and_continue_each_other():
  small, large = map(spaces.load_space, ("concepts80", "concepts160"))
  assert (len(small.classes), len(large.classes)) == (80, 160)
  assert large.classes[:80] == small.classes
  concept_of = {c.name: c for c in embedded.concepts()}
  for each in large.classes:
    assert concept_of[each.name].split == "train"
    assert concept_of[each.name].subcategory in embedded_spaces.DRAWN
    assert each.related == (each.name,)


def test_related_words_are_those_of_the_class():
  space = spaces.load_space("emoji16")
  related = {c.name: c.related for c in space.classes}
  assert "wolf" in related["land animal"]
  assert "wolf" not in related["land vehicle"]
  # Held out for testing and for validation.
  assert "leopard" not in related["land animal"]
  assert "sloth" not in related["land animal"]


def test_a_built_in_space_passes_its_own_checks():
  space = spaces.load_space("emoji_all")
  fields = space._asdict() | {"classes": [c._asdict() for c in space.classes]}
  del fields["articles"]  # is no field of files
  assert spaces.parse_space(fields, where="emoji_all") == space


def test_built_in_spaces_write_what_was_published():
  for name in spaces.built_in_spaces():
    space = spaces.load_space(name)
    assert spaces.identify_texts(space) is None
    for template in (*space.templates, *space.prompts):
      each = space.classes[0]
      assert space.sentence(template, each) == template.replace("{}", each.name)
  caltech = spaces.load_space("caltech101")
  (umbrella,) = (c for c in caltech.classes if c.name == "umbrella")
  assert caltech.sentence("a {}.", umbrella) == "a umbrella."


def test_an_identity_is_plain_and_tells_labels_apart():
  space = spaces.load_space("emoji10")
  identity = spaces.identify(space)
  assert json.loads(json.dumps(identity)) == identity
  assert len(identity["classes"]) == 10
  swapped = space._replace(
    classes=tuple(c._replace(id=9 - c.id) for c in reversed(space.classes))
  )
  assert spaces.identify(swapped) != identity


@pytest.mark.parametrize(
  ("ending", "dump"), [(".json", json.dumps), (".yaml", yaml.safe_dump)]
)
def test_a_file_is_read_and_sorted_by_id(tmp_path, ending, dump):
  path = tmp_path / f"mine{ending}"
  path.write_text(dump(FARM))
  space = spaces.load_space(str(path))
  assert space.class_names == ("tractor", "barn")
  assert space.classes[0].related == ("combine harvester",)
  assert space.templates == tuple(FARM["templates"])
  assert space.prompts == spaces.PROMPTS


def test_names_alone_are_enough(tmp_path):
  path = tmp_path / "pets.yaml"
  path.write_text("classes: [cat, dog]")
  space = spaces.load_space(str(path))
  assert space.name == "pets"
  assert [(c.id, c.name) for c in space.classes] == [(0, "cat"), (1, "dog")]


def test_an_unknown_space_is_answered_with_the_nearest():
  with pytest.raises(UserError, match="did you mean 'emoji16'"):
    spaces.load_space("emoji61")


@pytest.mark.parametrize("text", ["classes: [", "{", None])
def test_an_unreadable_file_is_named(tmp_path, text):
  path = tmp_path / "mine.yaml"
  if text is not None:
    path.write_text(text)
  with pytest.raises(UserError, match=r"Cannot read.*mine\.yaml"):
    spaces.load_space(str(path))


def test_all_problems_are_listed_at_once():
  message = error_of(
    {
      "name": "farm",
      "clases": [],
      "classes": [
        {"id": "0", "name": "tractor"},
        {"id": 1, "name": " "},
        {"id": 2, "name": "barn", "relatd": ["shed"]},
        {"id": 3, "name": "pig", "subcategories": ["animal-mamal"]},
        {"id": 4, "name": "cow", "related": "ox"},
        7,
      ],
      "templates": ["a photo"],
      "prompts": [],
    }
  )
  for problem in (
    "clases: is not a field; did you mean 'classes'?",
    "classes[0].id: must be a whole number, not '0'",
    "classes[1].name: must be a text",
    "classes[2].relatd: is not a field; did you mean 'related'?",
    "did you mean 'animal-mammal'?",
    "classes[4].related: must be a list of texts, not 'ox'",
    "classes[5]: must be a name or a mapping, not 7",
    "templates: 'a photo' must hold {} once",
    "prompts: must not be empty",
    "farm.yaml",
  ):
    assert problem in message


@pytest.mark.parametrize(
  ("classes", "problem"),
  [
    ([], "at least one class"),
    (None, "at least one class"),
    ("barn", "at least one class"),
    (["barn", "Barn "], "the name 'barn' occurs 2 times"),
    (
      [{"id": 0, "name": "barn"}, {"id": 0, "name": "cow"}],
      "the id '0' occurs 2 times",
    ),
    ([{"id": 1, "name": "barn"}, {"id": 2, "name": "cow"}], "found [1, 2]"),
    (
      [
        {"id": 0, "name": "cow", "subcategories": ["animal-mammal"]},
        {"id": 1, "name": "pig", "subcategories": ["animal-mammal"]},
      ],
      "the subcategory 'animal-mammal' occurs 2 times",
    ),
  ],
)
def test_classes_that_clash_are_named(classes, problem):
  assert problem in error_of({"name": "farm", "classes": classes})


@pytest.mark.parametrize("template", ["{} and {}", "a {name}", "a {} {", "{0}"])
def test_a_template_has_one_place_for_the_name(template):
  message = error_of(FARM | {"templates": [template]})
  assert "templates" in message


@pytest.mark.parametrize("fields", [None, 7, "cat dog"])
def test_a_space_is_a_list_or_a_mapping(fields):
  message = error_of(fields)
  assert "must be a list of names, or a mapping" in message
  assert "Begin the line of each name with '- '" in message


def test_classes_without_an_id_have_their_positions(tmp_path):
  path = tmp_path / "farm.yaml"
  path.write_text(
    "classes:\n  - tractor\n  - {name: barn}\n  - {id: 2, name: x}"
  )
  space = spaces.load_space(str(path))
  assert [(c.id, c.name) for c in space.classes] == [
    (0, "tractor"),
    (1, "barn"),
    (2, "x"),
  ]
  path.write_text("classes:\n  - tractor\n  - {id: 0, name: barn}")
  with pytest.raises(UserError, match="id"):
    spaces.load_space(str(path))


# --- the data sets of the paper ---------------------------------------------

SIZES = {
  "aircraft": 100,
  "birdsnap": 500,
  "caltech101": 100,
  "caltech101_101": 101,
  "caltech101_102": 102,
  "caltech256": 257,
  "cars": 196,
  "cifar10": 10,
  "cifar100": 100,
  "cub": 200,
  "dtd": 47,
  "eurosat": 10,
  "eurosat_clip": 10,
  "eurosat_released": 10,
  "flowers": 102,
  "food": 101,
  "imagenet": 1000,
  "imagenet_r": 200,
  "imagenet_sketch": 1000,
  "in2k": 2000,
  "pets": 37,
  "sun397": 397,
  "voc": 20,
}


def names_of(space: str) -> dict[str, str]:
  """Returns key -> name."""
  return {c.key or c.name: c.name for c in spaces.load_space(space).classes}


def test_the_package_holds_the_spaces_of_the_paper():
  assert set(spaces.built_in_spaces()) - set(spaces.SPACES) == set(SIZES)
  others = ("in2k", "voc", "eurosat_clip", "eurosat_released")
  paper = [n for n in SIZES if "_1" not in n and n not in others]
  assert len(paper) == 17 and sum(SIZES[n] for n in paper) == 4357


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_space_of_the_paper_is_whole(name, size):
  space = spaces.load_space(name)
  assert space.name == name
  assert [c.id for c in space.classes] == list(range(size))
  assert len({c.key or c.name for c in space.classes}) == size
  assert all(
    "_" not in c.name and c.name == c.name.strip() for c in space.classes
  )
  for template in (*space.templates, *space.ensemble):
    assert template.format("fox").count("fox") == 1
  assert all(template[-1] in ".!" for template in space.templates)
  assert not any(prompt.endswith(".") for prompt in space.prompts)


@pytest.mark.parametrize("name", SIZES)
def test_every_class_is_found_by_its_name_in_the_files(name):
  space = spaces.load_space(name)
  by_name = class_names.table(class_names.lookup(space))
  for each in space.classes:
    assert by_name[class_names.canonical(each.key or each.name)] == each.id


def test_classes_of_one_name_keep_their_ids():
  space = spaces.load_space("imagenet")
  twice = Counter(space.class_names) - Counter(set(space.class_names))
  assert twice == {"missile": 1, "sunglasses": 1}
  key = {c.id: c.key for c in space.classes if c.name == "missile"}
  assert key == {657: "n03773504", 744: "n04008634"}
  names = names_of("imagenet")
  # Words of several meanings, and a bathing suit whose synset is also tights.
  assert names["n02012849"] == "crane bird"
  assert names["n03126707"] == "construction crane"
  assert names["n03710637"] != names["n03710721"]
  by_name = class_names.lookup(space)
  assert "missile" not in by_name and by_name["n04008634"] == 744


def test_imagenet_is_in_the_order_of_its_synsets():
  keys = [c.key for c in spaces.load_space("imagenet").classes]
  assert keys == sorted(keys)
  renditions = spaces.load_space("imagenet_r").classes
  assert [c.key for c in renditions] == sorted(c.key for c in renditions)
  names = names_of("imagenet")
  assert all(names[c.key] == c.name for c in renditions)
  assert names_of("imagenet_sketch") == names


def test_eurosat_has_three_sets_of_names_in_one_order():
  coop, clip, released = (
    spaces.load_space(name)
    for name in ("eurosat", "eurosat_clip", "eurosat_released")
  )
  assert coop.class_names[2] == "Herbaceous Vegetation Land"
  assert clip.class_names[2] == "brushland or shrubland"
  assert released.class_names[4] == "a Industrial Building"
  keys = [c.key for c in coop.classes]
  assert keys[-1] == "SeaLake" and keys == sorted(keys)
  for other in (clip, released):
    assert [c.key for c in other.classes] == keys


def test_caltech101_has_the_classes_of_its_splits():
  coop, objects, every = (
    names_of(name)
    for name in ("caltech101", "caltech101_101", "caltech101_102")
  )
  assert objects.keys() - coop.keys() == {"Faces_easy"}
  assert every.keys() - objects.keys() == {"BACKGROUND_Google"}
  assert coop["Leopards"] == "leopard" and coop["Faces"] == "face"
  assert every["Faces_easy"] == "centered face"


def test_names_are_written_as_in_coop():
  assert names_of("sun397")["/c/cloister/indoor"] == "indoor cloister"
  assert names_of("cars")["Ferrari FF Coupe 2012"] == "2012 Ferrari FF Coupe"
  assert spaces.load_space("flowers").class_names[59] == "pink-yellow dahlia"
  assert names_of("caltech256")["015.bonsai-101"] == "bonsai"
  assert {"F-16A/B", "F/A-18"} <= names_of("aircraft").keys()
  pets = spaces.load_space("pets").class_names
  assert pets[:2] == ("abyssinian", "american bulldog")


def test_opening_a_large_space_is_fast():
  spaces._shipped_space.cache_clear()
  times = []
  for _ in range(3):
    start = time.process_time()
    spaces._shipped_space.cache_clear()
    spaces.load_space("imagenet")
    times.append(time.process_time() - start)
  assert min(times) < 0.1


@pytest.mark.parametrize(
  ("classes", "problem"),
  [
    (
      [{"name": "crane", "key": "n1"}, {"name": "crane", "key": "n1"}],
      "the key 'n1' occurs 2 times",
    ),
    (
      [{"name": "crane", "key": "n1"}, {"name": "crane"}],
      "the name 'crane' occurs 2 times; leave it there once, or give",
    ),
    ([{"name": "crane", "key": 3}], "classes[0].key: must be a text"),
  ],
)
def test_a_shared_name_needs_keys(classes, problem):
  assert problem in error_of({"name": "farm", "classes": classes})


def test_keys_let_classes_share_a_name():
  fields = [{"name": "crane", "key": "n1"}, {"name": "crane", "key": "n2"}]
  space = spaces.parse_space({"name": "x", "classes": fields}, where="x")
  assert space.class_names == ("crane", "crane")
  assert spaces.identify(space)["classes"] == {
    "0": ["crane", "n1"],
    "1": ["crane", "n2"],
  }


def test_an_ensemble_is_checked_as_templates_are():
  assert "ensemble: 'a photo'" in error_of(FARM | {"ensemble": ["a photo"]})
  space = spaces.parse_space(FARM | {"ensemble": ["{}", "a {}"]}, where="x")
  assert space.ensemble == ("{}", "a {}")
