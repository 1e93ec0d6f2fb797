"""Prompts: the strategies, the file, and the task."""

import json
import logging

import pytest
from prompt_config import prompt_config, read_prompts

from synthjax.embedded import world
from synthjax.labels import spaces
from synthjax.prompts import strategies
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import prompts as task

CLASSES = (
  spaces.Class(0, "farm animal", ("cow", "hen")),
  spaces.Class(1, "vehicle"),
)
TEMPLATES = ("a drawing of {}", "a picture of {}")


def make(**changes):
  options = {
    "strategies": ("basic", "template", "enhanced"),
    "per_class": 3,
    "grammar": {"templates": ["{word}", "two of {word}"]},
    "seed": 0,
  }
  space = spaces.LabelSpace("two", CLASSES, prompts=TEMPLATES)
  return strategies.make(space, **options | changes)


def texts_of(rows, strategy, label):
  return [r.text for r in rows if (r.strategy, r.label) == (strategy, label)]


def test_basic_is_the_first_template():
  rows = make(strategies=("basic",))
  assert rows == [
    strategies.Prompt(
      "basic-0-0", 0, "farm animal", "a drawing of farm animal", "basic"
    ),
    strategies.Prompt(
      "basic-1-0", 1, "vehicle", "a drawing of vehicle", "basic"
    ),
  ]


def test_template_is_every_template():
  assert texts_of(make(), "template", 1) == [
    "a drawing of vehicle",
    "a picture of vehicle",
  ]


def test_enhanced_uses_related_words_or_the_class_itself():
  rows = make()
  possible = {"cow", "hen", "two of cow", "two of hen"}
  assert len(texts_of(rows, "enhanced", 0)) == 3
  assert set(texts_of(rows, "enhanced", 0)) < possible
  assert set(texts_of(rows, "enhanced", 1)) == {"vehicle", "two of vehicle"}


def test_ids_hold_strategy_label_and_index():
  ids = [row.id for row in make()]
  assert len(set(ids)) == len(ids)
  assert ids == [
    f"{row.strategy}-{row.label}-{row.id.split('-')[2]}" for row in make()
  ]
  assert [i for i in ids if i.startswith("enhanced-0-")] == [
    "enhanced-0-0",
    "enhanced-0-1",
    "enhanced-0-2",
  ]


def test_a_class_has_the_same_texts_in_every_space():
  alone = strategies.make(
    spaces.LabelSpace("one", CLASSES[:1], prompts=TEMPLATES),
    strategies=("enhanced",),
    per_class=3,
    grammar={"templates": ["{word}", "two of {word}"]},
    seed=0,
  )
  assert [row.text for row in alone] == texts_of(make(), "enhanced", 0)


def test_no_prompt_of_the_embedded_world_names_a_held_out_concept():
  """Whoever draws held-out concepts would train on what the test asks."""
  by_split = {}
  for concept in world.concepts():
    by_split.setdefault(concept.split, set()).add(concept.name)
  assert by_split["validation"] and by_split["test"]
  for name in spaces.SPACES:
    space = spaces.load_space(name)
    related = {word for each in space.classes for word in each.related}
    assert related <= by_split["train"]
    rows = strategies.make(
      space,
      strategies=tuple(strategies.STRATEGIES),
      per_class=60,
      grammar={"templates": ["{word}"]},
      seed=0,
    )
    written = {row.text for row in rows}
    assert not written & (by_split["validation"] | by_split["test"])


# --- the task ---------------------------------------------------------------


def test_the_task_writes_rows_that_read_back(tmp_path):
  config = prompt_config(tmp_path)
  task.check(config, str(tmp_path))
  task.run(config, str(tmp_path))
  rows = read_prompts(tmp_path / "prompts" / "prompts.jsonl")
  assert len(rows) == 3 * (1 + 5)
  assert rows[0] == {
    "id": "basic-0-0",
    "label": 0,
    "class_name": "bird species",
    "text": "a drawing of bird species",
    "strategy": "basic",
  }
  before = (tmp_path / "prompts" / "manifest.json").read_bytes()
  task.run(config, str(tmp_path))  # skipped
  assert (tmp_path / "prompts" / "manifest.json").read_bytes() == before


def test_a_warning_lists_classes_with_too_few_texts(tmp_path, caplog):
  config = prompt_config(tmp_path, per_class=100)
  with caplog.at_level(logging.WARNING):
    task.run(config, str(tmp_path))
  assert "'drink' 40" in caplog.text and "related words" in caplog.text
  summary = artifacts.load(tmp_path / "prompts")["summary"]
  assert summary["fewer_than_asked"]["drink"] == 40


def test_other_prompts_in_the_same_folder_are_refused(tmp_path):
  task.run(prompt_config(tmp_path), str(tmp_path))
  with pytest.raises(specifications.SpecMismatch, match="per_class"):
    task.run(prompt_config(tmp_path, per_class=6), str(tmp_path))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"per_clas": 5}, "did you mean 'per_class'"),
    ({"strategies": ("enhance",)}, "did you mean 'enhanced'"),
    ({"grammar": "drawings"}, "did you mean 'drawing'"),
    ({"strategies": ()}, "one or more of basic, "),
    ({"strategies": ("basic", "basic")}, "each once"),
    ({"per_class": 0}, "1 or more"),
  ],
)
def test_check_finds_misspelt_fields_and_names(tmp_path, changes, words):
  with pytest.raises(UserError, match=words):
    task.check(prompt_config(tmp_path, **changes), str(tmp_path))


WRITER = """
import dataclasses
from synthjax.config.schema import Count
from synthjax.prompts.sentences import Writing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields(Writing):
  words: Count = 2


def check(fields):
  pass


def identify(fields):
  return {"writer": "counter"}


def load(fields, *, seed):
  return lambda texts, numbers: [
    " ".join(["word"] * fields.words + [str(seed), str(n)]) for n in numbers
  ]
"""


def test_a_language_model_of_another_package_is_one_file(tmp_path, monkeypatch):
  (tmp_path / "my_writers").mkdir()
  (tmp_path / "my_writers" / "counter.py").write_text(WRITER)
  monkeypatch.syspath_prepend(tmp_path)
  writer = {"name": "my_writers.counter", "words": 3, "num_samples": 9}
  config = prompt_config(tmp_path, writer=writer)
  del config.prompts.grammar
  task.check(config, str(tmp_path))
  task.run(config, str(tmp_path))
  rows = read_prompts(tmp_path / "prompts" / "prompts.jsonl")
  texts = [row["text"] for row in rows if row["strategy"] == "enhanced"]
  assert len(texts) == 3 * 5
  assert all(text.startswith("a drawing of word word word 0") for text in texts)
  spec = artifacts.load(tmp_path / "prompts")["spec"]["prompts"]["writer"]
  assert spec["writer"] == "counter" and spec["words"] == 3
  config.prompts.writer.words = 0
  with pytest.raises(UserError, match="writer.words=0: needed"):
    task.check(config, str(tmp_path))


# --- bad files --------------------------------------------------------------


@pytest.mark.faults
def test_an_edited_file_is_refused(tmp_path):
  task.run(prompt_config(tmp_path), str(tmp_path))
  path = tmp_path / "prompts" / "prompts.jsonl"
  path.write_text(path.read_text().replace("drawing", "pairing", 1))
  with pytest.raises(UserError, match="content has changed"):
    read_prompts(path)


@pytest.mark.faults
def test_every_line_that_is_no_prompt_is_listed(tmp_path):
  good = make()[0]._asdict()
  lines = [
    json.dumps(good),
    "{not json",
    json.dumps(good | {"id": "x", "label": "0"}),
    json.dumps({"id": "y"}),
    json.dumps(good),
  ]
  artifacts.begin(tmp_path, {})
  (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
  artifacts.finish(tmp_path, {}, {"prompts.jsonl": len(lines)})
  with pytest.raises(UserError) as error:
    read_prompts(tmp_path / "prompts.jsonl")
  message = str(error.value)
  for words in ("line 2:", "line 3: label", "line 4: needed", "line 5: the id"):
    assert words in message
  assert "line 1:" not in message


def test_texts_keep_their_letters(tmp_path):
  row = strategies.Prompt(
    "basic-0-0", 0, "café", "un café\u2028au lait", "basic"
  )
  artifacts.begin(tmp_path, {})
  strategies.write(tmp_path, [row])
  artifacts.finish(tmp_path, {}, {"prompts.jsonl": 1})
  assert read_prompts(tmp_path / "prompts.jsonl") == [row._asdict()]
