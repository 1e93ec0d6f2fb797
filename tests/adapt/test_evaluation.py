"""The command evaluate: a run measured on images that come later."""

import json

import numpy as np
import pytest
from PIL import Image

from synthjax.adapt import evaluation
from synthjax.adapt.classifier import Classifier
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError
from synthjax.weights.learned import Arm

NAMES = ("red", "green", "blue")


def by_colour(images):
  """Takes the strongest channel for the class."""
  means = np.stack([np.asarray(image).mean((0, 1)) for image in images])
  return means / means.sum(-1, keepdims=True)


@pytest.fixture
def known(tmp_path):
  arm = Arm("tune", "a", tmp_path / "run" / "tune" / "heads.safetensors", "")
  return Classifier(NAMES, by_colour, arm=arm)


def draw(folder, name, *colours):
  (folder / name).mkdir(parents=True)
  for i, colour in enumerate(colours):
    Image.new("RGB", (4, 4), colour).save(folder / name / f"{i}.png")


def test_accuracies_and_missing_classes(known, tmp_path):
  draw(tmp_path / "new", "red", "red", "red", "#00f", "#0f0")
  draw(tmp_path / "new", "Blue", "#00f")
  space = evaluation.space_of(known)
  source = evaluation.open_images(str(tmp_path / "new"), space)
  results = evaluation.evaluate(known, source)
  assert json.loads(json.dumps(results)) == {
    "images": 5,
    "top1": 0.6,
    "mean_per_class": 0.75,
    "classes": [
      {"class": "red", "images": 4, "top1": 0.5, "mistaken_for": "green"},
      {"class": "blue", "images": 1, "top1": 1.0, "mistaken_for": None},
    ],
    "missing": ["green"],
  }
  lines = evaluation.table(results).splitlines()
  assert lines[1].split() == ["all", "images", "5", "60.0%"]
  assert lines[3].split()[:3] == ["red", "4", "50.0%"]
  assert lines[-1] == "No image is of 1 of the run's classes: green."


def test_test_images_are_taken_where_there_are_several_splits(known, tmp_path):
  draw(tmp_path / "new" / "train", "red", "red")
  draw(tmp_path / "new" / "test", "blue", "#00f", "#00f")
  space = evaluation.space_of(known)
  source = evaluation.open_images(str(tmp_path / "new"), space)
  assert [*source.labels] == [2, 2]
  block = f"kind=folder,path={tmp_path / 'new'},split=train"
  assert [*evaluation.open_images(block, space).labels] == [0]


def test_folders_of_no_class_are_refused(known, tmp_path):
  draw(tmp_path / "new", "red", "red")
  draw(tmp_path / "new", "gren", "#0f0")
  space = evaluation.space_of(known)
  with pytest.raises(UserError, match="'gren': no class.*nearest is 'green'"):
    evaluation.open_images(str(tmp_path / "new"), space)
  with pytest.raises(UserError, match="an empty text"):
    evaluation.open_images("", space)


def test_other_sources_are_named_as_in_a_config(known, tmp_path):
  for name in NAMES:
    draw(tmp_path / "new", name, name)
  given = f"kind=folder,path={tmp_path / 'new'},image_size=2"
  source = evaluation.open_images(given, evaluation.space_of(known))
  assert len(source) == 3 and source[0]["image"].shape == (2, 2, 3)
  with pytest.raises(UserError, match="did you mean 'folder'"):
    evaluation.open_images("kind=foldr", evaluation.space_of(known))


def test_the_space_of_a_run_has_the_keys_of_its_folders(known):
  folder = known.arm.path.parent
  folder.mkdir(parents=True)
  (folder / "results.json").write_text(json.dumps({"space": "imagenet"}))
  imagenet = spaces.load_space("imagenet")
  of_run = known._replace(classes=imagenet.class_names)
  assert evaluation.space_of(of_run).keys == imagenet.keys
  assert evaluation.space_of(known).keys == NAMES  # it has classes of its own
