"""Texts of a file as the task's prompts."""

import pytest
from prompt_config import prompt_config, read_prompts

from synthjax.runtime.errors import UserError
from synthjax.tasks import prompts as task


def test_prompts_of_an_earlier_run_can_be_imported(tmp_path):
  first, second = tmp_path / "first", tmp_path / "second"
  for folder in (first, second):
    folder.mkdir()
  config = prompt_config(first)
  task.run(config, str(first))
  path = first / "prompts" / "prompts.jsonl"
  config = prompt_config(second, writer={"name": "file", "path": str(path)})
  del config.prompts.grammar
  task.check(config, str(second))
  task.run(config, str(second))
  of = lambda rows, *strategies: {
    (row["label"], row["text"]) for row in rows if row["strategy"] in strategies
  }
  given = of(read_prompts(path), *config.prompts.strategies)
  got = of(read_prompts(second / "prompts" / "prompts.jsonl"), "enhanced")
  assert got and got <= given
  config.prompts.writer.path = str(tmp_path / "gone.jsonl")
  with pytest.raises(UserError, match="gone.jsonl"):
    task.check(config, str(second))
