"""T5 as the writer of the task's prompts."""

import logging

import pytest
import tiny_t5
import tiny_world
from prompt_config import prompt_config, read_prompts

from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import prompts as task


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
  """Returns a writer's block of tiny random weights."""
  folder = tmp_path_factory.mktemp("t5")
  return {
    "name": "t5",
    "weights": tiny_t5.write_t5(folder / "t5.safetensors"),
    "tokenizer": tiny_t5.write_tokenizer(folder / "spiece.model"),
    "batch_size": 16,
    "max_length": 10,
  }


def t5_config(folder, writer, **changes):
  folder.mkdir(exist_ok=True)
  config = prompt_config(folder, writer=writer, **changes)
  del config.prompts.grammar
  return config


def written_by(config, folder):
  task.check(config, str(folder))
  task.run(config, str(folder))
  return read_prompts(folder / "prompts" / "prompts.jsonl")


def test_a_language_model_writes_the_enhanced_texts(tmp_path, t5):
  rows = written_by(t5_config(tmp_path, t5), tmp_path)
  by_label = {}
  for row in rows:
    if row["strategy"] == "enhanced":
      # The space's first prompt, with a sentence for the class.
      assert row["text"].startswith("a drawing of ")
      by_label.setdefault(row["label"], []).append(row["text"])
  assert [len(set(by_label[label])) for label in range(3)] == [5, 5, 5]
  assert len({text for texts in by_label.values() for text in texts}) == 15
  manifest = artifacts.load(tmp_path / "prompts")
  writer = manifest["spec"]["prompts"]["writer"]
  assert writer["num_samples"] == 55 and writer["top_k"] == 50
  assert len(writer["weights"]) == len(writer["tokenizer"]) == 64
  assert manifest["summary"]["writer"]["sampled"] == 3 * 55
  assert manifest["summary"]["fewer_than_asked"] == {}


def test_the_same_sentences_whatever_the_other_classes_or_the_batch(
  tmp_path, t5
):
  first = tmp_path / "first"
  rows = written_by(t5_config(first, t5), first)
  # A space of the first class alone, in a batch of another size.
  config = t5_config(first, t5 | {"batch_size": 7})
  config.space = tiny_world.write_space(
    first, classes=tiny_world.SPACE["classes"][:1]
  )
  alone = written_by(config, tmp_path / "second")
  assert alone == [row for row in rows if row["label"] == 0]
  config.seed = 1
  assert written_by(config, tmp_path / "third") != alone


def test_a_language_model_reads_the_meaning_of_a_name(tmp_path, t5):
  """Also where two classes share a name, as with ImageNet's two cranes."""

  def sentences_of(folder, first, second):
    folder.mkdir()
    classes = [
      {"name": "dog", "key": "a"} | first,
      {"name": "dog", "key": "b"} | second,
    ]
    config = t5_config(folder, t5)
    config.space = tiny_world.write_space(folder, classes=classes)
    rows = [r for r in written_by(config, folder) if r["strategy"] != "basic"]
    return [{r["text"] for r in rows if r["label"] == i} for i in (0, 1)]

  alike = sentences_of(tmp_path / "alike", {}, {})
  assert alike[0] == alike[1]
  told = sentences_of(
    tmp_path / "told", {"description": "a small horse"}, {"description": "cat"}
  )
  assert len(told[0]) == len(told[1]) == 5 and not told[0] & told[1]


def test_a_file_that_moved_is_the_same_and_another_is_not(tmp_path, t5):
  config = t5_config(tmp_path, t5)
  written_by(config, tmp_path)
  path = tmp_path / "moved.safetensors"
  config.prompts.writer.weights = tiny_t5.write_t5(path)
  config.prompts.writer.batch_size = 8
  task.run(config, str(tmp_path))  # skipped
  config.prompts.writer.weights = tiny_t5.write_t5(path, seed=1)
  with pytest.raises(
    specifications.SpecMismatch, match="prompts.writer.weights"
  ):
    task.run(config, str(tmp_path))
  config.prompts.writer = t5 | {"temperature": 0.5}
  with pytest.raises(
    specifications.SpecMismatch, match="temperature: found 1.0"
  ):
    task.run(config, str(tmp_path))


def test_templates_articles_and_filters_reach_the_sentences(tmp_path, t5):
  (tmp_path / "words.txt").write_text("# a comment\nDog\n")
  writer = t5 | {
    "sentence_template": "a sketch of {}",
    "article": True,
    "blocklist": str(tmp_path / "words.txt"),
    "max_words": 4,
  }
  rows = written_by(t5_config(tmp_path, writer), tmp_path)
  texts = [row["text"] for row in rows if row["strategy"] == "enhanced"]
  assert texts and all(text.startswith("a sketch of ") for text in texts)
  assert all(len(text.split()) <= 3 + 4 for text in texts)
  assert not any("dog" in text.lower().split() for text in texts)
  manifest = artifacts.load(tmp_path / "prompts")
  assert manifest["spec"]["prompts"]["writer"]["blocklist"] == ["Dog"]
  assert manifest["summary"]["writer"]["max_words"] > 0
  plain = written_by(t5_config(tmp_path, t5), tmp_path / "plain")
  sentences = {row["text"].removeprefix("a drawing of ") for row in plain}
  # With an article, the model read something else.
  assert not sentences & {t.removeprefix("a sketch of ") for t in texts}


def test_a_warning_lists_classes_with_too_few_sentences(tmp_path, t5, caplog):
  config = t5_config(tmp_path, t5 | {"temperature": 0.0, "num_samples": 2})
  with caplog.at_level(logging.WARNING):
    rows = written_by(config, tmp_path)
  assert len(rows) == 3 * (1 + 1)
  assert "'drink' 1" in caplog.text and "num_samples" in caplog.text
  summary = artifacts.load(tmp_path / "prompts")["summary"]
  assert summary["fewer_than_asked"]["drink"] == 1
  assert summary["writer"]["duplicates"] == 3 * (2 * 8 - 1)


def test_naming_the_grammar_changes_nothing(tmp_path):
  task.run(prompt_config(tmp_path), str(tmp_path))
  task.run(prompt_config(tmp_path, writer="grammar"), str(tmp_path))  # skipped


def test_a_writer_that_no_strategy_needs_is_not_loaded(tmp_path):
  config = t5_config(tmp_path, {"name": "t5"}, strategies=("basic",))
  assert len(written_by(config, tmp_path)) == 3


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"weights": None}, "prompts.writer.weights must name a weights file"),
    ({"tokenizer": None}, "writer.tokenizer must name the spiece.model"),
    ({"tokenizer": "gone.model"}, "there is no file gone.model"),
    ({"temperatur": 1.0}, "did you mean 'temperature'"),
    ({"name": "t6"}, "did you mean 't5'"),
    ({"blocklist": "gone.txt"}, "writer.blocklist='gone.txt': Cannot read"),
    (
      {"top_p": 0.0, "max_length": 1, "sentence_template": "a photo"},
      "(?s)max_length=1: .*sentence_template='a photo': .*top_p=0.0: needed",
    ),
    ({"min_words": 5, "max_words": 4}, "max_words=4"),
  ],
)
def test_check_finds_what_is_wrong_with_a_writer(tmp_path, t5, changes, words):
  with pytest.raises(UserError, match=words):
    task.check(t5_config(tmp_path, t5 | changes), str(tmp_path))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"writer": "grammer"}, "did you mean 'grammar'"),
    ({"writer": "t5", "grammar": None}, "writer.weights must name"),
    ({"writer": {"name": "t5"}}, "has a grammar and the writer 't5'"),
    (
      {"writer": {}},
      "prompts.writer lacks name: needed one of file, qwen3, t5",
    ),
  ],
)
def test_check_finds_a_wrong_writer(tmp_path, changes, words):
  with pytest.raises(UserError, match=words):
    task.check(prompt_config(tmp_path, **changes), str(tmp_path))
