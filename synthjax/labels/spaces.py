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
  filter: "a photo of a {}."          # for CF; by default the first template
  prompts: ["a photo of a {}"]        # for the generator; by default this
  fill_related: true                  # from WordNet, where there are none

The description follows the name in prompts and in the classifier's texts, "a
photo of a crane, a wading bird", and so does that of the meaning that `sense`
chooses: its number, or words of it; see `senses`. "a {}" becomes "an umbrella"
where a name wants it. Reading such a file warns of names of several meanings
that have neither. Related words are written as they are, in place of the name.

The `key` of a class is its folder, synset or label in the data set's own files,
if that is not its name: {id: 0, name: tench, key: n01440764}. Two classes may
share a name only where every class has a key, which then follows the name
wherever they are told apart: "missile (n03773504)". Classes of the embedded set
also list the Unicode `subcategories` they hold. `singular`, of "Industrial
Buildings", is what the language model writes about and the filter asks for.

`space_schema` checks the fields, and `space_yaml` reads the text.
"""

import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from synthjax.data.pipeline import image_files
from synthjax.embedded import world
from synthjax.labels import senses, space_yaml
from synthjax.labels.space_schema import (
  PROMPTS,
  TEMPLATES,
  Class,
  LabelSpace,
  parse_space,
)
from synthjax.runtime import hub
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.text_files import read_text

__all__ = ["PROMPTS", "TEMPLATES", "Class", "LabelSpace", "parse_space"]

ENDINGS = (".yaml", ".yml", ".json")
FOLDER = pathlib.Path(__file__).parent / "label_spaces"


ENSEMBLE = "+ensemble"  # behind the name of a space


def load_space(name: str | Sequence[str | Mapping[str, Any]]) -> LabelSpace:
  """Loads a label space: a built-in one by name, or a user's own by its path.

  Args:
    name: one of `built_in_spaces()`, or the path of a JSON or YAML file, local
      or gs://, or of a folder with a folder for each class; or what such a file
      holds, as a list of class names or a mapping. With ENSEMBLE behind it, the
      classifier averages the templates of `ensemble` (CLIP's prompts, Table
      A.15); prompts, images and the filter are those of the space.

  Raises:
    UserError: about an unknown name, an unreadable file, or listing all
      problems of the space, by their lines.
  """
  if not isinstance(name, str | os.PathLike):
    return _users_space(json.dumps(name, default=list), "classes")
  name = os.fspath(name)
  if name.endswith(ENSEMBLE):
    space = load_space(name.removesuffix(ENSEMBLE))
    if not space.ensemble:
      raise UserError(
        f"The label space {name}: {space.name} has no `ensemble` of templates. "
        f"Leave {ENSEMBLE} out, or add some to a file of your own."
      )
    return space._replace(
      templates=space.ensemble, filter=space.filter or space.templates[0]
    )
  if name in SPACES:
    return SPACES[name]()
  if name in built_in_spaces():
    return _shipped_space(name)
  path = epath.Path(name)
  if path.suffix.lower() not in ENDINGS:
    if not name.startswith(hub.SCHEME) and path.expanduser().is_dir():
      return _users_space(json.dumps(_of_folders(path.expanduser())), name)
    if name.endswith("/"):
      raise UserError(
        f"There is no folder {name}, whose folders are to name the classes."
      )
    if path.suffix or "/" in name:
      raise UserError(
        f"The label space {name} must be a file that ends with "
        f"{' or '.join(ENDINGS)}, a folder that has a folder for each class, "
        f"or one of the built-in ones: {', '.join(built_in_spaces())}."
      )
    allowed = [*built_in_spaces(), "<path>.json", "<path>.yaml"]
    raise unknown_names("label space", [name], allowed)
  return _users_space(read_text(path, "the label space"), name)


@functools.cache
def built_in_spaces() -> tuple[str, ...]:
  """Lists the names of all label spaces that the package holds."""
  return (*SPACES, *sorted(path.stem for path in FOLDER.glob("*.yaml")))


@functools.cache
def _shipped_space(name: str) -> LabelSpace:
  text = (FOLDER / f"{name}.yaml").read_text()
  return _parse(text, where=f"{name}.yaml")


@functools.cache  # so that the warning is logged once
def _users_space(text: str, where: str) -> LabelSpace:
  space = _parse(text, where)._replace(articles=True)
  if notes := _notes(space):
    listed = "\n  ".join(notes)
    logging.warning("About the label space %s:\n  %s", where, listed)
  return space


def _of_folders(path: epath.Path) -> dict[str, Any]:
  """Returns the fields of the space whose classes folders are named like.

  Where one of them is called "train", its folders are those of the classes.
  """
  folders = sorted(
    entry.name
    for entry in path.iterdir()
    if entry.is_dir() and not image_files.is_leftover(entry.name)
  )
  if train := [n for n in folders if n.casefold() in ("train", "training")]:
    return _of_folders(path / train[0]) | {"name": path.name}
  if not folders:
    raise UserError(
      f"{path} holds no folders, whose names could be those of the classes: "
      "list the names in a file, and give it as the labels."
    )
  classes = [{"name": n.replace("_", " "), "key": n} for n in folders]
  return {"name": path.name or "classes", "classes": classes}


def _parse(text: str, where: str) -> LabelSpace:
  fields = space_yaml.read(text, where)
  places = functools.partial(space_yaml.places, text)
  return parse_space(fields, where=where, places=places)


def _notes(space: LabelSpace) -> list[str]:
  """Returns warnings about the classes of a valid space."""
  open_names, settled, notes = [], [], []
  for c in space.classes:
    # Related words, too, say which meaning it is.
    names = settled if c.description or c.related else open_names
    names.append(c.name)
    if "_" in c.name:
      spaced = c.name.replace("_", " ")
      notes.append(f"{c.name}: networks read {spaced!r} better")
    if c.name.lower().startswith(("a ", "an ", "the ")):
      notes.append(f"{c.name}: prompts have an article of their own")
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
  """Returns what a classifier's texts depend on beside names and templates.

  None for built-in spaces, whose texts depend on nothing else.
  """
  descriptions = {
    str(c.id): c.description for c in space.classes if c.description
  }
  if not (descriptions or space.articles):
    return None
  return {"descriptions": descriptions, "articles": space.articles}


def identify(space: LabelSpace) -> dict[str, Any]:
  """Returns the meaning of each label, as plain data for a specification.

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
  subcategories = world.SPACES[name]
  names_of = world.SUBCATEGORIES
  names = list(dict.fromkeys(names_of[s] for s in subcategories))
  classes = []
  for number, class_name in enumerate(names):
    parts = tuple(s for s in subcategories if names_of[s] == class_name)
    related = tuple(
      concept.name
      for concept in world.concepts()
      if concept.subcategory in parts and concept.split == "train"
    )
    classes.append(Class(number, class_name, related, parts))
  return LabelSpace(
    name, tuple(classes), world.CLASSIFIER_TEMPLATES, world.PROMPTS
  )


@functools.cache
def _concept_space(name: str) -> LabelSpace:
  """Builds a space whose classes are single concepts."""
  names = world.drawn_concepts(world.CONCEPT_SPACES[name])
  # Captions hold the names themselves; keywords such as "food" are of many.
  classes = tuple(Class(i, name, (name,)) for i, name in enumerate(names))
  return LabelSpace(name, classes, world.CLASSIFIER_TEMPLATES, world.PROMPTS)


SPACES = {
  name: functools.partial(build, name)
  for build, names in (
    (_embedded_space, world.SPACES),
    (_concept_space, world.CONCEPT_SPACES),
  )
  for name in names
}
