"""Sentences that come from a file."""

import json

import pytest

from synthjax.prompts import file_writer, sentences
from synthjax.runtime.errors import UserError


def write(path, rows):
  path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  return file_writer.Fields(path=str(path))


def test_sentences_are_those_of_the_class(tmp_path):
  rows = [
    {"class_name": name, "text": f"a {name}\n {i}", "more": i}
    for i in range(3)
    for name in ("dog", "cat")
  ]
  sample = file_writer.load(write(tmp_path / "texts.jsonl", rows), seed=0)
  assert sample(["cat", "dog", "cat"], [1, 0, 3]) == [
    "a cat 1",
    "a dog 0",
    None,
  ]
  written, counts = sentences.write(
    {"cat": "cat"},
    sample,
    per_class=5,
    num_samples=6,
    rng_of=str,  # draws nothing where there are too few
    filters=sentences.Filters(blocklist=("2",)),
  )
  assert written == {"cat": ["a cat 0", "a cat 1"]}
  assert counts["blocklist"] == 1 and counts["sampled"] == 3


def test_classes_without_a_text_are_listed(tmp_path):
  rows = [{"class_name": "Dog", "text": "a dog"}]
  sample = file_writer.load(write(tmp_path / "texts.jsonl", rows), seed=0)
  with pytest.raises(UserError, match="of 1 classes: 'dog'. It has.* 'Dog'"):
    sample(["dog", "Dog"], [0, 0])


@pytest.mark.faults
def test_every_wrong_line_is_listed(tmp_path):
  path = tmp_path / "texts.jsonl"
  fields = write(
    path, [{"text": "a"}, {"class_name": "a", "text": 1}, {}, ["a"]]
  )
  path.write_text(path.read_text() + "\n{\n")
  with pytest.raises(UserError) as raised:
    file_writer.check(fields)
  for line in ("line 1: no 'class_name'", "line 2", "line 3", "line 4", "6"):
    assert line in str(raised.value)
  with pytest.raises(UserError, match="gone"):
    file_writer.check(file_writer.Fields(path=str(tmp_path / "gone")))


def test_the_texts_identify_them(tmp_path):
  rows = [{"class_name": "dog", "text": "a dog"}]
  one = file_writer.identify(write(tmp_path / "one", rows))
  assert file_writer.identify(write(tmp_path / "two", rows)) == one
  other = file_writer.identify(write(tmp_path / "one", rows * 2))
  assert other["path"] != one["path"]
