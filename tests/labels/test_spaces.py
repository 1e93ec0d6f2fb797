"""Label spaces: the built-in ones, and what is said about a user's own."""

import json

import pytest
import yaml

from synthjax.embedded import world
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

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


@pytest.mark.parametrize("name", world.SPACES)
def test_related_words_never_are_held_out_concepts(name):
  split_of = {c.name: c.split for c in world.concepts()}
  for each in spaces.load_space(name).classes:
    assert len(each.related) >= 4
    assert {split_of[word] for word in each.related} == {"train"}


def test_concept_spaces_hold_drawn_concepts_and_continue_each_other():
  small, large = map(spaces.load_space, ("concepts80", "concepts160"))
  assert (len(small.classes), len(large.classes)) == (80, 160)
  assert large.classes[:80] == small.classes
  concept_of = {c.name: c for c in world.concepts()}
  for each in large.classes:
    assert concept_of[each.name].split == "train"
    assert concept_of[each.name].subcategory in world.DRAWN
    assert each.related == (each.name,)


def test_related_words_are_those_of_the_class():
  space = spaces.load_space("emoji16")
  related = {c.name: c.related for c in space.classes}
  assert "wolf" in related["animal"]
  assert "wolf" not in related["vehicle"]
  # Held out for testing and for validation.
  assert "leopard" not in related["animal"]
  assert "sloth" not in related["animal"]


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


def test_an_identity_is_plain_and_differs_with_the_labels():
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
