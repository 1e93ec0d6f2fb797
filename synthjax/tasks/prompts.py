"""Writes what the generator is asked to draw for each class."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.embedded import captions
from synthjax.labels import spaces, wordnet
from synthjax.prompts import grammar, sentences, t5_writer
from synthjax.prompts import strategies as texts
from synthjax.runtime import artifacts
from synthjax.runtime.errors import COUNT, NAMED, TEXTS
from synthjax.runtime.progress import say

REQUIRED = {"strategies": TEXTS}
OPTIONAL = {
  "per_class": COUNT,  # texts of "enhanced"; 200 in the paper
  "writer": NAMED,  # of "enhanced": "grammar", or a block; see writer_fields
  "grammar": NAMED,  # of that writer: a name, or templates and slots
}
KNOWN = REQUIRED | OPTIONAL
BLOCKS = {"writer": t5_writer.KNOWN}
GRAMMAR = "photo"


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and the names in them."""
  del workdir
  block = config.prompts.to_dict()
  validate(block, KNOWN, name="prompts", required=REQUIRED)
  texts.check_strategies(block["strategies"])
  grammar.read_grammar(block.get("grammar", GRAMMAR))
  space = spaces.load_space(config.space)
  if writer := t5_writer.read(block, validate):
    _load_t5().check(weights=writer["weights"], tokenizer=writer["tokenizer"])
  elif set(block["strategies"]) == {"enhanced"}:
    _warn_of_unused(config.space, space.prompts)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `prompts.jsonl`."""
  block = config.prompts.to_dict()
  folder = epath.Path(workdir) / "prompts"
  space = spaces.load_space(config.space)
  writer = t5_writer.read(block, validate)
  block.pop("writer", None)
  spec = {
    # A file of weights may move; what is in it may not change.
    "prompts": block | ({"writer": _identify(writer)} if writer else {}),
    "seed": config.seed,
    "space": {
      "name": space.name,
      "prompts": space.prompts,
      "classes": {str(c.id): [c.described, *c.related] for c in space.classes},
    },
  }
  if artifacts.begin(folder, spec):
    return
  per_class = block.get("per_class", t5_writer.PER_CLASS)
  written, summary = None, {}
  if writer:
    written, summary["writer"] = _write(writer, space, per_class, config.seed)
  rows = texts.make(
    space,
    strategies=block["strategies"],
    per_class=per_class,
    grammar=block.get("grammar", GRAMMAR),
    written=written,
    seed=config.seed,
  )
  texts.write(folder, rows)
  summary["fewer_than_asked"] = _fewer_than_asked(
    rows,
    per_class,
    "raise prompts.writer.num_samples, temperature or top_k, or filter less"
    if writer
    else "give the classes more related words, or prompts.grammar more "
    "templates",
  )
  summary["unknown_words"] = _unknown_words(config, rows)
  artifacts.finish(folder, spec, {texts.FILE: len(rows)}, **summary)
  counts = Counter(row.strategy for row in rows)
  listed = ", ".join(f"{n:,} {name}" for name, n in counts.items())
  say(f"prompts: {listed} for {len(space.classes)} classes")


def _warn_of_unused(space: str, prompts: tuple[str, ...]) -> None:
  """Warns of prompts of a user's own, which a grammar has no use for."""
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
  rows: list[Any], per_class: int, advice: str
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


def _unknown_words(config: ConfigDict, rows: list[Any]) -> dict[str, list[str]]:
  """Warns of words that the embedded generator never met; returns them.

  By the name of the class, of which the prompts hold them.
  """
  base = config.get("generator", {}).get("base", {})
  if not str(base.get("weights")).startswith("embedded:"):
    return {}
  texts_of: dict[str, list[str]] = {}
  for row in rows:
    texts_of.setdefault(row.class_name, []).append(row.text)
  found = {k: captions.unknown_words(t) for k, t in texts_of.items()}
  found = {name: words for name, words in found.items() if words}
  if found:
    listed = "; ".join(
      f"{', '.join(map(repr, words[:5]))} of {name!r}"
      for name, words in list(found.items())[:10]
    )
    logging.warning(
      "The prompts of %d classes have words that no caption of the embedded "
      "world holds: %s. Its generator never met them and draws something else. "
      "Give these classes `related` words that it knows (the names in "
      "synthjax/embedded/concepts.json), or use a generator of full size.",
      len(found),
      listed,
    )
  return found


# --- a language model as the writer -----------------------------------------


def _identify(writer: Mapping[str, Any]) -> dict[str, Any]:
  # The batch changes how fast sentences are written, and not which.
  settings = {
    k: v for k, v in writer.items() if k not in ("name", "batch_size")
  }
  return _load_t5().identify(**settings)


def _write(
  writer: Mapping[str, Any], space: spaces.LabelSpace, per_class: int, seed: int
) -> tuple[dict[int, list[str]], dict[str, int]]:
  """Writes the texts of each label, and counts what became of them."""
  of_model = ("weights", "tokenizer", "batch_size", "dtype")
  of_sampling = ("max_length", "temperature", "top_k", "top_p")
  options = {key: writer[key] for key in (*of_model, *of_sampling)}
  filters = {key: writer[key] for key in sentences.Filters._fields}
  topics = {each.id: _topic(each) for each in space.classes}
  written, counts = sentences.write(
    {topics[each.id]: each.name for each in space.classes},
    _load_t5().load(seed=seed, **options),
    per_class=per_class,
    num_samples=writer["num_samples"],
    rng_of=partial(texts.class_rng, seed),
    filters=sentences.Filters(**filters),
    article=writer["article"],
  )
  template = writer["sentence_template"] or space.prompts[0]
  filled = {
    label: [template.replace("{}", sentence) for sentence in written[topic]]
    for label, topic in topics.items()
  }
  return filled, counts


def _topic(each: spaces.Class) -> str:
  """Returns the name, and a word for what is meant where that is told."""
  kind = wordnet.head_word(each.description)
  named = kind.lower() in each.name.lower().split()
  return each.name if not kind or named else f"{each.name}, {kind}"


def _load_t5():
  from synthjax.prompts import t5_writer

  return t5_writer
