"""What a label space is: its classes, its sentences, and checks of its fields.

`spaces` documents the fields; `space_yaml` reads the text of a file.
"""

import collections
import difflib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from synthjax.embedded import world
from synthjax.labels import articles, class_names, senses
from synthjax.labels.class_names import composed
from synthjax.labels.space_yaml import WRITTEN, Path, Place, Problem, invalid
from synthjax.runtime.errors import UserError, unknown_names

TEMPLATES = ("a photo of a {}.",)
PROMPTS = ("a photo of a {}",)


class Class(NamedTuple):
  """One class of a label space."""

  id: int  # the label, and the column of the logits
  name: str
  related: tuple[str, ...] = ()  # words that prompts may use for the class
  subcategories: tuple[str, ...] = ()  # of the embedded set
  key: str = ""  # its name in the data set's own files, if that is another
  description: str = ""  # its meaning, where the name has several
  singular: str = ""  # for the language model and the filter, if not the name

  @property
  def described(self) -> str:
    """The name and the meaning: "crane, a wading bird"."""
    return f"{self.name}, {self.description}" if self.description else self.name


class LabelSpace(NamedTuple):
  """Classes in the order of their ids, and sentences about them."""

  name: str
  classes: tuple[Class, ...]
  templates: tuple[str, ...] = TEMPLATES  # of the zero-shot classifier
  prompts: tuple[str, ...] = PROMPTS  # of the generator
  ensemble: tuple[str, ...] = ()  # of the classifier that CLIP's paper averages
  filter: str | None = None  # template of the CLIP filter; None is the first
  # Whether sentences say "an organ" where a template says "a {}". Built-in
  # spaces keep what was published, "a photo of a umbrella."; see `articles`.
  articles: bool = False

  @property
  def class_names(self) -> tuple[str, ...]:
    """What each class is called, no two alike: "missile (n03773504)".

    Only names that classes share have the key behind them.
    """
    names = [c.name for c in self.classes]
    return class_names.unique(names, (c.key or c.id for c in self.classes))

  @property
  def keys(self) -> tuple[str, ...]:
    """The name of each class in files: its key, or its name if it has none."""
    return tuple(c.key or c.name for c in self.classes)

  @property
  def described_names(self) -> tuple[str, ...]:
    return tuple(c.described for c in self.classes)

  def sentence(self, template: str, c: Class) -> str:
    """Writes a class, and its meaning if that is given, into a template.

    "a photo of a {}." becomes "a photo of a crane, a wading bird."
    """
    if c.description:  # a comma ends it
      template = template.replace("{} ", "{}, ")
    if self.articles:
      return articles.fill(template, c.described)
    return template.replace("{}", c.described)

  def filter_text(self, c: Class) -> str:
    """Writes the one text of a class that the CLIP filter knows it by."""
    named = c._replace(name=c.singular or c.name)
    return self.sentence(self.filter or self.templates[0], named)


CLASS_FIELDS = ("name", "description", "sense", "related", "id", "key")
CLASS_FIELDS += ("subcategories", "singular")
SPACE_FIELDS = ("name", "classes", "templates", "prompts", "ensemble")
SPACE_FIELDS += ("filter", "fill_related")


def parse_space(
  fields: Any,
  *,
  where: str,
  places: Callable[[], Mapping[Path, Place]] = dict,
) -> LabelSpace:
  """Checks plain data and makes a LabelSpace of it.

  Args:
    fields: of a file; see `spaces`. A list is that of the classes.
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
  problems: list[Problem] = []
  _check_keys((), fields, SPACE_FIELDS, problems)
  if not isinstance(fields.get("name"), str) or not fields["name"].strip():
    problems.append(Problem(("name",), "must be a text"))
  fill = fields.get("fill_related", False)
  if not isinstance(fill, bool):
    text = f"must be true or false, not {fill!r}"
    problems.append(Problem(("fill_related",), text))
  classes = _classes(fields.get("classes"), fill is True, problems)
  sentences = {
    key: _sentences(key, fields, problems)
    for key in ("templates", "prompts", "ensemble")
  }
  if fields.get("filter") is not None:
    given = {"filter": [fields["filter"]]}
    sentences["filter"] = "".join(_sentences("filter", given, problems))
  if problems:
    raise invalid(where, problems, places())
  if fill:
    _log_filled(where, classes, fields["classes"])
  return LabelSpace(fields["name"], classes, **sentences)


def _log_filled(
  where: str, classes: Sequence[Class], values: Sequence[Any]
) -> None:
  """Logs the related words that `fill_related` has added."""
  given = {
    v["name"] for v in values if isinstance(v, Mapping) and v.get("related")
  }
  lines = []
  for c in classes:
    if c.name not in given:
      none = "none"
      if senses.ambiguous(c.name):
        none = "none, before its meaning is given by `sense`"
      lines.append(f"{c.name}: {', '.join(c.related) or none}")
  logging.warning(
    "Related words that %s has from WordNet, as fill_related asks; replace "
    "wrong ones by listing `related` yourself:\n  %s",
    where,
    "\n  ".join(lines),
  )


# --- classes ----------------------------------------------------------------


def _classes(
  values: Any, fill: bool, problems: list[Problem]
) -> tuple[Class, ...]:
  """Returns the classes by id, and adds to the problems."""
  if not isinstance(values, list | tuple) or not values:
    text = f"must be a list of at least one class, {_not_text(values)}"
    problems.append(Problem(("classes",), text))
    return ()
  classes, start = [], len(problems)
  usual = senses.usual_branch(_names(values)) if fill else None
  for position, value in enumerate(values):
    path = ("classes", position)
    if isinstance(value, str):
      value = {"name": value}
    if value is None:
      text = "is empty: write a name there, or remove the line"
      problems.append(Problem(path, text))
    elif not isinstance(value, Mapping):
      text = f"must be a name or a mapping, {_not_text(value)}"
      problems.append(Problem(path, text))
    elif text := _misread_pair(value):
      problems.append(Problem(path, text))
    else:
      classes.append(_class(path, value, usual, problems))
  if len(problems) == start:
    problems += _clashes(classes)
    classes.sort(key=lambda c: c.id)
  return tuple(classes)


def _names(values: Sequence[Any]) -> list[str]:
  """Returns the names of classes that have one."""
  names = [v.get("name") if isinstance(v, Mapping) else v for v in values]
  return [name for name in names if isinstance(name, str)]


def _misread_pair(value: Mapping) -> str:
  """Answers `- crane: a wading bird`, which is a mapping of one field."""
  (name, text), *others = value.items() or [("name", "")]
  if others or name in CLASS_FIELDS:
    return ""
  if difflib.get_close_matches(str(name), CLASS_FIELDS, n=1):
    return ""
  if isinstance(text, Mapping):
    fields = ", ".join(f"{key}: {text[key]}" for key in text)
    return f"has no `name`; write {{name: {name}, {fields}}}"
  description = f", description: {text}" if text else ""
  return f"has no `name`; write {{name: {name}{description}}}"


def _class(
  path: Path, value: Mapping, usual: str | None, problems: list[Problem]
) -> Class:
  """Reads a class, and adds to the problems."""
  start, position = len(problems), path[-1]
  _check_keys(path, value, CLASS_FIELDS, problems)
  # Ids that clash, where only some are given, are reported with the others.
  number, name = value.get("id", position), value.get("name")
  if not isinstance(number, int) or isinstance(number, bool):
    text = f"must be a whole number, not {number!r}"
    problems.append(Problem((*path, "id"), text))
  others = ("key", "description", "singular")
  texts = {"name": name} | {field: value.get(field, "") for field in others}
  for field, text in texts.items():
    is_text = isinstance(text, str)
    if not is_text or (field == "name" and not composed(text).strip()):
      problem = f"must be a text, {_not_text(text)}"
    elif not (problem := _unwritable(text)):
      continue
    problems.append(Problem((*path, field), problem))
    texts[field] = ""
  related = _texts((*path, "related"), value.get("related", ()), problems)
  parts = (*path, "subcategories")
  subcategories = _texts(parts, value.get("subcategories", ()), problems)
  drawn = {c.subcategory for c in world.concepts()} if subcategories else set()
  if unknown := [name for name in subcategories if name not in drawn]:
    error = unknown_names("subcategory", unknown, drawn)
    problems.append(Problem(parts, str(error)))
  made = Class(
    number,
    " ".join(texts["name"].split()),
    related,
    subcategories,
    texts["key"].strip(),
    texts["description"].strip(),
    texts["singular"].strip(),
  )
  if len(problems) == start:
    try:
      return _with_sense(made, value.get("sense"), usual)
    except UserError as error:
      problems.append(Problem((*path, "sense"), str(error)))
  return made


def _with_sense(made: Class, hint: Any, usual: str | None) -> Class:
  """Adds the meaning that a hint chooses, and related words if asked for.

  Args:
    made: the class so far.
    hint: of its meaning, or None.
    usual: the branch of most classes, or "", if words are asked for; else None.

  Raises:
    UserError: about a hint that fits no meaning.
  """
  sense = None
  if hint is not None:
    if not isinstance(hint, int | str) or isinstance(hint, bool) or hint == "":
      raise UserError(f"must be a number or words, not {hint!r}")
    sense = senses.choose(made.name, hint)
    if not made.description:
      made = made._replace(description=sense.description)
  elif usual is not None and not senses.ambiguous(made.name, usual):
    sense = senses.likeliest(made.name, usual)
  if made.related:
    return made
  words = (made.described,) if made.description else ()
  if usual is not None and sense:
    words = (made.described, *senses.related(sense))
  # "Crane" itself would bring back the meaning that the hint rules out.
  different = {word.lower(): word for word in reversed(words)}
  if made.description:
    different.pop(made.name.lower(), None)
  return made._replace(related=tuple(reversed(different.values())))


def _clashes(classes: Sequence[Class]) -> list[Problem]:
  """Lists what two classes share but must not, and ids that leave gaps."""
  problems = []
  are_keyed = all(c.key for c in classes)
  for kind, values_of in (
    ("id", lambda c: [str(c.id)]),
    # As with ImageNet's two missiles, whose synsets differ.
    ("name", lambda c: [] if are_keyed else [composed(c.name).lower()]),
    ("key", lambda c: [composed(c.key or c.name)]),
    ("subcategory", lambda c: c.subcategories),
  ):
    positions = collections.defaultdict(list)
    for position, c in enumerate(classes):
      for value in values_of(c):
        positions[value].append(position)
    hint = ""
    if kind == "name":
      hint = "; leave it there once, or give every class a `key` of its own"
    elif kind == "key":
      hint = "; the key of a class that has none is its name"
      positions = {  # else the names are the problem
        value: places
        for value, places in positions.items()
        if any(classes[place].key for place in places)
      }
    problems += [
      Problem(
        ("classes", places[-1]),
        f"the {kind} {value!r} occurs {len(places)} times{hint}",
      )
      for value, places in sorted(positions.items())
      if len(places) > 1
    ]
  ids = {c.id for c in classes}
  if not problems and ids != set(range(len(classes))):
    text = (
      f"{len(classes)} classes have the ids 0 to {len(classes) - 1}, "
      f"as these are the columns of the logits; found {sorted(ids)}"
    )
    problems.append(Problem(("classes",), text))
  return problems


# --- texts ------------------------------------------------------------------


def _sentences(
  key: str, fields: Mapping, problems: list[Problem]
) -> tuple[str, ...]:
  default, start = LabelSpace._field_defaults[key], len(problems)
  sentences = _texts((key,), fields.get(key, default), problems)
  problems += [
    Problem(
      (key,),
      f"{text!r} must hold {{}} once, for the name, and no other brace",
    )
    for text in sentences
    if text.count("{}") != 1 or {"{", "}"} & set(text.replace("{}", ""))
  ]
  if default and not sentences and len(problems) == start:
    text = f"must not be empty; leave it out for {default}"
    problems.append(Problem((key,), text))
  return sentences


def _texts(path: Path, value: Any, problems: list[Problem]) -> tuple[str, ...]:
  """Returns the texts of a list, and adds to the problems."""
  if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
    hint = f"; write [{value!r}]" if isinstance(value, str) else ""
    text = f"must be a list of texts, not {value!r}{hint}"
    problems.append(Problem(path, text))
    return ()
  texts = []
  for i, item in enumerate(value):
    if isinstance(item, str) and item.strip():
      texts.append(item)
      if problem := _unwritable(item):
        problems.append(Problem((*path, i), problem))
    else:
      written = WRITTEN if isinstance(item, bool | int | float) else ""
      problems.append(Problem((*path, i), f"{item!r} is not a text{written}"))
  return tuple(texts)


def _unwritable(text: str) -> str:
  """Says which characters of a text no prompt and no file can hold."""
  odd = {
    c
    for c in text
    if unicodedata.category(c) in ("Cc", "Cs") and not c.isspace()
  }
  return f"{text!r} holds {', '.join(map(repr, sorted(odd)))}" if odd else ""


def _not_text(value: Any) -> str:
  """Returns the end of a sentence about a value that is no text."""
  # YAML reads no, on, 747 and 2024-01-01 as truths, numbers and dates.
  is_scalar = value is not None and not isinstance(value, str | list | Mapping)
  return f"not {value!r}{WRITTEN if is_scalar else ''}"


def _check_keys(
  path: Path,
  fields: Mapping,
  allowed: Sequence[str],
  problems: list[Problem],
) -> None:
  """Adds each unknown key to the problems, with the nearest allowed one."""
  for key in fields:
    if key not in allowed:
      near = difflib.get_close_matches(str(key), allowed, n=1)
      hint = f"did you mean {near[0]!r}?" if near else f"known are {allowed}"
      problems.append(Problem((*path, str(key)), f"is not a field; {hint}"))
