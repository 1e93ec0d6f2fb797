"""Label spaces: which classes there are and what each is called.

Those of the embedded set are built from its concepts; those of the paper's data
sets are files beside this one, in label_spaces. A user's own is a JSON or YAML
file of these fields:

  name: farm                          # the file's name by default
  classes:
    - {id: 0, name: tractor, related: [combine harvester]}
    - {name: barn}                    # without an id, it is the position
    - silo                            # a name alone will do
  templates: ["a photo of a {}."]     # for the classifier; by default this
  ensemble: ["a {}.", "the {}."]      # more templates, to average; or none
  prompts: ["a photo of a {}"]        # for the generator; by default this

A class that the data set's own files call otherwise has that folder, synset or
label as its `key`: {id: 0, name: tench, key: n01440764}. Two classes may share
a name only where every class has a key. Classes of the embedded set also list
the Unicode `subcategories` they hold.
"""

import collections
import difflib
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import yaml
from etils import epath

from synthjax.data import embedded, embedded_spaces
from synthjax.errors import UserError, unknown_names

FOLDER = pathlib.Path(__file__).parent / "label_spaces"
TEMPLATES = ("a photo of a {}.",)
PROMPTS = ("a photo of a {}",)


class Class(NamedTuple):
  """One class of a label space."""

  id: int  # the label, and the column of the logits
  name: str
  related: tuple[str, ...] = ()  # words that prompts may use for the class
  subcategories: tuple[str, ...] = ()  # of the embedded set
  key: str = ""  # what the data set's own files call it, if not by its name


class LabelSpace(NamedTuple):
  """Classes in the order of their ids, and sentences about them."""

  name: str
  classes: tuple[Class, ...]
  templates: tuple[str, ...] = TEMPLATES  # of the zero-shot classifier
  prompts: tuple[str, ...] = PROMPTS  # of the generator
  ensemble: tuple[str, ...] = ()  # what CLIP's paper averages the classifier of

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(each.name for each in self.classes)


def load_space(name: str) -> LabelSpace:
  """Loads a label space: a built-in one by name, or a user's own by its path.

  Args:
    name: one of `built_in_spaces()`, or the path of a JSON or YAML file, local
      or gs://.

  Raises:
    UserError: about an unknown name, an unreadable file, or listing all that
      is wrong with the space.
  """
  if name in SPACES:
    return SPACES[name]()
  if name in built_in_spaces():
    return _shipped_space(name)
  path = epath.Path(name)
  if path.suffix not in (".json", ".yaml", ".yml"):
    known = [*built_in_spaces(), "<path>.json", "<path>.yaml"]
    raise unknown_names("label space", [name], known)
  return _read_space(path, where=name)


@functools.cache
def built_in_spaces() -> tuple[str, ...]:
  """Lists the names of all label spaces that the package holds."""
  return (*SPACES, *sorted(path.stem for path in FOLDER.glob("*.yaml")))


@functools.cache
def _shipped_space(name: str) -> LabelSpace:
  return _read_space(epath.Path(FOLDER / f"{name}.yaml"), where=name)


def _read_space(path: epath.Path, where: str) -> LabelSpace:
  # The parser in C, if there is one, is ten times as fast.
  loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
  try:
    text = path.expanduser().read_text()
    # YAML has JSON in it, but for tabs.
    json_file = path.suffix == ".json"
    fields = json.loads(text) if json_file else yaml.load(text, loader)
  except (OSError, ValueError, yaml.YAMLError) as error:
    raise UserError(f"Cannot read the label space {where}: {error}") from error
  if isinstance(fields, Mapping):
    fields = {"name": path.stem, **fields}
  return parse_space(fields, where=where)


def identify(space: LabelSpace) -> dict[str, Any]:
  """Returns what a label means in this space, as plain data for a spec.

  Related words, templates and prompts are left out: only some tasks use them.
  """
  return {
    "name": space.name,
    "classes": {
      str(c.id): [c.name, *c.subcategories, *([c.key] if c.key else [])]
      for c in space.classes
    },
  }


def parse_space(fields: Any, *, where: str) -> LabelSpace:
  """Checks plain data and makes a LabelSpace of it.

  Args:
    fields: what a file holds; see the top of this module.
    where: names its origin in errors.

  Raises:
    UserError: listing every problem at once.
  """
  if not isinstance(fields, Mapping):
    raise UserError(
      f"The label space {where} must be a mapping with `classes`, not a "
      f"{type(fields).__name__}."
    )
  problems = _unknown_keys("", fields, LabelSpace._fields)
  if not isinstance(fields.get("name"), str) or not fields["name"].strip():
    problems.append("name: must be a text")
  classes, found = _classes(fields.get("classes"))
  problems += found
  sentences = {}
  for key in ("templates", "prompts", "ensemble"):
    default = LabelSpace._field_defaults[key]
    sentences[key], found = _texts(key, fields.get(key, default))
    problems += found
    problems += [
      f"{key}: {text!r} must hold {{}} once, for the name, and no other brace"
      for text in sentences[key]
      if text.count("{}") != 1 or {"{", "}"} & set(text.replace("{}", ""))
    ]
    if default and not sentences[key] and not found:
      problems.append(f"{key}: must not be empty; leave it out for {default}")
  if problems:
    listed = "\n  ".join(problems)
    raise UserError(f"The label space {where} does not hold:\n  {listed}")
  return LabelSpace(fields["name"], classes, **sentences)


def _classes(values: Any) -> tuple[tuple[Class, ...], list[str]]:
  """Reads the classes; returns them by id, and all problems."""
  if not isinstance(values, list | tuple) or not values:
    return (), ["classes: must be a list of at least one class"]
  classes, problems = [], []
  for position, value in enumerate(values):
    where = f"classes[{position}]"
    if isinstance(value, str):
      value = {"id": position, "name": value}
    if not isinstance(value, Mapping):
      problems.append(f"{where}: must be a name or a mapping, not {value!r}")
      continue
    problems += _unknown_keys(f"{where}.", value, Class._fields)
    # Clashing ids, of which some are given and some are not, are told below.
    number, name = value.get("id", position), value.get("name")
    key = value.get("key", "")
    if not isinstance(number, int) or isinstance(number, bool):
      problems.append(f"{where}.id: must be a whole number, not {number!r}")
    if not isinstance(name, str) or not name.strip():
      problems.append(f"{where}.name: must be a text, not {name!r}")
    if not isinstance(key, str):
      problems.append(f"{where}.key: must be a text, not {key!r}")
    related, found = _texts(f"{where}.related", value.get("related", ()))
    parts, more = _texts(
      f"{where}.subcategories", value.get("subcategories", ())
    )
    problems += found + more
    known = {c.subcategory for c in embedded.concepts()} if parts else set()
    if unknown := [part for part in parts if part not in known]:
      error = unknown_names("subcategory", unknown, known)
      problems.append(f"{where}.subcategories: {error}")
    classes.append(Class(number, name, related, parts, key))
  if not problems:
    problems = _clashes(classes)
    classes.sort(key=lambda each: each.id)
  return tuple(classes), problems


def _clashes(classes: list[Class]) -> list[str]:
  """Lists what two classes share but must not, and ids that leave gaps."""
  problems = []
  names = [" ".join(c.name.lower().split()) for c in classes]
  for what, values in (
    ("id", [str(c.id) for c in classes]),
    # As with ImageNet's two missiles, whose synsets differ.
    ("name", [] if all(c.key for c in classes) else names),
    ("key", [c.key for c in classes if c.key]),
    ("subcategory", [part for c in classes for part in c.subcategories]),
  ):
    counts = collections.Counter(values)
    hint = ": give every class a `key` of its own" if what == "name" else ""
    problems += [
      f"classes: the {what} {value!r} occurs {count} times{hint}"
      for value, count in sorted(counts.items())
      if count > 1
    ]
  ids = {c.id for c in classes}
  if not problems and ids != set(range(len(classes))):
    problems.append(
      f"classes: {len(classes)} classes have the ids 0 to {len(classes) - 1}, "
      f"as these are the columns of the logits; found {sorted(ids)}"
    )
  return problems


def _texts(key: str, value: Any) -> tuple[tuple[str, ...], list[str]]:
  """Reads a list of texts; returns those that are, and the problems."""
  if isinstance(value, str) or not isinstance(value, Iterable):
    return (), [f"{key}: must be a list of texts, not {value!r}"]
  values = tuple(value)
  texts = tuple(v for v in values if isinstance(v, str) and v.strip())
  odd = [v for v in values if v not in texts]
  return texts, [f"{key}: {v!r} is not a text" for v in odd]


def _unknown_keys(
  where: str, fields: Mapping, known: Iterable[str]
) -> list[str]:
  """Lists the keys that nothing reads, each with the nearest that is."""
  problems, known = [], list(known)
  for key in fields:
    if key not in known:
      near = difflib.get_close_matches(str(key), known, n=1)
      hint = f"did you mean {near[0]!r}?" if near else f"known are {known}"
      problems.append(f"{where}{key}: is not a field; {hint}")
  return problems


@functools.cache
def _embedded_space(name: str) -> LabelSpace:
  """Builds a space of the embedded set.

  Related words are the names of the concepts that training sees, so that no
  prompt names a held-out one.
  """
  held = embedded_spaces.SPACES[name]
  names_of = embedded_spaces.SUBCATEGORIES
  names = list(dict.fromkeys(names_of[s] for s in held))
  classes = []
  for number, class_name in enumerate(names):
    parts = tuple(s for s in held if names_of[s] == class_name)
    related = tuple(
      concept.name
      for concept in embedded.concepts()
      if concept.subcategory in parts and concept.split == "train"
    )
    classes.append(Class(number, class_name, related, parts))
  return LabelSpace(
    name, tuple(classes), embedded_spaces.TEMPLATES, embedded_spaces.PROMPTS
  )


@functools.cache
def _concept_space(name: str) -> LabelSpace:
  """Builds a space whose classes are single concepts."""
  names = embedded_spaces.drawn_concepts(embedded_spaces.CONCEPT_SPACES[name])
  # Captions hold the names themselves; keywords such as "food" are of many.
  classes = tuple(Class(i, name, (name,)) for i, name in enumerate(names))
  return LabelSpace(
    name, classes, embedded_spaces.TEMPLATES, embedded_spaces.PROMPTS
  )


SPACES = {
  name: functools.partial(build, name)
  for build, names in (
    (_embedded_space, embedded_spaces.SPACES),
    (_concept_space, embedded_spaces.CONCEPT_SPACES),
  )
  for name in names
}
