"""The dataset card by further encoders: asked for, fetched or absent."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import tiny_encoders
import tiny_world
from PIL import Image

from synthjax.data.generated import scores, shards
from synthjax.encoders import load_image_encoder
from synthjax.evals import image_quality
from synthjax.report.card import readme
from synthjax.report.sections import quality
from synthjax.runtime import artifacts, locks, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import card, score

CLASSES = [each["name"] for each in tiny_world.SPACE["classes"]]


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache of released weights."""
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache" / "weights"


@pytest.fixture
def config(tmp_path, cache):
  """A run whose images are drawn and scored; 4 real images of each class."""
  tiny_world.write_images(tmp_path)
  folder = tmp_path / "generate"
  for name in (artifacts.MANIFEST, artifacts.SPEC):
    content = json.loads((folder / name).read_text())
    content.pop("sha256", None)  # as of an older version
    spec = content.get("spec", content)
    spec["generator"] = {"guidance_scale": 3.0}
    spec["generate"] = {"seeds": [0], "images_per_class": 4}
    (folder / name).write_text(json.dumps(content))
  rng = np.random.default_rng(9)
  for name in CLASSES:
    (tmp_path / "real" / name).mkdir(parents=True)
    for i in range(4):
      image = rng.integers(0, 256, (32, 40, 3), np.uint8)
      Image.fromarray(image).save(tmp_path / "real" / name / f"{i}.png")
  real = dict(kind="folder", path=str(tmp_path / "real"))
  made = tiny_world.make_config(
    tmp_path, score={}, card=dict(real=real, neighbours=2)
  )
  made.tasks = ("card",)
  score.run(made, str(tmp_path))
  return made


def run(config, workdir):
  card.check(config, str(workdir))
  card.run(config, str(workdir))
  return json.loads((workdir / "card" / "card.json").read_text())


def ask(config, encoders):
  with config.ignore_type():
    config.card.encoders = encoders


def fetch(cache, name="dinov2_vits14", **sizes):
  """Puts tiny weights where fetched ones lie."""
  (cache / name).mkdir(parents=True)
  path = cache / name / "encoder.safetensors"
  return tiny_encoders.write_dinov2(path, **sizes)


def test_absent_weights_are_one_line_that_says_how_to_get_them(
  config, tmp_path, capsys
):
  made = run(config, tmp_path)
  assert "encoders" not in made["quality"]
  lines = capsys.readouterr().err.splitlines()
  (line,) = [line for line in lines if "synthjax.weights" in line]
  assert "Inception and DINOv2" in line
  assert "fetch inception_fid dinov2_vitl14" in line


def test_fetched_weights_are_used_and_their_figures_shown(
  config, tmp_path, cache
):
  path = fetch(cache)
  made = run(config, tmp_path)
  (further,) = made["quality"]["encoders"]
  assert further["model"]["what"].startswith("DINOv2 ViT-S/14")
  assert further["model"]["licence"] == "Apache-2.0"
  found = further["sets"]["all"]["figures"]
  # The Fréchet distance of what this encoder says of the images.
  encoder = load_image_encoder(path, field="x")
  drawn = shards.open_shards(tmp_path / "generate")
  drawn = encoder.encode_images([drawn[i]["image"] for i in range(12)])
  paths = sorted((tmp_path / "real").rglob("*.png"))
  real = encoder.encode_images([np.asarray(Image.open(p)) for p in paths])
  want = image_quality.frechet_distance(real, drawn)
  np.testing.assert_allclose(found["frechet"], want, rtol=0.02)  # of float16
  assert found["images"] == 12 and 0 <= found["coverage"] <= 1
  assert further["sets"]["real"]["figures"].get("frechet") is None
  readme = (tmp_path / "card" / "README.md").read_text()
  assert "By the features of released:dinov2_vits14" in readme
  assert readme.count("Fréchet distance (lower is better)") == 2
  page = quality.render({"card": made})
  assert "By released:dinov2_vits14" in page
  assert "do not compare" not in page + readme
  assert "FID" not in page + readme  # which is Inception's alone
  croissant = (tmp_path / "card" / "croissant.json").read_text()
  assert "dinov2" not in croissant


@pytest.mark.slow
def test_fid_is_that_of_inceptions_features(
  config, tmp_path, cache, monkeypatch
):
  (cache / "inception_fid").mkdir(parents=True)
  path = tiny_encoders.write_inception(
    cache / "inception_fid" / "encoder.safetensors"
  )
  load = partial(load_image_encoder, batch_size=2)
  monkeypatch.setattr(card, "load_image_encoder", load)
  made = run(config, tmp_path)
  (further,) = made["quality"]["encoders"]
  assert further["model"]["what"].startswith("Inception-v3 of FID")
  assert further["model"]["licence"] == "Apache-2.0"
  # Again from the stored features, and from those that the encoder gives.
  encoder = load(path, field="x")
  drawn = shards.open_shards(tmp_path / "generate")
  drawn = encoder.encode_images([drawn[i]["image"] for i in range(12)])
  paths = sorted((tmp_path / "real").rglob("*.png"))
  real = encoder.encode_images([np.asarray(Image.open(p)) for p in paths])
  want = image_quality.frechet_distance(real, drawn)
  found = further["sets"]["all"]["figures"]
  np.testing.assert_allclose(found["frechet"], want, rtol=0.02)  # of float16
  readme = (tmp_path / "card" / "README.md").read_text()
  page = quality.render({"card": made})
  for text in (readme, page):
    assert text.count("Fréchet inception distance (FID)") == 1
    assert text.count("kernel inception distance (KID)") == 1
    assert "of 12 generated and 12 real images" in text
  assert readme.count("Fréchet distance (lower is better)") == 1  # CLIP's
  assert readme.count("kernel distance (lower is better)") == 1


def test_an_fid_of_few_images_has_a_warning():
  def warning(encoder, *counts):
    sets = {
      name: {"figures": {"images": n}}
      for name, n in zip(("all", "kept", "real"), counts, strict=False)
    }
    further = {"identity": {"encoder": encoder}, "sets": sets}
    return readme.few_images(further)

  assert "50,000" in warning("inception", 50_000, 40_000, 50_000)
  assert "60,000 generated and 10,000" in warning(
    "inception", 60_000, 50_000, 10_000
  )
  assert warning("inception", 60_000, 50_000, 50_000) == ""
  assert warning("inception", 60, 50) == ""  # nothing to compare with
  assert warning("dinov2", 60, 50, 50) == ""


def test_features_are_stored_and_not_computed_again(
  config, tmp_path, cache, monkeypatch
):
  fetch(cache)
  first = run(config, tmp_path)
  folder = tmp_path / "card"
  assert list(folder.glob("drawn-*.npz")) and list(folder.glob("real-*.npz"))
  (folder / artifacts.MANIFEST).unlink()  # as if stopped at the end

  def load(weights, **fields):
    encoder = load_image_encoder(weights, **fields)
    return encoder._replace(encode_images=None)

  monkeypatch.setattr(card, "load_image_encoder", load)
  assert run(config, tmp_path)["quality"] == first["quality"]


def test_workers_that_share_the_encoding_leave_the_same_bytes(
  config, tmp_path, cache, monkeypatch
):
  """Two of them encode every other part; a third one has only to write."""
  fetch(cache)
  monkeypatch.setattr(scores, "CHUNK_SIZE", 5)

  def files():
    paths = (tmp_path / "card").iterdir()
    return {path.name: path.read_bytes() for path in paths}

  run(config, tmp_path)
  alone = files()
  shutil.rmtree(tmp_path / "card")
  prepare = lambda: [*card.prepare(config, str(tmp_path))]
  (one,), (other,) = prepare(), prepare()
  # Real images by both encoders, drawn ones by the further one; 5, 5 and 2.
  assert [*one.rows.values()] == [5, 5, 2] * 3
  one.begin()
  one.do(range(0, 9, 2))
  other.do(range(1, 9, 2))
  assert locks.missing(one.folder, list(one.rows)) == []

  def blind(load):
    return lambda *names, **fields: load(*names, **fields)._replace(
      encode_images=None
    )

  for name in ("load_encoder", "load_image_encoder"):
    monkeypatch.setattr(card, name, blind(getattr(card, name)))
  (third,) = prepare()
  third.finish()
  assert files() == alone


def test_weights_that_come_or_go_do_not_undo_a_card(
  config, tmp_path, cache, capsys
):
  first = run(config, tmp_path)
  fetch(cache)
  assert run(config, tmp_path) == first
  assert "made with the weights that were here then" in capsys.readouterr().err
  shutil.rmtree(tmp_path / "card")
  assert run(config, tmp_path)["quality"]["encoders"]
  shutil.rmtree(cache)
  assert run(config, tmp_path)["quality"]["encoders"]
  config.card.encoders = "none"  # which says that there are none
  with pytest.raises(specifications.SpecMismatch, match="encoders"):
    card.run(config, str(tmp_path))


def test_weights_that_are_asked_for_must_be_there(config, tmp_path, cache):
  config.card.encoders = "released:dinov2_vits14"
  with pytest.raises(UserError, match="fetch dinov2_vits14"):
    card.check(config, str(tmp_path))
  ask(config, 3)
  with pytest.raises(UserError, match="'fetched'"):
    card.check(config, str(tmp_path))
  path = tiny_encoders.write_dinov2(tmp_path / "mine.safetensors")
  fetch(cache, width=32)
  ask(config, ("released:dinov2_vits14", path))
  one, two = run(config, tmp_path)["quality"]["encoders"]
  assert one["model"]["name"] == "released:dinov2_vits14"
  assert two["model"]["name"] == "mine.safetensors"
  assert one["sets"] != two["sets"]


def test_the_largest_that_is_there_is_taken(cache):
  fetch(cache)
  fetch(cache, "dinov2_vitb14")
  found = card.choose_encoders("fetched")
  assert found.weights[0] == "released:dinov2_vitb14"
  assert "DINOv2" not in found.missing
  assert found.missing == {"Inception": "inception_fid"}
  assert card.choose_encoders("a.x, b.x").weights == ("a.x", "b.x")
  assert card.choose_encoders("none").weights == ()
