"""The dataset card: its fields, its figures, its files."""

import io
import itertools
import json
import pathlib

import numpy as np
import pytest
import yaml
from PIL import Image

from synthjax import main
from synthjax.data.formats import export_rows
from synthjax.data.generated import scores as stored
from synthjax.data.generated import shards
from synthjax.report.card import figures as card_figures
from synthjax.report.card import files as card_files
from synthjax.report.card import files as croissant
from synthjax.report.card import readme as dataset_card
from synthjax.report.sections import quality
from synthjax.runtime.errors import UserError
from synthjax.tasks import card as task
from synthjax.weights import files

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
NAMES = ("cat", "a|b")


@pytest.fixture
def drawn(tmp_path):
  """Six images of two classes, the last of which is the first again."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
  images[5] = images[0]
  features = rng.normal(size=(6, 4)).astype(np.float16)
  features[5] = features[0]
  labels = np.array([0, 0, 0, 1, 1, 1], np.int32)
  ids = np.array([f"basic-{label}-0-s0-{i}" for i, label in enumerate(labels)])
  rows = [
    dict(image=image, label=label, prompt=f"p{label}", seed=0, id=key)
    for image, label, key in zip(images, labels, ids, strict=True)
  ]
  shards.write_shard(tmp_path, 0, 1, rows)
  probs = np.full((6, 2), 0.5, np.float16)
  scores = stored.Scores(ids, labels, features, probs, probs[:, 0] * 1.0)
  kept = np.array([1, 1, 0, 1, 1, 1], bool)
  return open_drawn(tmp_path, scores, kept)


def open_drawn(folder, scores, kept=None, chosen=range(6), parts=(4,), **more):
  """Opens images whose scores are in parts."""
  columns = [np.split(column, parts) for column in scores]
  return card_figures.open_drawn(
    folder,
    itertools.starmap(stored.Scores, zip(*columns, strict=True)),
    kept,
    NAMES,
    np.array(chosen),
    **{"write": lambda line: None} | more,
  )


def read_scores(folder, features):
  """Returns scores of the images of `drawn`, with these features."""
  rows = list(shards.open_shards(folder))
  probs = np.full((6, 2), 0.5, np.float16)
  return stored.Scores(
    np.array([row["id"] for row in rows]),
    np.array([row["label"] for row in rows]),
    features,
    probs,
    np.linspace(0, 1, 6, dtype=np.float32),
  )


@pytest.fixture
def card(drawn):
  figures = card_figures.quality(
    drawn,
    None,
    encode_texts=lambda texts: np.eye(4)[: len(texts)],
    class_texts=np.eye(4)[:2],
    neighbours=1,
  )
  counts, pairs = card_figures.duplicates(drawn, threshold=0.99, limit=3)
  model = {"field": "encoder.weights", "name": None, "what": None}
  return {
    "name": "set",
    "description": None,
    "license": "CC-BY-4.0",
    "creator": "Somebody",
    "url": None,
    "date": "2026-01-02",
    "num_images": 6,
    "image_size": [8, 8],
    "classes": list(NAMES),
    "seeds": [0],
    "images_per_class": 3,
    "generator": {"guidance_scale": 3.0},
    "asked": {},
    "models": [model | {"licence": None, "sha256": "0" * 64}],
    "artwork": [],
    "files": {"images.jsonl": {"bytes": 3, "sha256": "1" * 64, "rows": 6}},
    "quality": figures,
    "duplicates": counts,
    "pairs": {"duplicates": pairs},
  }


def test_equal_images_are_found_by_file_and_by_features(drawn, card):
  assert card["duplicates"]["equal_files"] == 1
  assert card["duplicates"]["near_pairs"] == 1
  (pair,) = card["pairs"]["duplicates"]
  assert pair["same_file"] and pair["a"]["id"] == drawn.source[0]["id"]
  assert pair["b"]["id"] == drawn.source[5]["id"]


def test_all_and_kept_images_are_measured(card):
  sets = card["quality"]["sets"]
  assert sets["all"]["figures"]["images"] == 6
  assert sets["kept"]["by_class"]["images"] == [2, 3]


def test_a_copy_of_a_real_image_is_found(drawn):
  image = drawn.source[2]["image"]
  other = np.zeros_like(image)
  features = np.stack([drawn.features[2], -drawn.features[2]])
  real = card_figures.Real(
    [{"image": image}, {"image": other}],
    features.astype(np.float32),
    np.array([0, 1]),
    np.arange(2),
  )
  figures, pairs = card_figures.leakage(
    drawn, real, NAMES, threshold=0.999, limit=1
  )
  assert figures["near"] == 1 and figures["cosine"]["max"] > 0.999
  assert pairs[0]["same_pixels"] and pairs[0]["b"]["class"] == "cat"


def test_scores_of_other_images_are_refused(drawn, tmp_path):
  scores = read_scores(tmp_path, drawn.features)
  cut = stored.Scores(*(column[:5] for column in scores))
  more = stored.Scores(*(np.concatenate([c, c[:1]]) for c in scores))
  for other in (scores._replace(ids=scores.ids[::-1]), cut, more):
    with pytest.raises(UserError, match="not of the images"):
      open_drawn(tmp_path, other)


def test_one_pass_lists_all_images_and_keeps_what_is_compared(drawn, tmp_path):
  scores, lines, features = read_scores(tmp_path, drawn.features), [], []
  part = open_drawn(
    tmp_path,
    scores,
    kept=drawn.kept,
    chosen=[1, 4, 5],
    parts=[1, 4],  # the second holds none of those but its first
    write=lines.append,
    write_features=features.append,
  )
  np.testing.assert_array_equal(part.features, drawn.features[[1, 4, 5]])
  assert part.prompts == ["p0", "p1", "p1"]
  np.testing.assert_array_equal(np.concatenate(features), drawn.features)
  about = list(map(json.loads, lines))
  assert [row["id"] for row in about] == scores.ids.tolist()
  assert [row["kept"] for row in about] == drawn.kept.tolist()
  assert [row["p_own"] for row in about] == [0, 0.2, 0.4, 0.6, 0.8, 1]
  assert about[0]["sha256"] == about[5]["sha256"]
  assert part.digests[0] == bytes.fromhex(about[5]["sha256"])


def test_duplicates_are_looked_for_among_all_by_an_index(
  drawn, tmp_path, card, monkeypatch
):
  """Only 1 and 2 are compared with one another; 0 and 5 share a cell."""
  part = open_drawn(
    tmp_path, read_scores(tmp_path, drawn.features), chosen=[1, 2]
  )
  cells = np.array([[0, 1], [1, 2], [2, 0], [1, 2], [2, 0], [2, 1]])
  monkeypatch.setattr(card_figures.neighbours, "assign_cells", lambda x: cells)
  limits = {"threshold": 0.99, "limit": 3}
  counts, pairs = card_figures.duplicates(
    part, **limits, all_features=drawn.features
  )
  assert counts["compared"] == 6 and counts["cells"] == 3
  assert counts["near_pairs"] == counts["near_more_than_one"] == 1
  assert pairs[0]["b"]["id"] == drawn.source[5]["id"]
  text = dataset_card.build(card | {"duplicates": counts})
  assert "Of 6 images compared within 3 cells" in text

  counts, _ = card_figures.duplicates(part, **limits)
  assert counts["compared"] == 2 and not counts["near_pairs"]
  text = dataset_card.build(card | {"duplicates": counts})
  assert "Of 2 images chosen at random, 0 pairs" in text


def test_the_readme_begins_with_yaml_and_escapes_its_tables(card):
  text = dataset_card.build(card)
  _, front, body = text.split("---\n", 2)
  fields = yaml.safe_load(front)
  assert fields["license"] == "cc-by-4.0"
  assert fields["size_categories"] == ["n<1K"]
  assert "Article 50(2)" in body and "a\\|b" in body


def test_the_readme_shows_names_as_they_are():
  """As a name in Markdown: no emphasis, no tag, no link, no cell of its own."""
  names = [
    "*star*",
    "<b>",
    "snake_case_x",
    "[a](b)",
    "C#",
    "`x`",
    "a\\b",
    "café",
    "a\n---\nb",
  ]
  shown = ["\\*star\\*", "\\<b\\>", "snake\\_case\\_x", "\\[a\\](b)", "C\\#"]
  shown += ["\\`x\\`", "a\\\\b", "café", "a --- b"]
  assert [dataset_card.plain(name) for name in names] == shown


def test_the_readme_tells_of_a_top_up():
  card = dict(
    seeds=(0,),
    images_per_class=None,
    asked=dict(top_up=dict(share=0.4)),
    generator={},
    filter=dict(
      settings=dict(share=0.4), kept=dict(enhanced=dict(kept=4, images=10))
    ),
  )
  text = dataset_card.collection(card)
  assert (
    "about its class: as many as classes of real images lacked, with" in text
  )
  assert "kept 4 of 10: at most 40% of a class" in dataset_card.annotation(card)


def test_the_croissant_names_every_file_and_says_it_is_generated(card):
  built = json.loads(json.dumps(croissant.build(card)))
  assert built["conformsTo"][0].endswith("croissant/1.1")
  assert built["digitalSourceType"].endswith("MediaDigitalSource")
  assert [f["@id"] for f in built["distribution"]] == ["images.jsonl"]
  ids = {f["@id"] for each in built["recordSet"] for f in each["field"]}
  assert {"images/id", "images/label", "classes/name"} <= ids


def test_the_croissant_is_valid(card, tmp_path):
  mlcroissant = pytest.importorskip("mlcroissant")
  path = tmp_path / "croissant.json"
  path.write_text(json.dumps(croissant.build(card)))
  assert not mlcroissant.Dataset(str(path)).metadata.ctx.issues.errors


def test_the_picture_is_marked_as_generated(drawn):
  picture = card_files.draw_samples(drawn.source, drawn.labels, 2)
  sheet = Image.open(io.BytesIO(picture))
  assert export_rows.SOURCE_TYPE in sheet.text["XML:com.adobe.xmp"]


def test_the_page_shows_pairs_and_is_left_out_without_a_card(card):
  assert "the same pixels" in quality.render({"card": card})
  assert not quality.render({})


def test_a_file_is_named_only_if_it_is_the_one_that_was_used():
  reference = "embedded:base.safetensors"
  sha256 = files.sha256(files.EMBEDDED / "weights" / "base.safetensors")
  assert files.describe(reference, sha256)["licence"] == "Apache-2.0"
  assert files.describe(reference, "0" * 64)["name"] is None


@pytest.mark.parametrize(
  ("card", "licence"),
  [
    ("---\nlanguage: en\nlicense: mit\n---\n# A model\n", "mit"),
    ("---\nlicense: other\nlicense_name: 'mine-1.0'\n---\n", "mine-1.0"),
    ("# A model\nlicense: mit\n", None),
    (None, None),
  ],
)
def test_a_folder_of_weights_has_the_licence_of_its_model_card(
  card, licence, tmp_path
):
  if card:
    (tmp_path / "README.md").write_text(card)
  about = files.describe(str(tmp_path), "0" * 64)
  assert (about["name"], about["licence"]) == (tmp_path.name, licence)


def test_wrong_fields_stop_before_work(tmp_path):
  config = main.load_config(str(CONFIG))
  config.card = dict(treshold=0.9)
  with pytest.raises(UserError, match="did you mean 'threshold'"):
    task.check(config, str(tmp_path))
  config.card = dict(threshold=1.5, neighbours=0)
  with pytest.raises(
    UserError, match="(?s)neighbours=0: needed.*threshold=1.5: "
  ):
    task.check(config, str(tmp_path))
