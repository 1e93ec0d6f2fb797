"""Workdirs that an older version has finished are still skipped.

`old_specifications.json` holds what tasks wrote to spec.json at commit dcacfb6,
before blocks of configs became dataclasses; hashes are left out, as weights and
images may change. Classes of the embedded world have today's names, and its
heads and filter today's values.
"""

import importlib
import json
import pathlib
import re

import pytest

from synthjax import main
from synthjax.data.generated import scores
from synthjax.runtime import artifacts, specifications

HERE = pathlib.Path(__file__).parent
OLD = json.loads((HERE / "old_specifications.json").read_text())


class Claimed(Exception):
  """Stops a task when it claims its folder."""


def without_hashes(spec):
  text = re.sub(r'"[0-9a-f]{64}"', '"SHA-256"', json.dumps(spec))
  return json.loads(text)


@pytest.mark.parametrize("case", OLD)
def test_a_task_asks_for_the_specification_of_an_older_version(
  case, tmp_path, monkeypatch
):
  argument, task = case.split()
  name, _, argument = argument.partition(":")
  asked = []

  def begin(folder, spec, **_):
    asked.append(specifications.of_the_result(specifications.plain(spec)))
    raise Claimed(folder)

  monkeypatch.setattr(artifacts, "begin", begin)
  monkeypatch.setattr(artifacts, "digest", lambda folder, **_: "0" * 64)
  monkeypatch.setattr(scores, "check_inputs", lambda *args, **kwargs: None)
  path = HERE.parents[1] / "configs" / f"{name}.py"
  config = main.load_config(f"{path}:{argument}")
  with pytest.raises(Claimed):
    importlib.import_module(main.TASKS[task]).run(config, str(tmp_path))
  assert without_hashes(asked[0]) == specifications.of_the_result(OLD[case])
