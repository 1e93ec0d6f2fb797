"""Label spaces: which classes there are and what each is called.

Those of the embedded set are built from its concepts; those of the paper's data
sets are files beside this one, in label_spaces. A user's own is a JSON or YAML
file. A list of names will do; these are all the fields:

  name: farm                          # the file's name by default
  classes:
    - silo                            # a name alone will do
    - {name: crane, sense: bird}      # of several meanings, this one
    - {name: barn, description: "a wooden building"}     # in your own words
    - {name: tractor, related: [combine harvester]}
    - {name: cow, id: 4}              # by default the position, from 0
  templates: ["a photo of a {}."]     # for the classifier; by default this
  ensemble: ["a {}.", "the {}."]      # more templates, to average; or none
  prompts: ["a photo of a {}"]        # for the generator; by default this
  fill_related: true                  # from WordNet, where there are none

The description follows the name in prompts and in the classifier's texts, "a
photo of a crane, a wading bird", and so does that of the meaning that `sense`
chooses: its number, or words of it; see `senses`. "a {}" becomes "an umbrella"
where a name wants it. Names of several meanings are told when such a file
is read, if they have neither. Related words are written as they are, in place
of the name.

A class that the data set's own files call otherwise has that folder, synset or
label as its `key`: {id: 0, name: tench, key: n01440764}. Two classes may share
a name only where every class has a key. Classes of the embedded set also list
the Unicode `subcategories` they hold.
"""

import functools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from absl import logging
from etils import epath

from synthjax.embedded import label_spaces, world
from synthjax.labels import senses
from synthjax.labels.space_files import (
  PROMPTS,
  TEMPLATES,
  Class,
  LabelSpace,
  Path,
  Place,
  Problem,
  parse_space,
  refuse,
)
from synthjax.runtime.errors import UserError, unknown_names

__all__ = ["PROMPTS", "TEMPLATES", "Class", "LabelSpace", "parse_space"]

ENDINGS = (".yaml", ".yml", ".json")
FOLDER = pathlib.Path(__file__).parent / "label_spaces"


def load_space(name: str) -> LabelSpace:
  """Loads a label space: a built-in one by name, or a user's own by its path.

  Args:
    name: one of `built_in_spaces()`, or the path of a JSON or YAML file, local
      or gs://.

  Raises:
    UserError: about an unknown name, an unreadable file, or listing all that
      is wrong with the space, by its lines.
  """
  if name in SPACES:
    return SPACES[name]()
  if name in built_in_spaces():
    return _shipped_space(name)
  path = epath.Path(name)
  if path.suffix not in ENDINGS:
    if path.suffix or "/" in name:
      raise UserError(
        f"The label space {name} must be a file that ends with "
        f"{' or '.join(ENDINGS)}, or one of the built-in ones: "
        f"{', '.join(built_in_spaces())}."
      )
    known = [*built_in_spaces(), "<path>.json", "<path>.yaml"]
    raise unknown_names("label space", [name], known)
  try:
    text = path.expanduser().read_text()
  except UnicodeDecodeError as error:
    raise UserError(
      f"Cannot read the label space {name}: {error}. Save it as UTF-8."
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(f"Cannot read the label space {name}: {error}") from error
  return _own_space(text, name)


@functools.cache
def built_in_spaces() -> tuple[str, ...]:
  """Lists the names of all label spaces that the package holds."""
  return (*SPACES, *sorted(path.stem for path in FOLDER.glob("*.yaml")))


@functools.cache
def _shipped_space(name: str) -> LabelSpace:
  text = (FOLDER / f"{name}.yaml").read_text()
  return _read(text, where=f"{name}.yaml")


@functools.cache  # so that what there is to tell is told once
def _own_space(text: str, where: str) -> LabelSpace:
  space = _read(text, where)._replace(articles=True)
  if notes := _notes(space):
    listed = "\n  ".join(notes)
    logging.warning("About the label space %s:\n  %s", where, listed)
  return space


def _read(text: str, where: str) -> LabelSpace:
  """Reads the text of a file, which `where` names."""
  path = pathlib.PurePath(where)
  # The parser in C, if there is one, is ten times as fast.
  loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
  try:
    if path.suffix == ".json":  # of which YAML reads all but tabs
      fields, twice = json.loads(text), []
    else:
      node = loader.get_single_node()
      listed = isinstance(node, yaml.SequenceNode)
      twice = _twice(node, ("classes",) if listed else ()) if node else []
      fields = loader.construct_document(node) if node else None
  except (ValueError, RecursionError, yaml.YAMLError) as error:
    raise UserError(
      f"Cannot read the label space {where}: {_explain(error)}"
    ) from error
  if twice:
    raise refuse(where, twice, _places(text))
  if isinstance(fields, list):
    fields = {"classes": fields}
  if isinstance(fields, Mapping):
    fields = {"name": path.stem, **fields}
  return parse_space(fields, where=where, places=lambda: _places(text))


def _explain(error: Exception) -> str:
  """Says what is wrong with the YAML, and what that often comes from."""
  mark = getattr(error, "problem_mark", None)
  if mark is None:
    return str(error)
  hints = {
    "mapping values": "Put braces around the fields of a class, {name: cat, "
    "related: [black cat]}, and quotes around a text with a colon.",
    "cannot start": "Indent by spaces, and not by tabs; put quotes around a "
    "text that begins with a mark.",
    "',' or ']'": "Close the bracket, and put quotes around a text with {}: "
    '["a photo of a {}"].',
    "',' or '}'": "Close the brace; related words stand in brackets of their "
    "own.",
  }
  problem = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
  hint = next((h for key, h in hints.items() if key in str(error.problem)), "")
  return f"{problem}. {hint}".rstrip()


def _places(text: str) -> dict[Path, Place]:
  """Returns where each value of a file stands."""
  try:
    root = yaml.compose(text, yaml.SafeLoader)
  except yaml.YAMLError:  # JSON with tabs
    return {}
  places = dict(_walk(root, ()))
  if isinstance(root, yaml.SequenceNode):
    places = {("classes", *path): place for path, place in places.items()}
  return places


def _walk(node: yaml.Node, path: Path) -> Iterator[tuple[Path, Place]]:
  if path:
    written = node.value if isinstance(node, yaml.ScalarNode) else ""
    yield path, Place(node.start_mark.line + 1, written)
  if isinstance(node, yaml.SequenceNode):
    for i, each in enumerate(node.value):
      yield from _walk(each, (*path, i))
  elif isinstance(node, yaml.MappingNode):
    for key, each in node.value:
      yield from _walk(each, (*path, str(key.value)))


def _twice(node: yaml.Node, path: Path) -> list[Problem]:
  """Lists the fields that are given twice, of which YAML takes the last."""
  if isinstance(node, yaml.ScalarNode):
    return []
  problems, seen = [], set()
  for i, each in enumerate(node.value):
    key = str(each[0].value) if isinstance(each, tuple) else i
    if key in seen:
      problems.append(Problem((*path, key), "is given twice"))
    seen.add(key)
    value = each[1] if isinstance(each, tuple) else each
    problems += _twice(value, (*path, key))
  return problems


def _notes(space: LabelSpace) -> list[str]:
  """Returns what a user should know about classes that hold."""
  open_names, settled, notes = [], [], []
  for each in space.classes:
    # Whoever wrote related words has told what is meant.
    (settled if each.description or each.related else open_names).append(
      each.name
    )
    if "_" in each.name:
      spaced = each.name.replace("_", " ")
      notes.append(f"{each.name}: networks read {spaced!r} better")
    if each.name.lower().startswith(("a ", "an ", "the ")):
      notes.append(f"{each.name}: prompts have an article of their own")
  if len(space.classes) == 1:
    notes.append(
      f"There is one class alone, {space.classes[0].name!r}, and no other to "
      "tell it from. In a list, each name has a line of its own, after '- '"
    )
  if warnings := senses.warnings_of(open_names, space.prompts[0], settled):
    notes += [
      "These names have several meanings, and images of all may be drawn; say "
      "which by `sense`, a `description` or `related` words:",
      *warnings,
    ]
  return notes


def identify_texts(space: LabelSpace) -> dict[str, Any] | None:
  """Returns what else than names and templates a classifier's texts are of.

  None for built-in spaces, whose texts are these alone.
  """
  told = {str(c.id): c.description for c in space.classes if c.description}
  if not (told or space.articles):
    return None
  return {"descriptions": told, "articles": space.articles}


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


@functools.cache
def _embedded_space(name: str) -> LabelSpace:
  """Builds a space of the embedded set.

  Related words are the names of the concepts that training sees, so that no
  prompt names a held-out one.
  """
  held = label_spaces.SPACES[name]
  names_of = label_spaces.SUBCATEGORIES
  names = list(dict.fromkeys(names_of[s] for s in held))
  classes = []
  for number, class_name in enumerate(names):
    parts = tuple(s for s in held if names_of[s] == class_name)
    related = tuple(
      concept.name
      for concept in world.concepts()
      if concept.subcategory in parts and concept.split == "train"
    )
    classes.append(Class(number, class_name, related, parts))
  return LabelSpace(
    name, tuple(classes), label_spaces.TEMPLATES, label_spaces.PROMPTS
  )


@functools.cache
def _concept_space(name: str) -> LabelSpace:
  """Builds a space whose classes are single concepts."""
  names = label_spaces.drawn_concepts(label_spaces.CONCEPT_SPACES[name])
  # Captions hold the names themselves; keywords such as "food" are of many.
  classes = tuple(Class(i, name, (name,)) for i, name in enumerate(names))
  return LabelSpace(name, classes, label_spaces.TEMPLATES, label_spaces.PROMPTS)


SPACES = {
  name: functools.partial(build, name)
  for build, names in (
    (_embedded_space, label_spaces.SPACES),
    (_concept_space, label_spaces.CONCEPT_SPACES),
  )
  for name in names
}
