"""The command that packs a folder of Stable Diffusion, and what it says."""

import pytest

from synthjax.runtime.errors import UserError
from synthjax.weights import __main__ as command


@pytest.mark.parametrize(
  ("name", "names", "output", "words"),
  [
    ("pack", [], "x", "needs a folder"),
    ("pack", ["folder"], None, "--output=FOLDER"),
    ("fetch", ["stable_diffusion"], None, "hf://ORG/NAME"),
    ("fetch", ["glide"], "x", "`convert` and `pack`"),
  ],
)
def test_missing_arguments_are_named(name, names, output, words):
  with pytest.raises(UserError, match=words):
    command.run(name, names, output)


def test_a_folder_without_files_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"merges\.txt.*missing"):
    command.run("pack", [str(tmp_path)], str(tmp_path / "out"))


def test_a_home_is_found_and_an_unset_variable_is_noticed(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("HOME", str(tmp_path))
  with pytest.raises(UserError, match=f"{tmp_path}/sd/tokenizer"):
    command.run("pack", ["~/sd"], "~/out")
  for name in ("pack", "convert"):
    with pytest.raises(UserError, match="--output is empty"):
      command.run(name, ["x"], "")
