"""Scores: what they mean, and that a killed run goes on where it stopped."""

import hashlib
import json
import shutil
from unittest import mock

import numpy as np
import pytest
import tiny_world
from PIL import Image

from synthjax.data.generated import plan, scores, shards
from synthjax.encoders import load_encoder
from synthjax.labels import spaces
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import score, select


@pytest.fixture
def config(tmp_path):
  tiny_world.write_images(tmp_path)  # 12 images in shards of 7 and 5
  return tiny_world.make_config(tmp_path, score={})


@pytest.fixture
def written(monkeypatch):
  """Lists the parts that are scored."""
  names, real = [], scores.write_part
  write = lambda *a: names.append(a[1]) or real(*a)
  monkeypatch.setattr(scores, "write_part", write)
  return names


def digests(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.glob("*.npz"))
  }


def test_probabilities_by_hand():
  """Cosines of 1 and 0, of a scale of ln(9): 9 to 1."""
  texts = scores.Texts(
    np.array([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [1.0, 0.0]]]), np.log(9)
  )
  made = scores.make_scores(["a", "b"], [0, 1], [[5.0, 0], [0.5, 0]], texts)
  # The length of a feature says nothing, nor do templates but the first.
  np.testing.assert_allclose(made.probs, [[0.9, 0.1]] * 2, rtol=1e-3)
  np.testing.assert_allclose(made.p_own, [0.9, 0.1], rtol=1e-6)
  np.testing.assert_array_equal(made.features, [[5, 0], [0.5, 0]])
  assert made.probs.dtype == made.features.dtype == np.float16


def test_the_filter_may_have_a_text_of_its_own():
  """It knows a class by that, in the singular; the classifier does not."""
  classes = [{"name": "Big Barns", "singular": "Big Barn"}, "River"]
  fields = dict(templates=["itap of {}.", "the {}."], filter="a photo of a {}.")
  space = spaces.parse_space(
    fields | dict(name="farm", classes=classes), where="here"
  )
  read = []

  def encode(texts):
    read.extend(texts)
    return np.array(
      [[len(read) - len(texts) + i, 1] for i in range(len(texts))]
    )

  texts = scores.encode_classes(encode, 1.0, space)
  assert read[:4] == [
    "itap of Big Barns.",
    "the Big Barns.",
    "itap of River.",
    "the River.",
  ]
  assert read[4:] == ["a photo of a Big Barn.", "a photo of a River."]
  assert texts.text_features.tolist() == [[[0, 1], [1, 1]], [[2, 1], [3, 1]]]
  made = scores.make_scores(["a"], [0], [[1.0, 0]], texts)
  cosines = np.array([4, 5]) / np.hypot([4, 5], 1)
  p_own = 1 / (1 + np.exp(cosines[1] - cosines[0]))
  np.testing.assert_allclose(made.p_own, [p_own], rtol=1e-6)


def test_rows_are_those_of_the_images(config, tmp_path):
  score.check(config, str(tmp_path))
  score.run(config, str(tmp_path))
  found = scores.read(tmp_path / "score")
  images = shards.open_shards(tmp_path / "generate")
  assert found.ids.tolist() == [row["id"] for row in images]
  assert found.labels.tolist() == [row["label"] for row in images]
  encoder = load_encoder(**config.encoder.to_dict())
  np.testing.assert_allclose(
    found.features,
    encoder.encode_images([row["image"] for row in images]),
    rtol=2e-3,
    atol=2e-3,
  )
  np.testing.assert_allclose(found.probs.sum(-1), 1, atol=2e-3)
  own = found.probs[np.arange(12), found.labels]
  np.testing.assert_allclose(found.p_own, own, rtol=1e-3)


def test_the_tuned_encoder_may_see_small_images(config, tmp_path):
  """The filter sees them whole, as in the release."""
  score.run(config, str(tmp_path))
  whole = scores.read(tmp_path / "score")
  shutil.rmtree(tmp_path / "score")
  config.score = dict(low_resolution=4)
  score.check(config, str(tmp_path))
  score.run(config, str(tmp_path))
  small = scores.read(tmp_path / "score")
  np.testing.assert_array_equal(small.p_own, whole.p_own)
  encoder = load_encoder(**config.encoder.to_dict())
  images = [
    np.asarray(Image.fromarray(row["image"]).resize((4, 4), 2))
    for row in shards.open_shards(tmp_path / "generate")
  ]
  np.testing.assert_allclose(
    small.features, encoder.encode_images(images), rtol=2e-3, atol=2e-3
  )
  assert np.abs(small.features - whole.features).max() > 0.01


def test_texts_are_every_class_in_every_template(config, tmp_path):
  score.run(config, str(tmp_path))
  texts = scores.read_texts(tmp_path / "score")
  encoder = load_encoder(**config.encoder.to_dict())
  assert texts.text_features.shape == (3, 2, 16)
  np.testing.assert_allclose(
    texts.text_features[1],
    encoder.encode_texts(["a drawing of fresh fruit.", "fresh fruit."]),
    rtol=1e-5,
    atol=1e-6,
  )
  assert texts.logit_scale == pytest.approx(encoder.logit_scale)


@pytest.mark.faults
def test_a_killed_run_leaves_whole_parts_and_goes_on(config, tmp_path, written):
  score.run(config, str(tmp_path))
  folder = tmp_path / "score"
  whole = digests(folder)
  assert len(whole) == 3

  for name in ("manifest.json", "scores-00001-of-00002.npz", scores.TEXT):
    (folder / name).unlink()
  kept = folder / "scores-00000-of-00002.npz"
  before = kept.stat().st_mtime_ns
  written.clear()
  score.run(config, str(tmp_path))
  assert digests(folder) == whole
  assert kept.stat().st_mtime_ns == before
  assert written == ["scores-00001-of-00002.npz"]


@pytest.mark.faults
def test_what_breaks_half_way_leaves_no_half_part(
  config, tmp_path, monkeypatch
):
  real = np.savez

  def broken(path, **arrays):
    if "probs" in arrays:
      path.write_bytes(b"PK half a file")
      raise KeyboardInterrupt
    real(path, **arrays)

  monkeypatch.setattr(np, "savez", broken)
  with pytest.raises(KeyboardInterrupt):
    score.run(config, str(tmp_path))
  assert not digests(tmp_path / "score")
  assert not (tmp_path / "score" / "manifest.json").exists()


def test_another_encoder_may_filter(config, tmp_path):
  """Features are those of one, and probabilities those of the other."""
  other = tiny_world.write_clip(tmp_path / "other.safetensors", seed=1)
  config.score = {"filter_encoder": tiny_world.encoder_block(other)}
  score.check(config, str(tmp_path))
  score.run(config, str(tmp_path))
  both = scores.read(tmp_path / "score")

  def alone(name, encoder):
    workdir = tmp_path / name
    workdir.mkdir()
    tiny_world.write_images(workdir)
    changed = tiny_world.make_config(workdir, score={})
    changed.encoder = encoder
    score.run(changed, str(workdir))
    return scores.read(workdir / "score")

  own = alone("own", config.encoder.to_dict())
  filtering = alone("filtering", tiny_world.encoder_block(other))
  np.testing.assert_array_equal(both.features, own.features)
  np.testing.assert_array_equal(both.p_own, filtering.p_own)
  np.testing.assert_array_equal(both.probs, filtering.probs)
  assert (both.p_own != own.p_own).any()
  config.score.filter_encoder.weights = str(tmp_path / "none.safetensors")
  with pytest.raises(UserError, match="no file"):
    score.check(config, str(tmp_path))


SECOND = "scores-00001-of-00002.npz"


def draw_again(workdir, part=1, change=lambda image: image ^ 1):
  """Draws a shard and completes the task anew, as on other hardware."""
  folder = workdir / "generate"
  images = list(shards.open_shards(folder))[7 * part :][:7]
  manifest = artifacts.load(folder)
  (folder / "manifest.json").unlink()
  name = "synthjax_images"
  (folder / shards.shard_name(part, 2, name=name)).unlink()
  again = [row | {"image": change(row["image"])} for row in images]
  shards.write_shard(folder, part, 2, again, name=name)
  rows = {file: entry["rows"] for file, entry in manifest["files"].items()}
  artifacts.finish(folder, manifest["spec"], rows)


def from_nothing(config, workdir, fresh):
  """Scores and selects the images of a workdir in another one."""
  shutil.copytree(workdir / "generate", fresh / "generate")
  for task in (score, select):
    task.run(config, str(fresh))
  return [digests(fresh / "score"), selected(fresh)]


def selected(workdir):
  return (workdir / "select" / "selection.parquet").read_bytes()


@pytest.mark.faults
def test_a_repaired_shard_is_scored_alone(config, tmp_path, written, capsys):
  """Then the selection is that of a run from nothing; a training stays."""
  config.select = dict(max_per_class=2)
  for task in (score, select):
    task.run(config, str(tmp_path))
  inputs = lambda: {
    name: artifacts.digest(tmp_path / name, repairable=True)
    for name in ("score", "select")
  }
  before = digests(tmp_path / "score"), selected(tmp_path)
  training, read = tmp_path / "tune", {"inputs": inputs(), "epochs": 2}
  artifacts.begin(training, read)
  artifacts.finish(training, read, {})

  draw_again(tmp_path)
  written.clear()
  for _ in range(2):  # the second skips all
    for task in (score, select):
      task.run(config, str(tmp_path))
    assert written == [SECOND]
  after = [digests(tmp_path / "score"), selected(tmp_path)]
  assert after == from_nothing(config, tmp_path, tmp_path / "fresh")
  assert {n for n in after[0] if after[0][n] != before[0][n]} == {SECOND}
  assert after[1] != before[1]

  capsys.readouterr()
  read["inputs"] = inputs()
  assert artifacts.begin(training, read)
  assert "tune: stays as it is, made before" in capsys.readouterr().err
  with pytest.raises(
    specifications.SpecMismatch, match="epochs: found 2, asked"
  ):
    artifacts.begin(training, read | {"epochs": 3})


@pytest.mark.faults
def test_a_killed_renewal_goes_on(config, tmp_path, written, monkeypatch):
  config.select = dict(max_per_class=2)
  score.run(config, str(tmp_path))
  draw_again(tmp_path)
  written.clear()
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(
      artifacts, "_write_json", mock.Mock(side_effect=KeyboardInterrupt)
    )
    score.run(config, str(tmp_path))
  assert not (tmp_path / "score" / SECOND).exists()
  for task in (score, select):
    task.run(config, str(tmp_path))
  assert written == [SECOND]
  after = [digests(tmp_path / "score"), selected(tmp_path)]
  assert after == from_nothing(config, tmp_path, tmp_path / "fresh")


@pytest.mark.faults
def test_a_shard_that_is_not_of_the_manifest_is_not_scored(config, tmp_path):
  """Its scores would be taken for those of the shard that was drawn."""
  shard = shards.shard_name(1, 2, name="synthjax_images")
  kept = (tmp_path / "generate" / shard).read_bytes()
  manifest = (tmp_path / "generate" / "manifest.json").read_bytes()
  draw_again(tmp_path)
  (tmp_path / "generate" / "manifest.json").write_bytes(manifest)
  with pytest.raises(UserError, match=f"{shard}: its content has changed"):
    score.run(config, str(tmp_path))
  assert not (tmp_path / "score" / SECOND).exists()
  (tmp_path / "generate" / shard).write_bytes(kept)
  score.run(config, str(tmp_path))


def test_other_images_are_no_repair(config, tmp_path):
  """They have the same ids, in as many shards, by another specification."""
  score.run(config, str(tmp_path))
  before = digests(tmp_path / "score")
  shutil.rmtree(tmp_path / "generate")
  tiny_world.write_images(tmp_path, salt=1)
  with pytest.raises(specifications.SpecMismatch, match="images: found"):
    score.run(config, str(tmp_path))
  assert digests(tmp_path / "score") == before


@pytest.mark.faults
def test_scores_of_an_older_version_are_kept_whole(config, tmp_path, written):
  """They do not say of what they were made: skipped, and never renewed."""
  score.run(config, str(tmp_path))
  folder = tmp_path / "score"
  manifest = artifacts.load(folder)
  del manifest["spec"]["keys_of_inputs"]
  (folder / "manifest.json").write_text(json.dumps(manifest))
  (folder / "spec.json").write_text(json.dumps(manifest["spec"]))
  written.clear()
  score.run(config, str(tmp_path))
  draw_again(tmp_path)
  with pytest.raises(specifications.SpecMismatch, match="images: found"):
    score.run(config, str(tmp_path))
  assert written == []


def test_a_complete_run_is_skipped(config, tmp_path, monkeypatch):
  score.run(config, str(tmp_path))
  monkeypatch.setattr(score, "_score", None)
  score.run(config, str(tmp_path))


def test_other_weights_are_refused(config, tmp_path):
  score.run(config, str(tmp_path))
  config.encoder.weights = tiny_world.write_clip(
    tmp_path / "other.safetensors", seed=1
  )
  with pytest.raises(specifications.SpecMismatch, match="encoder.weights"):
    score.run(config, str(tmp_path))


def test_images_of_another_label_space_are_refused(config, tmp_path):
  classes = tiny_world.SPACE["classes"][:2]
  config.space = tiny_world.write_space(tmp_path, classes=classes)
  with pytest.raises(UserError, match=r"labels \[2\].*2 classes"):
    score.run(config, str(tmp_path))


def test_check_refuses_unknown_fields_and_missing_weights(config, tmp_path):
  config.score.chunk = 3
  with pytest.raises(UserError, match="config.score has no field 'chunk'"):
    score.check(config, str(tmp_path))
  del config.score.chunk
  config.encoder.weights = "none.safetensors"
  with pytest.raises(UserError, match=":runlocal"):
    score.check(config, str(tmp_path))


def test_check_needs_images_unless_the_run_draws_them(config, tmp_path):
  empty = tmp_path / "empty"
  with pytest.raises(UserError, match="'generate' has not been completed"):
    score.check(config, str(empty))
  config.tasks = ("generate", "score")
  score.check(config, str(empty))


@pytest.mark.faults
def test_a_damaged_part_is_named(config, tmp_path):
  score.run(config, str(tmp_path))
  path = tmp_path / "score" / "scores-00001-of-00002.npz"
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(UserError, match="scores-00001-of-00002.npz: its content"):
    scores.read(tmp_path / "score")


def test_ids_hold_strategy_and_seed():
  strategies, seeds = plan.origin(["basic-0-1-s3-4", "enhanced-12-0-s0-77"])
  assert strategies.tolist() == ["basic", "enhanced"]
  assert seeds.tolist() == [3, 0]
  with pytest.raises(UserError, match="'photo.png'"):
    plan.origin(["basic-0-1-s3-4", "photo.png"])


# --- real images ------------------------------------------------------------


def test_real_images_are_encoded_once(tmp_path):
  rng = np.random.default_rng(0)
  source = [
    {"image": rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), "label": i}
    for i in range(5)
  ]
  calls = []

  def encode(images):
    calls.append(len(images))
    return np.array([[x.mean(), x.std()] for x in images])

  options = dict(identity="a", folder=tmp_path, chunk_size=2)
  features, labels, files = scores.encode_source(source, encode, **options)
  want = encode([row["image"] for row in source]).astype(np.float16)
  np.testing.assert_array_equal(features, want)
  assert labels.tolist() == [0, 1, 2, 3, 4] and sum(files.values()) == 5
  assert features.dtype == np.float32 and calls == [2, 2, 1, 5]

  again = scores.encode_source(source, encode, **options)
  np.testing.assert_array_equal(again[0], features)
  assert len(calls) == 4 and again[2] == files

  # Another image, or another encoder, is another chunk.
  source[3]["image"] = 255 - source[3]["image"]
  scores.encode_source(source, encode, **options)
  assert calls[4:] == [2]
  scores.encode_source(source, encode, **options | {"identity": "b"})
  assert calls[5:] == [2, 2, 1]
