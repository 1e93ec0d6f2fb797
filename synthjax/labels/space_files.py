"""The fields of a label space, and what is said about those that do not hold.

`spaces` describes the files, and reads them.
"""

import collections
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from synthjax.embedded import world
from synthjax.labels import articles, senses
from synthjax.runtime.errors import UserError, unknown_names

# --- problems with the fields of a file --------------------------------------

MAX_LISTED = 40  # problems of an error
# The end of a problem whose value YAML reads as something else than a text.
WRITTEN = " <as written>"
Path = tuple[str | int, ...]  # ("classes", 1, "name")


class Place(NamedTuple):
  """Where a value stands in a file, and how it is written there."""

  line: int  # the first is 1
  text: str


class Problem(NamedTuple):
  """What is wrong, and with which value."""

  path: Path
  text: str


def refuse(
  where: str, problems: Sequence[Problem], places: Mapping[Path, Place]
) -> UserError:
  """Returns an error that lists the problems by their lines.

  Args:
    where: names the file.
    problems: at least one.
    places: of the values; empty where lines are not known.
  """
  told = []
  for path, text in problems:
    # A value that is not there has the line of what lacks it.
    above = (places.get(path[:n]) for n in range(len(path), 0, -1))
    line = next((place.line for place in above if place), 0)
    if path in places and text.endswith(WRITTEN):
      text = text.replace(WRITTEN, f'; in quotes, "{places[path].text}" is one')
    before = f"line {line}: " if line else ""
    told.append((line, f"{before}{_written(path)}: {text}"))
  lines = [text.removesuffix(WRITTEN) for _, text in sorted(told)]
  if len(lines) > MAX_LISTED:
    lines[MAX_LISTED:] = [f"and {len(lines) - MAX_LISTED} more"]
  listed = "\n  ".join(lines)
  return UserError(f"The label space {where} does not hold:\n  {listed}")


def _written(path: Path) -> str:
  text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
  return text.removeprefix(".")


def not_text(value: Any) -> str:
  """Ends a sentence about a value that is no text."""
  # YAML reads no, on, 747 and 2024-01-01 as truths, numbers and dates.
  scalar = value is not None and not isinstance(value, str | list | Mapping)
  return f"not {value!r}{WRITTEN if scalar else ''}"


def read_texts(path: Path, value: Any) -> tuple[tuple[str, ...], list[Problem]]:
  """Reads a list of texts; returns those that are, and the problems."""
  if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
    hint = f"; write [{value!r}]" if isinstance(value, str) else ""
    return (), [Problem(path, f"must be a list of texts, not {value!r}{hint}")]
  texts, problems = [], []
  for i, each in enumerate(value):
    if isinstance(each, str) and each.strip():
      texts.append(each)
    else:
      scalar = WRITTEN if isinstance(each, bool | int | float) else ""
      problems.append(Problem((*path, i), f"{each!r} is not a text{scalar}"))
  return tuple(texts), problems


def unknown_keys(
  path: Path, fields: Mapping, known: Sequence[str]
) -> list[Problem]:
  """Lists the keys that nothing reads, each with the nearest that is."""
  problems = []
  for key in fields:
    if key not in known:
      near = difflib.get_close_matches(str(key), known, n=1)
      hint = f"did you mean {near[0]!r}?" if near else f"known are {known}"
      problems.append(Problem((*path, str(key)), f"is not a field; {hint}"))
  return problems


def clashes(classes: Sequence[Any]) -> list[Problem]:
  """Lists what two classes share but must not, and ids that leave gaps."""
  problems = []
  keyed = all(c.key for c in classes)
  for what, values in (
    ("id", [[str(c.id)] for c in classes]),
    # As with ImageNet's two missiles, whose synsets differ.
    ("name", [[] if keyed else [c.name.lower()] for c in classes]),
    ("key", [[c.key] if c.key else [] for c in classes]),
    ("subcategory", [c.subcategories for c in classes]),
  ):
    places = collections.defaultdict(list)
    for position, own in enumerate(values):
      for value in own:
        places[value].append(position)
    hint = ""
    if what == "name":
      hint = "; leave it there once, or give every class a `key` of its own"
    problems += [
      Problem(
        ("classes", found[-1]),
        f"the {what} {value!r} occurs {len(found)} times{hint}",
      )
      for value, found in sorted(places.items())
      if len(found) > 1
    ]
  ids = {c.id for c in classes}
  if not problems and ids != set(range(len(classes))):
    text = (
      f"{len(classes)} classes have the ids 0 to {len(classes) - 1}, "
      f"as these are the columns of the logits; found {sorted(ids)}"
    )
    problems.append(Problem(("classes",), text))
  return problems


# --- ------
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
  def keys(self) -> tuple[str, ...]:
    """What files call each class: its key, or its name where it has none."""
    return tuple(c.key or c.name for c in self.classes)

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
  known = {c.subcategory for c in world.concepts()} if parts else set()
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
