"""Writes the prompts from which the generator draws each class."""

import contextlib
import dataclasses
import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from synthjax import generators
from synthjax.config import schema
from synthjax.config.schema import Block, Count, Rule
from synthjax.embedded import captions
from synthjax.labels import spaces, wordnet
from synthjax.prompts import file_writer, grammar, sentences, strategies
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError, gathered
from synthjax.runtime.progress import say
from synthjax.tokenizers import cut_texts

Strategies = Annotated[
  tuple[Annotated[str, schema.one_of(strategies.STRATEGIES)], ...],
  Rule(
    lambda x: 0 < len(x) == len({*x}),
    f"one or more of {', '.join(strategies.STRATEGIES)}, each once",
  ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
  """config.prompts."""

  strategies: Strategies
  per_class: Count = 200  # texts of "enhanced", as in the paper
  # Of "enhanced": the grammar, or a language model.
  writer: Literal["grammar"] | Annotated[Any, sentences.WRITER] = "grammar"
  # The grammar's name in GRAMMARS, or its templates and slots.
  grammar: str | Block | None = None  # "photo"

  def problems(self) -> Iterable[str]:
    if self.model and self.grammar is not None:
      yield (
        f"it has a grammar and the writer {self.model.name!r}, which reads "
        "none: leave one of them out"
      )

  @property
  def model(self) -> sentences.Writing | None:
    """The language model that writes the texts, if one does."""
    is_used = self.writer != "grammar" and "enhanced" in self.strategies
    return self.writer if is_used else None

  @property
  def texts(self) -> str | Block:
    """The grammar that writes the texts, if no language model does."""
    return grammar.DEFAULT if self.grammar is None else self.grammar

  @property
  def num_samples(self) -> int:
    """How many sentences of a class the language model writes in a round."""
    return self.model.num_samples or self.per_class + 50


FIELDS = Prompts


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and the files of a language model."""
  del workdir
  fields = schema.read(Prompts, config.prompts, "config.prompts")
  with gathered() as attempt:
    attempt(grammar.read_grammar, fields.texts)
    if fields.model:
      attempt(sentences.read_blocklist, fields.model.blocklist)
      attempt(inspect.getmodule(type(fields.model)).check, fields.model)
    space = spaces.load_space(config.space)
  if not fields.model and {*fields.strategies} == {"enhanced"}:
    _warn_of_unused(config.space, space.prompts)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `prompts.jsonl`."""
  fields = schema.read(Prompts, config.prompts, "config.prompts")
  folder = epath.Path(workdir) / "prompts"
  space = spaces.load_space(config.space)
  block = config.prompts.to_dict()
  block.pop("writer", None)
  spec = {
    # A file of weights may move, but not change.
    "prompts": block | ({"writer": _identify(fields)} if fields.model else {}),
    "seed": config.seed,
    "space": {
      "name": space.name,
      "prompts": space.prompts,
      "classes": {
        str(c.id): [c.described, *c.related, *filter(None, [c.singular])]
        for c in space.classes
      },
    },
  }
  if artifacts.begin(folder, spec):
    return
  written, summary = None, {}
  advice = "give the classes more related words, or the grammar more templates"
  if fields.model:
    written, summary["writer"] = _write(fields, space, config.seed)
    advice = "raise num_samples, temperature or top_k of the writer, or filter "
    advice += "less"
  rows = strategies.make(
    space,
    strategies=fields.strategies,
    per_class=fields.per_class,
    grammar=fields.texts,
    written=written,
    seed=config.seed,
  )
  strategies.write(folder, rows)
  summary["fewer_than_asked"] = _fewer_than_asked(
    rows, fields.per_class, advice
  )
  summary["unknown_words"] = _unknown_words(config, rows)
  if "generate" in config.tasks:
    with contextlib.suppress(UserError):  # of weights: `generate` says so
      network = generators.reads(**config.generator.to_dict())
      texts = (row.text for row in rows)
      cut_texts.warn_of_cut(network, texts, field="config.generator")
  artifacts.finish(folder, spec, {strategies.FILE: len(rows)}, **summary)
  counts = Counter(row.strategy for row in rows)
  listed = ", ".join(f"{n:,} {name}" for name, n in counts.items())
  say(f"prompts: {listed} for {len(space.classes)} classes")


def _warn_of_unused(space: str, prompts: tuple[str, ...]) -> None:
  """Warns about prompts of a user's own, which a grammar does not use."""
  if space not in spaces.built_in_spaces() and prompts != spaces.PROMPTS:
    logging.warning(
      "The prompts of %s (%r, ...) are not drawn from: a grammar writes the "
      "texts. `own_labels.py:strategy=template` takes them; elsewhere "
      "config.prompts.strategies=('template',) does, with arms of config.tune "
      "that have this strategy.",
      space,
      prompts[0],
    )


def _fewer_than_asked(
  rows: Sequence[strategies.Prompt], per_class: int, advice: str
) -> dict[str, int]:
  """Warns of the classes with fewer texts; returns their counts."""
  counts = Counter(r.class_name for r in rows if r.strategy == "enhanced")
  short = {name: n for name, n in counts.items() if n < per_class}
  if short:
    listed = ", ".join(f"{name!r} {n}" for name, n in list(short.items())[:10])
    logging.warning(
      "%d classes have fewer than the %d different texts asked for: %s. All "
      "there are were taken; %s.",
      len(short),
      per_class,
      listed,
      advice,
    )
  return short


def _unknown_words(
  config: ConfigDict, rows: Sequence[strategies.Prompt]
) -> dict[str, list[str]]:
  """Warns about words that the embedded generator was not trained with.

  Returns:
    Such words of the prompts, by the name of the class.
  """
  base = config.get("generator", {}).get("base", {})
  if not str(base.get("weights")).startswith("embedded:"):
    return {}
  texts_of: dict[str, list[str]] = {}
  for row in rows:
    texts_of.setdefault(row.class_name, []).append(row.text)
  unknown = {k: captions.unknown_words(t) for k, t in texts_of.items()}
  unknown = {name: words for name, words in unknown.items() if words}
  if unknown:
    listed = "; ".join(
      f"{', '.join(map(repr, words[:5]))} of {name!r}"
      for name, words in list(unknown.items())[:10]
    )
    logging.warning(
      "The prompts of %d classes have words that no caption of the embedded "
      "world holds: %s. Its generator was not trained with them and draws "
      "something else. Give these classes `related` words that it knows (the "
      "names in synthjax/embedded/concepts.json), or use a generator of full "
      "size.",
      len(unknown),
      listed,
    )
  return unknown


# --- a language model as the writer -----------------------------------------


def _identify(fields: Prompts) -> dict[str, Any]:
  """Returns plain data that identifies the writer's files and settings."""
  writer = fields.model
  settings = dataclasses.asdict(writer) | {
    "num_samples": fields.num_samples,
    "blocklist": sentences.read_blocklist(writer.blocklist),
  }
  # A batch changes the speed alone; `identify` has a precision of note.
  for name in ("name", "batch_size", "precision"):
    settings.pop(name, None)
  return settings | inspect.getmodule(type(writer)).identify(writer)


def _write(
  fields: Prompts, space: spaces.LabelSpace, seed: int
) -> tuple[dict[int, list[str]], dict[str, int]]:
  """Writes the texts of each label; counts how many were kept and dropped."""
  writer = fields.model
  topics = {c.id: topic(c) for c in space.classes}
  if isinstance(writer, file_writer.Fields):  # it lists them as prompts.jsonl
    names = zip(space.classes, space.class_names, strict=True)
    topics = {c.id: name for c, name in names}
  written, counts = sentences.write(
    {topics[c.id]: c.name for c in space.classes},
    inspect.getmodule(type(writer)).load(writer, seed=seed),
    per_class=fields.per_class,
    num_samples=fields.num_samples,
    rng_of=partial(strategies.class_rng, seed),
    filters=dataclasses.replace(
      writer, blocklist=sentences.read_blocklist(writer.blocklist)
    ),
  )
  template = writer.sentence_template or space.prompts[0]
  texts = {
    label: [template.replace("{}", sentence) for sentence in written[topic]]
    for label, topic in topics.items()
  }
  return texts, counts


def topic(c: spaces.Class) -> str:
  """Returns the name, and the main word of its description if it has one."""
  name, word = c.singular or c.name, wordnet.head_word(c.description)
  is_in_name = word.lower() in name.lower().split()
  return name if not word or is_in_name else f"{name}, {word}"
