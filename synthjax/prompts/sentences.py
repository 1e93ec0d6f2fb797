"""Language enhancement by a language model: sentences about each class.

The model (Section 3.1) arrives as a function; this module asks it and filters
its sentences.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

import numpy as np

from synthjax.config.schema import Choice, Count, Rule, Whole
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_text

# Each module has `Fields`, a dataclass that inherits `Writing`, and functions
# of it: `check(fields)`, which says before it costs anything what keeps `load`
# from working; `identify(fields)`, plain data that identifies its files; and
# `load(fields, seed=...) -> Sample`.
WRITERS = {
  "file": "synthjax.prompts.file_writer",
  "qwen3": "synthjax.prompts.qwen3_writer",
  "t5": "synthjax.prompts.t5_writer",
}
WRITER = Choice("name", WRITERS, member="Fields")

# Maps n topics, and a number for each, to n sentences. A sentence depends on
# its topic and its number alone; None: there are fewer.
Sample = Callable[[Sequence[str], Sequence[int]], Sequence[str | None]]

ROUNDS = 8  # of asking, before a class has to do with fewer sentences

HAS_SLOT = Rule(lambda x: x.count("{}") == 1, "text with one {}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
  """Which sentences are kept; by default, as in the paper, all."""

  contains_class: bool = False  # in any case, singular or plural
  min_words: Whole = 0
  max_words: Whole = 0  # 0: any number
  # Words, or several in a row; or a file with one entry on each line.
  blocklist: str | tuple[str, ...] = ()

  def problems(self) -> Iterable[str]:
    if 0 < self.max_words < self.min_words:
      yield (
        f"max_words={self.max_words} is below min_words={self.min_words}: give "
        "as many or more, or 0 for any number"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writing(Filters):
  """The fields of every writer: how it is asked, and what is kept."""

  name: str = ""  # as a config gives it
  num_samples: Count | None = None  # of a class in a round; per_class + 50
  # By default the first prompt of the label space.
  sentence_template: Annotated[str, HAS_SLOT] | None = None


_WORD = re.compile(r"[^\W_]+")
_IRREGULAR = {
  "children": "child",
  "feet": "foot",
  "geese": "goose",
  "men": "man",
  "mice": "mouse",
  "people": "person",
  "teeth": "tooth",
  "women": "woman",
}


_FILTERS = tuple(field.name for field in dataclasses.fields(Filters))


def write(
  topics: Mapping[str, str],
  sample: Sample,
  *,
  per_class: int,
  num_samples: int,
  rng_of: Callable[[str], np.random.Generator],
  filters: Filters,
) -> tuple[dict[str, list[str]], dict[str, int]]:
  """Writes different sentences about each class.

  Each class is asked for num_samples sentences. From those that differ,
  per_class are drawn. A class with fewer is asked again, up to ROUNDS times.

  Args:
    topics: of the classes -> their names. A topic is the name itself, or with
      a word for its meaning, "crane, bird".
    sample: the model.
    per_class: sentences of a class.
    num_samples: sentences of a round; 50 more than per_class in the paper.
    rng_of: maps a topic to the generator of its draw.
    filters: of the sentences that may be drawn.

  Returns:
    The sentences of each topic, which do not depend on the others; and the
    number that were "sampled", and dropped as "duplicates", as "empty", or by
    each filter.
  """
  kept: dict[str, list[str]] = {topic: [] for topic in topics}
  seen: dict[str, set[str]] = {topic: set() for topic in kept}
  counts = Counter(
    dict.fromkeys(("sampled", "duplicates", "empty", *_FILTERS), 0)
  )
  for first in range(0, ROUNDS * num_samples, num_samples):
    short = [topic for topic in kept if len(kept[topic]) < per_class]
    if not short:
      break
    numbers = range(first, first + num_samples)
    asked = [(topic, number) for topic in short for number in numbers]
    sentences = sample(*map(list, zip(*asked, strict=True)))
    for (topic, _), sentence in zip(asked, sentences, strict=True):
      if sentence is None:
        continue
      counts["sampled"] += 1
      if sentence in seen[topic]:
        counts["duplicates"] += 1
      elif reason := dropped_by(sentence, topics[topic], filters):
        counts[reason] += 1
      else:
        kept[topic].append(sentence)
      seen[topic].add(sentence)
  drawn = {
    topic: _draw(sentences, per_class, rng_of(topic))
    for topic, sentences in kept.items()
  }
  return drawn, dict(counts)


def dropped_by(sentence: str, name: str, filters: Filters) -> str | None:
  """Returns the first field of the filters that drops a sentence, or None.

  A sentence without words is dropped as "empty", whatever the filters.
  """
  num_words = len(sentence.split())
  if not _WORD.search(sentence):
    return "empty"
  if filters.contains_class and not contains(sentence, name):
    return "contains_class"
  if num_words < filters.min_words:
    return "min_words"
  if filters.max_words and num_words > filters.max_words:
    return "max_words"
  if any(contains(sentence, word) for word in filters.blocklist):
    return "blocklist"
  return None


def contains(sentence: str, name: str) -> bool:
  """Returns whether the words of a name follow each other in a sentence.

  In any case, each in singular or plural; the name may begin with an article.
  """
  of_name = [_singulars(word) for word in _words(name)]
  if len(of_name) > 1 and of_name[0] & {"a", "an", "the"}:
    of_name = of_name[1:]
  words = [_singulars(word) for word in _words(sentence)]
  return any(
    all(one & other for one, other in zip(of_name, words[i:], strict=False))
    for i in range(len(words) - len(of_name) + 1)
  )


def read_blocklist(blocklist: str | tuple[str, ...]) -> tuple[str, ...]:
  """Returns the entries of `Filters.blocklist`; in a file, "#" is a comment.

  Raises:
    UserError: about a file that cannot be read.
  """
  if not isinstance(blocklist, str):
    return blocklist
  try:
    lines = read_text(blocklist).splitlines()
  except UserError as error:
    raise UserError(
      f"config.prompts.writer.blocklist={blocklist!r}: {error} It "
      "is a file with one word on each line, or a tuple of words."
    ) from error
  entries = (line.partition("#")[0].strip() for line in lines)
  return tuple(entry for entry in entries if entry)


def _draw(
  sentences: Sequence[str], count: int, rng: np.random.Generator
) -> list[str]:
  """Draws without replacement; takes all as they came where too few are."""
  if len(sentences) < count:
    return list(sentences)
  order = rng.choice(len(sentences), count, replace=False)
  return [sentences[i] for i in order]


def _words(text: str) -> list[str]:
  return [word.lower() for word in _WORD.findall(text)]


def _singulars(word: str) -> set[str]:
  """Returns what a word may be the plural of, and the word itself."""
  singulars = {word, _IRREGULAR.get(word, word)}
  for ending, instead in (
    ("s", ""),
    ("es", ""),
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
  ):
    if word.endswith(ending) and len(word) > len(ending) + 1:
      singulars.add(word.removesuffix(ending) + instead)
  return singulars
