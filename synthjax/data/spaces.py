"""Label spaces: which classes there are and what each is called.

A user's own is a JSON or YAML file of these fields:

  name: farm                          # the file's name by default
  classes:
    - {id: 0, name: tractor, related: [combine harvester]}
    - {name: barn}                    # without an id, it is the position
    - silo                            # a name alone will do
  templates: ["a photo of a {}."]     # for the classifier; by default this
  prompts: ["a photo of a {}"]        # for the generator; by default this

Classes of the embedded set also list the Unicode `subcategories` they hold.
"""

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import yaml
from etils import epath

from synthjax.data import embedded, embedded_spaces
from synthjax.errors import UserError, unknown_names

TEMPLATES = ("a photo of a {}.",)
PROMPTS = ("a photo of a {}",)


class Class(NamedTuple):
  """One class of a label space."""

  id: int  # the label, and the column of the logits
  name: str
  related: tuple[str, ...] = ()  # words that prompts may use for the class
  subcategories: tuple[str, ...] = ()  # of the embedded set


class LabelSpace(NamedTuple):
  """Classes in the order of their ids, and sentences about them."""

  name: str
  classes: tuple[Class, ...]
  templates: tuple[str, ...] = TEMPLATES  # of the zero-shot classifier
  prompts: tuple[str, ...] = PROMPTS  # of the generator

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(each.name for each in self.classes)


def load_space(name: str) -> LabelSpace:
  """Loads a label space: a built-in one by name, or a user's own by its path.

  Args:
    name: a key of SPACES, or the path of a JSON or YAML file, local or gs://.

  Raises:
    UserError: about an unknown name, an unreadable file, or listing all that
      is wrong with the space.
  """
  if name in SPACES:
    return SPACES[name]()
  path = epath.Path(name)
  if path.suffix not in (".json", ".yaml", ".yml"):
    raise unknown_names(
      "label space", [name], [*SPACES, "<path>.json", "<path>.yaml"]
    )
  try:
    # YAML has JSON in it, but for tabs.
    load = json.loads if path.suffix == ".json" else yaml.safe_load
    fields = load(path.expanduser().read_text())
  except (OSError, ValueError, yaml.YAMLError) as error:
    raise UserError(f"Cannot read the label space {name}: {error}") from error
  if isinstance(fields, Mapping):
    fields = {"name": path.stem, **fields}
  return parse_space(fields, where=name)


def identify(space: LabelSpace) -> dict[str, Any]:
  """Returns what a label means in this space, as plain data for a spec.

  Related words, templates and prompts are left out: only some tasks use them.
  """
  return {
    "name": space.name,
    "classes": {str(c.id): [c.name, *c.subcategories] for c in space.classes},
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
  for key, default in (("templates", TEMPLATES), ("prompts", PROMPTS)):
    sentences[key], found = _texts(key, fields.get(key, default))
    problems += found
    problems += [
      f"{key}: {text!r} must hold {{}} once, for the name, and no other brace"
      for text in sentences[key]
      if text.count("{}") != 1 or {"{", "}"} & set(text.replace("{}", ""))
    ]
    if not sentences[key] and not found:
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
    if not isinstance(number, int) or isinstance(number, bool):
      problems.append(f"{where}.id: must be a whole number, not {number!r}")
    if not isinstance(name, str) or not name.strip():
      problems.append(f"{where}.name: must be a text, not {name!r}")
    related, found = _texts(f"{where}.related", value.get("related", ()))
    parts, more = _texts(
      f"{where}.subcategories", value.get("subcategories", ())
    )
    problems += found + more
    known = {concept.subcategory for concept in embedded.concepts()}
    if unknown := [part for part in parts if part not in known]:
      error = unknown_names("subcategory", unknown, known)
      problems.append(f"{where}.subcategories: {error}")
    classes.append(Class(number, name, related, parts))
  if not problems:
    problems = _clashes(classes)
    classes.sort(key=lambda each: each.id)
  return tuple(classes), problems


def _clashes(classes: list[Class]) -> list[str]:
  """Lists what two classes share but must not, and ids that leave gaps."""
  problems = []
  for what, values in (
    ("id", [str(c.id) for c in classes]),
    ("name", [" ".join(c.name.lower().split()) for c in classes]),
    ("subcategory", [part for c in classes for part in c.subcategories]),
  ):
    problems += [
      f"classes: the {what} {value!r} occurs {values.count(value)} times"
      for value in sorted({v for v in values if values.count(v) > 1})
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


SPACES = {
  name: functools.partial(_embedded_space, name)
  for name in embedded_spaces.SPACES
}
