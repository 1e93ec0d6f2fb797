"""The label spaces of the paper's data sets, one by one."""

import time
from collections import Counter

import pytest
import yaml
from labels.test_spaces import FARM, error_of

from synthjax.labels import class_names, spaces
from synthjax.runtime.errors import UserError

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


@pytest.mark.parametrize("name", ["cifar10", "eurosat", "dtd"])
def test_clips_prompts_are_averaged_where_the_name_says_so(name):
  plain, space = map(spaces.load_space, (name, name + spaces.ENSEMBLE))
  assert space.templates == plain.ensemble != plain.templates
  # Images are those of the space, and so is their filter.
  assert spaces.identify(space) == spaces.identify(plain)
  assert space.prompts == plain.prompts
  for c, same in zip(space.classes, plain.classes, strict=True):
    assert space.filter_text(c) == plain.filter_text(same)


def test_a_space_without_other_templates_says_so():
  with pytest.raises(UserError, match="pets has no `ensemble`"):
    spaces.load_space("pets+ensemble")


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
  keys = {
    key.lower().replace(" ", "_"): label for label, key in enumerate(space.keys)
  }
  assert class_names.resolve(keys, class_names.lookup(space)) == keys


def test_classes_of_one_name_keep_their_ids():
  space = spaces.load_space("imagenet")
  names = Counter(c.name for c in space.classes)
  assert {n for n, k in names.items() if k > 1} == {"missile", "sunglasses"}
  assert len(set(space.class_names)) == 1000
  assert space.class_names[657] == "missile (n03773504)"
  key = {c.id: c.key for c in space.classes if c.name == "missile"}
  assert key == {657: "n03773504", 744: "n04008634"}
  names = names_of("imagenet")
  # Words of several meanings, and a bathing suit whose synset is also tights.
  assert names["n02012849"] == "crane bird"
  assert names["n03126707"] == "construction crane"
  assert names["n03710637"] != names["n03710721"]
  by_name = class_names.lookup(space)
  assert "missile" not in by_name and by_name["n04008634"] == 744
  assert by_name["missile (n04008634)"] == 744


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


def test_opening_a_large_space_takes_less_than_yaml_takes_in_python():
  text = (spaces.FOLDER / "imagenet.yaml").read_text()

  def seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start

  def load():
    spaces._shipped_space.cache_clear()
    spaces.load_space("imagenet")

  # One pure parse takes about five times as long as a whole load.
  assert 2 * min(seconds(load) for _ in range(3)) < seconds(
    lambda: yaml.safe_load(text)
  )


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
  assert space.class_names == ("crane (n1)", "crane (n2)")
  assert spaces.identify(space)["classes"] == {
    "0": ["crane", "n1"],
    "1": ["crane", "n2"],
  }


def test_an_ensemble_is_checked_as_templates_are():
  assert "ensemble: 'a photo'" in error_of(FARM | {"ensemble": ["a photo"]})
  space = spaces.parse_space(FARM | {"ensemble": ["{}", "a {}"]}, where="x")
  assert space.ensemble == ("{}", "a {}")
