"""A user's own label space: five lines of YAML through the quick start."""

import json
import logging
import pathlib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from synthjax import artifacts, main
from synthjax.data import captions
from synthjax.errors import UserError
from synthjax.tasks import prompts, tune

QUICKSTART = pathlib.Path(__file__).parent.parent / "configs" / "quickstart.py"
FIVE_LINES = """\
classes:
  - {name: cat, related: [cat face, black cat]}
  - {name: fish, related: [tropical fish]}
  - axolotl
prompts: ["a drawing of {}"]
"""


def write(folder, text=FIVE_LINES):
  path = folder / "mine.yaml"
  path.write_text(text)
  return str(path)


def load(space, arg="images_per_class=1"):
  return main.load_config(f"{QUICKSTART}:space={space},{arg}")


@pytest.mark.slow
def test_five_lines_run_through_the_quick_start(tmp_path, capsys, caplog):
  """No image of an axolotl is anywhere: its classifier is made all the same."""
  config, workdir = load(write(tmp_path)), tmp_path / "run"
  with caplog.at_level(logging.WARNING):
    main.run_tasks(config, str(workdir))
  assert "'axolotl' of 'axolotl'" in caplog.text
  assert "no real images were given" in capsys.readouterr().out
  for task in config.tasks:
    artifacts.verify(workdir / task)
  rows = (workdir / "select" / "selection.jsonl").read_text().splitlines()
  assert len(rows) == 9  # 3 classes x 3 seeds of images
  heads = load_file(workdir / "tune" / "heads.safetensors")
  assert len(heads) == 8  # zero-shot and 3 seeds, each a weight and a bias
  assert {len(each) for each in heads.values()} == {3}
  zero_shot = heads["zero_shot/weight"]
  assert np.abs(heads["LE+CF SCE, seed 0/weight"] - zero_shot).max() > 0.1
  results = json.loads((workdir / "tune" / "results.json").read_text())
  assert results["classes"] == ["cat", "fish", "axolotl"]
  assert results["zero_shot"] == {} and results["summary"] == []
  assert "axolotl" in (workdir / "report" / "report.html").read_text()


def test_without_real_images_the_config_asks_for_none(tmp_path):
  config = load(write(tmp_path))
  assert config.tune.test is config.tune.validation is None
  assert config.tune.test_parts is None
  # A space of the package is measured as ever.
  assert load("emoji10").tune.test.split == "test"
  text = FIVE_LINES.replace("- axolotl", "- {name: bug, related: [ant]}")
  for name, part in (("cat", "mammal"), ("fish", "marine"), ("bug", "bug")):
    part = f"subcategories: [animal-{part}]"
    text = text.replace(f"name: {name}", f"name: {name}, {part}")
  own = load(write(tmp_path, text))
  assert own.tune.test.split == "test"
  own.tasks = ("prompts", "generate", "score", "select", "tune")
  tune.check(own, str(tmp_path))


def test_a_folder_of_real_images_is_the_test(tmp_path):
  for name in ("cat", "fish", "axolotl"):
    (tmp_path / "photos" / name).mkdir(parents=True)
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(tmp_path / "photos" / name / "1.png")
  space = write(tmp_path)
  config = load(space, f"test={tmp_path / 'photos'}")
  assert config.tune.test.kind == "folder" and config.tune.validation is None
  tune.check(config, str(tmp_path))
  (tmp_path / "photos" / "axolotl" / "1.png").unlink()
  with pytest.raises(UserError, match="axolotl: holds no image"):
    tune.check(config, str(tmp_path))


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("classes: [cat, dog, Cat]", "the name 'cat' occurs 2 times"),
    ("classes: [cat, '', dog]", r"classes\[1\].name: must be a text, not ''"),
    ("classes:\n  - cat\n  -\n  - dog", r"classes\[1\]: must be a name"),
    ("classes:\n  - {related: [tabby]}", r"classes\[0\].name: must be a text"),
    ("classes: []", "at least one class"),
    ("classes: [cat]\nprompt: ['a {}']", "did you mean 'prompts'"),
    ("classes: [cat, dog", "Cannot read the label space"),
  ],
)
def test_a_space_that_does_not_hold_stops_before_anything(
  text, words, tmp_path
):
  workdir = tmp_path / "run"
  with pytest.raises(UserError, match=words):
    main.run_tasks(load(write(tmp_path, text)), str(workdir))
  assert not workdir.exists()


def test_a_path_that_is_not_there_is_told(tmp_path):
  with pytest.raises(UserError, match="Cannot read the label space"):
    main.run_tasks(load(tmp_path / "no.yaml"), str(tmp_path / "run"))


# --- words that the embedded generator never met ----------------------------


def test_words_of_no_caption_are_found():
  texts = ("a shiny drawing of black cat", "Axolotl, detailed", "an axolotl")
  assert captions.unknown_words(texts) == ["axolotl"]
  assert captions.unknown_words(["a flat emoji of a red apple"]) == []
  assert captions.unknown_words(["x-ray of Zürichsee"])[-1] == "zürichsee"


def test_prompts_warn_of_words_that_were_never_met(tmp_path, caplog):
  config = load(write(tmp_path))
  with caplog.at_level(logging.WARNING):
    prompts.run(config, str(tmp_path / "run"))
  assert "'axolotl' of 'axolotl'" in caplog.text and "related" in caplog.text
  assert "'cat'" not in caplog.text
  summary = artifacts.load(tmp_path / "run" / "prompts")["summary"]
  assert summary["unknown_words"] == {"axolotl": ["axolotl"]}


@pytest.mark.parametrize("weights", ["released:glide/base.safetensors", None])
def test_other_generators_know_other_words(weights, tmp_path, caplog):
  config = load(write(tmp_path))
  config.generator.base.weights = weights
  with caplog.at_level(logging.WARNING):
    prompts.run(config, str(tmp_path / "run"))
  assert "axolotl" not in caplog.text


def test_the_words_of_the_embedded_spaces_are_known(tmp_path, caplog):
  """What the quick start asks for is what the networks were trained on."""
  with caplog.at_level(logging.WARNING):
    prompts.run(load("emoji16", "images_per_class=30"), str(tmp_path))
  assert "no caption" not in caplog.text
