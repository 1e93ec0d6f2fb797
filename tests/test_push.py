"""Uploads of images, card and classifier, to a stand-in for the hub."""

import numpy as np
import pytest
import yaml
from made_up_run import (
  NAMES,
  SEEDS,
  finish,
  image_rows,
  make_images,
  make_selection,
  make_tuned,
  picture,
)

from synthjax import push
from synthjax.adapt import classifier, linear_head
from synthjax.adapt import heads as saved_heads
from synthjax.data.formats import parquet
from synthjax.encoders import load_encoder
from synthjax.runtime.errors import UserError

pytest_plugins = ("hub_server",)  # fixtures
REPOSITORY = "org/things"


@pytest.fixture
def workdir(tmp_path):
  make_images(tmp_path / "run" / "generate")
  make_selection(tmp_path / "run" / "select")
  return tmp_path / "run"


@pytest.fixture
def token(monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")


def make_card(folder):
  figures = {"figures": {"images": 24}, "by_class": {"images": [8, 8, 8]}}
  card = {
    "name": "things",
    "description": None,
    "license": "CC-BY-4.0",
    "num_images": 24,
    "image_size": [32, 32],
    "classes": NAMES,
    "seeds": [7],
    "images_per_class": 4,
    "generator": {},
    "asked": {},
    "models": [],
    "artwork": [],
    "filter": {
      "settings": {"max_per_class": 9},
      "kept": {"x": {"kept": 10, "images": 24}},
    },
    "files": {},
    "quality": {"neighbours": 5, "compared": 24, "sets": {"all": figures}},
    "duplicates": dict(
      equal_files=0,
      compared=24,
      near_pairs=0,
      threshold=0.95,
      near_more_than_one=0,
    ),
  }
  folder.mkdir()
  others = dict.fromkeys(("samples.png", "images.jsonl", "pairs.json"), b"x")
  finish(folder, {"card.json": card} | others)


def kept_ids():
  return {row["id"] for row in image_rows() if row["p_own"] > 1 / 3}


def test_images_come_back_with_a_card(hub, token, workdir):
  make_card(workdir / "card")
  (address,) = push.push(workdir, REPOSITORY)
  assert address == f"{hub.url}/datasets/{REPOSITORY}"
  folder = hub.folder(REPOSITORY, "datasets")
  names = {path.name for path in folder.iterdir()}
  assert names == {"README.md", "data", *push._OF_CARD}
  opened = parquet.open_parquet(folder)
  rows = image_rows()
  assert {opened[i]["id"] for i in range(len(opened))} == kept_ids()
  numbers = {row["id"]: i for i, row in enumerate(rows)}
  for i in range(len(opened)):
    number = numbers[opened[i]["id"]]
    np.testing.assert_array_equal(opened[i]["image"], picture(number))
    assert opened[i]["label"] == rows[number]["label"]
  _, head, text = (folder / "README.md").read_text().split("---\n", 2)
  head = yaml.safe_load(head)
  (files,) = head["configs"][0]["data_files"]
  assert files == {"split": "train", "path": "data/train-*.parquet"}
  kinds = {f["name"]: f["dtype"] for f in head["dataset_info"]["features"]}
  assert kinds["image"] == "image" and head["license"] == "cc-by-4.0"
  assert [*kinds["label"]["class_label"]["names"].values()] == NAMES
  assert f'load_dataset("{REPOSITORY}")' in text
  assert "those that a filter has kept" in text and "are not here" in text
  assert "croissant.json" not in text


def test_all_images_are_uploaded_if_asked(hub, token, workdir):
  push.push(workdir, REPOSITORY, everything=True, private=True)
  assert len(parquet.open_parquet(hub.folder(REPOSITORY, "datasets"))) == 24
  assert REPOSITORY in hub.private


def test_files_of_an_export_serve_if_they_are_of_these_images(
  hub, token, workdir, monkeypatch
):
  from synthjax.runtime import artifacts

  folder = workdir / "export" / "parquet"
  spec = {
    "images": artifacts.digest(workdir / "generate"),
    "selection": artifacts.digest(workdir / "select"),
  }
  artifacts.begin(folder, spec)
  rows = parquet.write(folder, [], NAMES, split="mine", shard_size=9)
  artifacts.finish(folder, spec, rows)
  push.push(workdir, REPOSITORY)
  text = (hub.folder(REPOSITORY, "datasets") / "README.md").read_text()
  assert 'split="mine"' in text
  push.push(workdir, "org/all", everything=True)
  text = (hub.folder("org/all", "datasets") / "README.md").read_text()
  assert 'split="train"' in text


def test_a_classifier_comes_back(hub, token, workdir, tmp_path):
  encoder = load_encoder("embedded")
  heads = {
    "B CE": {
      seed: linear_head.Head(
        np.random.default_rng(seed).normal(size=(3, 128)).astype(np.float32),
        np.zeros(3, np.float32),
      )
      for seed in SEEDS
    }
  }
  folder = workdir / "tune"
  folder.mkdir()
  block = dict(
    name="clip",
    weights="embedded:clip.safetensors",
    tokenizer="embedded:tokenizer.json",
    batch_size=64,
  )
  saved_heads.save(
    folder,
    heads["B CE"][0],
    heads,
    NAMES,
    {"config": block, "identity": encoder.identity},
  )
  make_tuned(folder)
  assert len(push.push(workdir, REPOSITORY)) == 2
  known = classifier.load(f"hf://{REPOSITORY}")
  assert list(known.classes) == NAMES
  heads = f"tune/{saved_heads.HEADS}"
  uploaded = (hub.folder(REPOSITORY) / heads).read_bytes()
  assert uploaded == (workdir / heads).read_bytes()
  text = (hub.folder(REPOSITORY) / "README.md").read_text()
  _, head, text = text.split("---\n", 2)
  assert yaml.safe_load(head)["datasets"] == [REPOSITORY]
  assert f"hf://{REPOSITORY}" in text and "LE+CF SCE" in text
  assert "<script>" not in text


def test_a_token_that_may_write_is_needed(hub, workdir):
  with pytest.raises(UserError, match="401.*HF_TOKEN"):
    push.push(workdir, REPOSITORY)


@pytest.mark.parametrize(
  ("args", "words"),
  [
    (["things"], "give hf://ORG/NAME"),
    (["org/things", "--only=classifier"], "has no classifier to upload"),
  ],
)
def test_what_cannot_be_uploaded_is_explained(workdir, args, words, capsys):
  with pytest.raises(SystemExit) as stop:
    push.main([str(workdir), *args])
  assert stop.value.code == 2
  assert words in capsys.readouterr().err


def test_uploading_again_uploads_the_same(hub, token, workdir):
  push.push(workdir, REPOSITORY)
  folder = hub.folder(REPOSITORY, "datasets")
  before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
  push.push(workdir, REPOSITORY)
  after = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
  assert before == after
