"""Full-size configs hold the values that ../paper_values.yaml lists.

`:runlocal` replaces most of them, so that no run of these tests would notice
another one. The file says of each where it is stated, or why it is ours.
"""

import functools
import importlib
import pathlib
import re

import effective_values
import pytest
import yaml

from synthjax import main
from synthjax.labels import spaces
from synthjax.prompts import t5_writer
from synthjax.runtime.errors import UserError
from synthjax.tasks import prompts

ROOT = pathlib.Path(__file__).parents[2]
LIST = yaml.safe_load((ROOT / "tests" / "paper_values.yaml").read_text())
CASES = [
  f"{file}:{argument}"
  for file, arguments in LIST["cases"].items()
  for argument in arguments
]
CODE = [(path, *entry) for path, entry in LIST["code"].items()]
EMBEDDED = LIST["embedded"]  # configs that are of no other size


@functools.cache
def load(case):
  config = main.load_config(str(ROOT / "configs" / case))
  return effective_values.values_of(config)


def matches(pattern, text):
  """Returns whether a text is the pattern, whose * stands for anything."""
  return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text)


def holds(entry, case):
  """Returns whether an entry of "stated" or "ours" is about a case."""
  are_of = lambda names: any(
    matches(name, case) or matches(f"{name}:*", case) for name in names
  )
  return are_of(entry["of"]) and not are_of(entry.get("except", ()))


def entries_of(case, kind):
  return [entry for entry in LIST[kind] if holds(entry, case)]


@pytest.mark.parametrize("case", CASES)
def test_a_full_size_config_has_the_values_that_are_stated(case):
  values, wrong = load(case), []
  for entry in entries_of(case, "stated"):
    for pattern, value in entry["values"].items():
      found = {path: v for path, v in values.items() if matches(pattern, path)}
      wrong += [
        f"{path} is {v!r}, and {value!r} in {entry['place']}"
        for path, v in (found or {pattern: "missing"}).items()
        if v != value
      ]
  assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", CASES)
def test_each_field_that_runlocal_changes_is_listed(case):
  full, small = load(case), load(f"{case},runlocal")
  changed = [path for path in full if small.get(path, "missing") != full[path]]
  listed = [p for e in entries_of(case, "stated") for p in e["values"]]
  listed += [p for e in entries_of(case, "ours") for p in e["fields"]]
  escaped = [
    f"{path}: {full[path]!r}"
    for path in changed
    if not any(matches(pattern, path) for pattern in listed)
  ]
  assert not escaped, "list in tests/paper_values.yaml:\n" + "\n".join(escaped)


def test_each_config_and_argument_is_listed():
  files = {path.name for path in (ROOT / "configs").glob("[!_]*.py")}
  assert files == LIST["cases"].keys() | {*EMBEDDED}
  for file, arguments in LIST["cases"].items():
    with pytest.raises(UserError) as error:
      load(f"{file}:?")
    known = re.search("Allowed: (.*)", str(error.value))[1]
    known = {*re.findall(r"\w+", known)} - {"runlocal"}
    used = {name for text in arguments for name in re.findall(r"(\w+)=", text)}
    assert used == known, file


@pytest.mark.parametrize("kind", ["stated", "ours"])
def test_no_entry_of_the_list_is_of_nothing(kind):
  parts = [
    entry | {"of": [name]} for entry in LIST[kind] for name in entry["of"]
  ]
  idle = [e["of"] for e in parts if not any(holds(e, case) for case in CASES)]
  assert not idle


@pytest.mark.parametrize("name", LIST["spaces"])
def test_a_label_space_says_what_the_release_does(name):
  space = spaces.load_space(name)
  for field, value in LIST["spaces"][name].items():
    if field != "place":
      found = TEXTS[field](space)
      assert list(found) == value, field


TEXTS = {
  "templates": lambda space: space.templates,
  "ensemble": lambda space: space.ensemble,
  "prompts": lambda space: space.prompts,
  "num_classes": lambda space: [len(space.classes)],
  "names": lambda space: space.class_names,
  "first_filter_text": lambda space: [space.filter_text(space.classes[0])],
  "filter_texts": lambda space: map(space.filter_text, space.classes),
  "language_model_input": lambda space: [
    t5_writer.keywords(prompts.topic(c), article=True)[0].removesuffix(" </s>")
    for c in space.classes
  ],
}


@pytest.mark.parametrize(("path", "value", "place"), CODE)
def test_a_constant_of_the_code_is_that_of_its_source(path, value, place):
  module, _, name = path.rpartition(".")
  found = getattr(importlib.import_module(module), name)
  if isinstance(value, dict):
    value = {
      k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
    }
  elif isinstance(value, list):
    value = tuple(value)
  assert found == value, place
