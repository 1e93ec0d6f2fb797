"""The fields of a label space, and what is said about those that do not hold.

`spaces` describes the files, and reads them.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from synthjax import articles
from synthjax.data import embedded, senses
from synthjax.data.space_problems import (
  Path,
  Place,
  Problem,
  clashes,
  not_text,
  read_texts,
  refuse,
  unknown_keys,
)
from synthjax.errors import UserError, unknown_names

TEMPLATES = ("a photo of a {}.",)
PROMPTS = ("a photo of a {}",)


class Class(NamedTuple):
  """One class of a label space."""

  id: int  # the label, and the column of the logits
  name: str
  related: tuple[str, ...] = ()  # words that prompts may use for the class
  subcategories: tuple[str, ...] = ()  # of the embedded set
  key: str = ""  # what the data set's own files call it, if not by its name
  description: str = ""  # what is meant, where the name may mean several things

  @property
  def described(self) -> str:
    """The name and what is meant: "crane, a wading bird"."""
    return f"{self.name}, {self.description}" if self.description else self.name


class LabelSpace(NamedTuple):
  """Classes in the order of their ids, and sentences about them."""

  name: str
  classes: tuple[Class, ...]
  templates: tuple[str, ...] = TEMPLATES  # of the zero-shot classifier
  prompts: tuple[str, ...] = PROMPTS  # of the generator
  ensemble: tuple[str, ...] = ()  # what CLIP's paper averages the classifier of
  # Whether sentences say "an organ" where a template says "a {}". Built-in
  # spaces keep what was published, "a photo of a umbrella."; see `articles`.
  articles: bool = False

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(each.name for each in self.classes)

  @property
  def described_names(self) -> tuple[str, ...]:
    return tuple(each.described for each in self.classes)

  def sentence(self, template: str, each: Class) -> str:
    """Writes a class, and what is meant if that is told, into a template.

    "a photo of a {}." becomes "a photo of a crane, a wading bird."
    """
    if each.description:  # is set off from what follows
      template = template.replace("{} ", "{}, ")
    if self.articles:
      return articles.fill(template, each.described)
    return template.replace("{}", each.described)


# What a file may have, and what it becomes.
CLASS_FIELDS = ("name", "description", "sense", "related", "id", "key")
CLASS_FIELDS += ("subcategories",)
SPACE_FIELDS = ("name", "classes", "templates", "prompts", "ensemble")
SPACE_FIELDS += ("fill_related",)


def parse_space(
  fields: Any,
  *,
  where: str,
  places: Callable[[], Mapping[Path, Place]] = dict,
) -> LabelSpace:
  """Checks plain data and makes a LabelSpace of it.

  Args:
    fields: what a file holds; see `spaces`. A list is that of the classes.
    where: names its origin in errors.
    places: returns where in a file each value stands, if there are problems.

  Raises:
    UserError: listing every problem at once.
  """
  if isinstance(fields, list | tuple):
    fields = {"name": where, "classes": fields}
  if not isinstance(fields, Mapping):
    raise UserError(
      f"The label space {where} must be a list of names, or a mapping with "
      f"`classes`, not {fields!r:.60}. Begin the line of each name with '- '."
    )
  problems = unknown_keys((), fields, SPACE_FIELDS)
  if not isinstance(fields.get("name"), str) or not fields["name"].strip():
    problems.append(Problem(("name",), "must be a text"))
  fill = fields.get("fill_related", False)
  if not isinstance(fill, bool):
    text = f"must be true or false, not {fill!r}"
    problems.append(Problem(("fill_related",), text))
  classes, found = _classes(fields.get("classes"), fill is True)
  problems += found
  sentences = {}
  for key in ("templates", "prompts", "ensemble"):
    sentences[key], found = _sentences(key, fields)
    problems += found
  if problems:
    raise refuse(where, problems, places())
  if fill:
    _tell_filled(where, classes, fields["classes"])
  return LabelSpace(fields["name"], classes, **sentences)


def _tell_filled(
  where: str, classes: Sequence[Class], values: Sequence[Any]
) -> None:
  """Logs the related words that the classes were given here."""
  given = {
    v["name"] for v in values if isinstance(v, Mapping) and v.get("related")
  }
  lines = []
  for each in classes:
    if each.name not in given:
      none = "none"
      if senses.ambiguous(each.name):
        none = "none, before it is told what is meant"
      lines.append(f"{each.name}: {', '.join(each.related) or none}")
  logging.warning(
    "Related words that %s has from WordNet, as fill_related asks; leave out "
    "what is wrong by listing `related` yourself:\n  %s",
    where,
    "\n  ".join(lines),
  )


# --- classes ----------------------------------------------------------------


def _classes(
  values: Any, fill: bool
) -> tuple[tuple[Class, ...], list[Problem]]:
  """Reads the classes; returns them by id, and all problems."""
  if not isinstance(values, list | tuple) or not values:
    text = f"must be a list of at least one class, {not_text(values)}"
    return (), [Problem(("classes",), text)]
  classes, problems = [], []
  usual = senses.usual_branch(_names(values)) if fill else None
  for position, value in enumerate(values):
    path = ("classes", position)
    if isinstance(value, str):
      value = {"name": value}
    if not isinstance(value, Mapping):
      text = f"must be a name or a mapping, {not_text(value)}"
      if value is None:
        text = "is empty: write a name there, or remove the line"
      problems.append(Problem(path, text))
    elif pair := _pair(value):
      problems.append(Problem(path, pair))
    else:
      each, found = _class(path, value, position, usual)
      classes.append(each)
      problems += found
  if not problems:
    problems = clashes(classes)
    classes.sort(key=lambda each: each.id)
  return tuple(classes), problems


def _names(values: Sequence[Any]) -> list[str]:
  """Returns the names of classes that have one."""
  names = [v.get("name") if isinstance(v, Mapping) else v for v in values]
  return [name for name in names if isinstance(name, str)]


def _pair(value: Mapping) -> str:
  """Answers `- crane: a wading bird`, which is a mapping of one field."""
  (name, text), *others = value.items() or [("name", "")]
  near = difflib.get_close_matches(str(name), CLASS_FIELDS, n=1)
  if others or near or name in CLASS_FIELDS:
    return ""
  if isinstance(text, Mapping):
    fields = ", ".join(f"{key}: {text[key]}" for key in text)
    return f"has no `name`; write {{name: {name}, {fields}}}"
  meant = f", description: {text}" if text else ""
  return f"has no `name`; write {{name: {name}{meant}}}"


def _class(
  path: Path, value: Mapping, position: int, usual: str | None
) -> tuple[Class, list[Problem]]:
  problems = unknown_keys(path, value, CLASS_FIELDS)
  # Clashing ids, of which some are given and some are not, are told later.
  number, name = value.get("id", position), value.get("name")
  if not isinstance(number, int) or isinstance(number, bool):
    text = f"must be a whole number, not {number!r}"
    problems.append(Problem((*path, "id"), text))
  if not isinstance(name, str) or not name.strip():
    text = f"must be a text, {not_text(name)}"
    problems.append(Problem((*path, "name"), text))
    name = ""
  name = " ".join(name.split())
  texts = {}
  for field in ("key", "description"):
    texts[field] = value.get(field, "")
    if not isinstance(texts[field], str):
      text = f"must be a text, {not_text(texts[field])}"
      problems.append(Problem((*path, field), text))
    else:
      texts[field] = texts[field].strip()
  related, found = read_texts((*path, "related"), value.get("related", ()))
  parts, more = read_texts(
    (*path, "subcategories"), value.get("subcategories", ())
  )
  problems += found + more
  known = {c.subcategory for c in embedded.concepts()} if parts else set()
  if unknown := [part for part in parts if part not in known]:
    error = unknown_names("subcategory", unknown, known)
    problems.append(Problem((*path, "subcategories"), str(error)))
  each = Class(number, name, related, parts, **texts)
  if not name or problems:
    return each, problems
  try:
    return _settle(each, value.get("sense"), usual), []
  except UserError as error:
    return each, [Problem((*path, "sense"), str(error))]


def _settle(each: Class, hint: Any, usual: str | None) -> Class:
  """Adds what a hint tells, and related words if they are wanted.

  Args:
    each: the class so far.
    hint: of its meaning, or None.
    usual: what most classes are, or "", if words are wanted; else None.

  Raises:
    UserError: about a hint that fits no meaning.
  """
  sense = None
  if hint is not None:
    if not isinstance(hint, int | str) or isinstance(hint, bool) or hint == "":
      raise UserError(f"must be a number or words, not {hint!r}")
    sense = senses.choose(each.name, hint)
    if not each.description:
      each = each._replace(description=sense.description)
  elif usual is not None and not senses.ambiguous(each.name, usual):
    sense = senses.likeliest(each.name, usual)
  if each.related:
    return each
  words = (each.described,) if each.description else ()
  if usual is not None and sense:
    words = (each.described, *senses.related(sense))
  # "Crane" itself would bring back what the hint has settled.
  different = {word.lower(): word for word in reversed(words)}
  if each.description:
    different.pop(each.name.lower(), None)
  return each._replace(related=tuple(reversed(different.values())))


# --- texts ------------------------------------------------------------------


def _sentences(
  key: str, fields: Mapping
) -> tuple[tuple[str, ...], list[Problem]]:
  default = LabelSpace._field_defaults[key]
  sentences, problems = read_texts((key,), fields.get(key, default))
  problems += [
    Problem(
      (key,),
      f"{text!r} must hold {{}} once, for the name, and no other brace",
    )
    for text in sentences
    if text.count("{}") != 1 or {"{", "}"} & set(text.replace("{}", ""))
  ]
  if default and not sentences and not problems:
    text = f"must not be empty; leave it out for {default}"
    problems.append(Problem((key,), text))
  return sentences, problems
