"""Writes what the generator is asked to draw for each class."""

from collections import Counter
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.data import spaces
from synthjax.text import enhance
from synthjax.text import prompts as texts
from synthjax.train.metrics import say

REQUIRED = ("strategies",)
OPTIONAL = (
  "per_class",  # texts of "enhanced"; 200 in the paper
  "grammar",  # of "enhanced": a name, or templates and slots
)
PER_CLASS, GRAMMAR = 200, "photo"


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and the names in them."""
  del workdir
  block = config.prompts.to_dict()
  validate(block, OPTIONAL, name="prompts", required=REQUIRED)
  texts.check_strategies(block["strategies"])
  enhance.read_grammar(block.get("grammar", GRAMMAR))
  spaces.load_space(config.space)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `prompts.jsonl`."""
  block = config.prompts.to_dict()
  folder = epath.Path(workdir) / "prompts"
  space = spaces.load_space(config.space)
  spec = {
    "prompts": block,
    "seed": config.seed,
    "space": {
      "name": space.name,
      "prompts": space.prompts,
      "classes": {str(c.id): [c.name, *c.related] for c in space.classes},
    },
  }
  if artifacts.begin(folder, spec):
    return
  per_class = block.get("per_class", PER_CLASS)
  rows = texts.make(
    space.classes,
    space.prompts,
    strategies=block["strategies"],
    per_class=per_class,
    grammar=block.get("grammar", GRAMMAR),
    seed=config.seed,
  )
  texts.write(folder, rows)
  short = _fewer_than_asked(rows, per_class)
  artifacts.finish(
    folder, spec, {texts.FILE: len(rows)}, fewer_than_asked=short
  )
  counts = Counter(row.strategy for row in rows)
  listed = ", ".join(f"{n:,} {name}" for name, n in counts.items())
  say(f"prompts: {listed} for {len(space.classes)} classes")


def _fewer_than_asked(rows: list[Any], per_class: int) -> dict[str, int]:
  """Warns of the classes that have not words enough; returns their counts."""
  counts = Counter(r.class_name for r in rows if r.strategy == "enhanced")
  short = {name: n for name, n in counts.items() if n < per_class}
  if short:
    listed = ", ".join(f"{name!r} {n}" for name, n in list(short.items())[:10])
    logging.warning(
      "%d classes have fewer than the %d different texts asked for: %s. All "
      "there are were taken; give the classes more related words, or "
      "prompts.grammar more templates.",
      len(short),
      per_class,
      listed,
    )
  return short
