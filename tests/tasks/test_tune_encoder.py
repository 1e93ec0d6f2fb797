"""Tuning CLIP's image encoder: the task, from images to accuracies."""

import json
import pathlib

import jax
import numpy as np
import pytest
import tiny_clip
import tiny_world

from synthjax import main
from synthjax.adapt import classifier, encoder_tuning, lora
from synthjax.adapt.linear_head import Head
from synthjax.config import schema
from synthjax.data.real import real_images
from synthjax.labels import spaces
from synthjax.models.clip import model as clip
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import tune_encoder
from synthjax.tokenizers import bpe
from synthjax.weights import files

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SIZES = dict(
  embed_dim=16,
  image_size=32,
  patch_size=None,
  vision_width=4,
  vision_layers=(1, 1, 1, 1),
  vision_heads=2,
  image_tower="resnet",
  context_length=12,
  text_width=16,
  text_layers=1,
  text_heads=2,
)


def arm(name, **changes):
  block = dict(name=name, data="real", up_to="head", batch_norm="frozen")
  return block | changes


ARMS = (
  arm("real"),
  arm("real, batch", batch_norm="batch"),
  arm("all, syn", data="synthetic", up_to="stem"),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  sizes = SIZES | {"vocab_size": bpe.load().clip_vocab_size}
  path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
  description = {"kind": "clip", "model": sizes, "image_size": 32}
  shapes = tiny_clip.shapes(clip.CLIP(**sizes))
  files.save_params(path, tiny_clip.fill(shapes), description)
  return tiny_world.encoder_block(str(path))


def make_config_block(**changes):
  block = dict(
    arms=ARMS,
    seeds=(0, 1),
    pool=dict(split="real_pool"),
    shots=2,
    strategy="basic",
    epochs=2,
    batch_size=4,
    optimizer=dict(name="adamw", lr=1e-2),
    test=dict(split="test"),
  )
  return block | changes


def make_config(workdir, encoder, **changes):
  block = make_config_block(**changes)
  config = tiny_world.make_config(workdir, tune_encoder=block)
  config.encoder = encoder
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, encoder):
  workdir = tmp_path_factory.mktemp("work")
  tiny_world.write_images(workdir, seeds=(0, 1))
  config = make_config(workdir, encoder)
  tune_encoder.check(config, str(workdir))
  tune_encoder.run(config, str(workdir))
  return workdir, config


def test_every_arm_and_seed_is_measured_once(finished):
  workdir, _ = finished
  results = json.loads((workdir / "tune_encoder/results.json").read_text())
  rows = results["rows"]
  assert [(row["arm"], row["seed"]) for row in rows] == [
    (each["name"], seed) for each in ARMS for seed in (0, 1)
  ]
  by_arm = {row["arm"]: row for row in rows}
  assert by_arm["real"]["num_images"] == 2 * 3
  assert by_arm["all, syn"]["num_images"] == 3 * 4  # of its seed alone
  assert by_arm["all, syn"]["share_tuned"] == 1
  assert 0 < by_arm["real"]["share_tuned"] < 0.1
  assert all(0 <= row["accuracy"]["test"] <= 1 for row in rows)
  assert "test_opened_at" in artifacts.load(workdir / "tune_encoder")["summary"]


def test_statistics_and_weights_decide_what_is_predicted(finished):
  """The arms leave different models: their losses differ."""
  workdir, _ = finished
  losses = {
    path.name: [json.loads(line)["loss"] for line in path.open()]
    for path in (workdir / "tune_encoder").glob("*-s0_metrics.jsonl")
  }
  assert len(losses) == 3
  assert len({tuple(each) for each in losses.values()}) == 3


def test_an_arm_may_have_a_batch_of_its_own(tmp_path, encoder, monkeypatch):
  """Table 6 learns from 32 real images at a time, and from 512 generated."""
  trained = []

  def train(*args, num_steps, batch_size, **kwargs):
    trained.append((batch_size, num_steps))
    raise ZeroDivisionError

  monkeypatch.setattr(tune_encoder.runs, "train", train)
  arms = [arm("4"), arm("2", batch_size=2), arm("all", batch_size=99)]
  config = make_config(tmp_path, encoder, arms=tuple(arms))
  fields = schema.read(tune_encoder.FIELDS, config.tune_encoder, "here")
  model = tune_encoder._load(config.encoder)
  head = Head(np.zeros((3, 8)), np.zeros(3))
  space = spaces.load_space(config.space)
  for each in fields.arms:
    tune = tune_encoder._tuner(fields, each, model, head, tmp_path, space)
    with pytest.raises(ZeroDivisionError):
      tune(0)
  # Of 3 classes x 2 shots in 2 epochs.
  assert trained == [(4, 3), (2, 6), (6, 2)]


def test_a_complete_run_is_skipped_and_another_refused(finished):
  workdir, config = finished
  before = (workdir / "tune_encoder/manifest.json").read_bytes()
  tune_encoder.run(config, str(workdir))
  assert (workdir / "tune_encoder/manifest.json").read_bytes() == before
  other = config.copy_and_resolve_references()
  other.tune_encoder.epochs = 3
  with pytest.raises(specifications.SpecMismatch, match="epochs"):
    tune_encoder.run(other, str(workdir))


def test_the_head_starts_as_the_zero_shot_classifier(tmp_path, encoder):
  """Without a step of any size, the accuracy is that of zero-shot."""
  config = make_config(
    tmp_path,
    encoder,
    arms=(arm("still"),),
    seeds=(0,),
    optimizer=dict(name="sgd", lr=0.0),
  )
  tune_encoder.run(config, str(tmp_path))
  found = json.loads((tmp_path / "tune_encoder/results.json").read_text())
  assert found["rows"][0]["accuracy"] == found["zero_shot"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"epoch": 1}, "did you mean 'epochs'"),
    ({"arms": (arm("a", up_to="layer5"),)}, "did you mean 'layer"),
    ({"arms": (arm("a", data="reel"),)}, "did you mean 'real'"),
    ({"arms": (arm("a", batch_norm="batches"),)}, "did you mean 'batch'"),
    ({"arms": (arm("a"), arm("a"))}, "a name of its own"),
    ({"arms": ()}, "needed one block or more"),
    ({"shots": None}, "pool and shots"),
    ({"shots": 4000}, "4000 real images"),
    ({"shots": "most"}, "shots='most'"),
    ({"optimizer": dict(name="adam", lr=1)}, "did you mean 'adamw'"),
  ],
)
def test_bad_fields_stop_before_anything_runs(
  tmp_path, encoder, changes, message
):
  config = make_config(tmp_path, encoder, **changes)
  with pytest.raises(UserError, match=message):
    tune_encoder.check(config, str(tmp_path))


def test_all_real_images_may_be_learned(tmp_path, encoder):
  config = make_config(tmp_path, encoder, shots="all")
  fields = schema.read(tune_encoder.FIELDS, config.tune_encoder, "x")
  space = spaces.load_space(config.space)
  (real,) = [each for each in fields.arms if each.data == "real"][:1]
  source = tune_encoder._source(fields, real, tmp_path, space, seed=0)
  assert len(source) == len(real_images.open_real(fields.pool, space))


def test_a_step_that_a_device_refuses_is_found_by_the_check(
  tmp_path, encoder, monkeypatch
):
  tiny_world.write_images(tmp_path, seeds=(0, 1))

  def refuse(*_, **__):
    raise NotImplementedError("Unsupported sequence length")

  monkeypatch.setattr(encoder_tuning, "mixed_cross_entropy", refuse)
  with pytest.raises(NotImplementedError, match="length"):
    tune_encoder.check(make_config(tmp_path, encoder), str(tmp_path))


def test_images_must_be_there(tmp_path, encoder):
  config = make_config(tmp_path, encoder)
  with pytest.raises(UserError, match="generate"):
    tune_encoder.check(config, str(tmp_path))


# --- low-rank updates of both towers ----------------------------------------


@pytest.mark.slow
def test_updates_are_merged_into_a_classifier_of_any_images(tmp_path):
  """From real and generated images, both seeds in one step or apart."""
  tiny_world.write_images(tmp_path, seeds=(0, 1))
  block = tiny_world.encoder_block(
    tiny_world.write_clip(tmp_path / "clip.safetensors")
  )
  updates = dict(steps_per_shot=1, augmentation="none")
  apart = updates | dict(together=False)
  arms = tuple(
    dict(name=name, data="mix", lora=each, lr=0.3)
    for name, each in (("both", updates), ("apart", apart))
  )
  config = make_config(tmp_path, block, arms=arms)
  tune_encoder.check(config, str(tmp_path))
  tune_encoder.run(config, str(tmp_path))

  folder = tmp_path / "tune_encoder"
  rows = json.loads((folder / "results.json").read_text())["rows"]
  assert [row["seed"] for row in rows] == [0, 1, 0, 1]
  assert {row["num_images"] for row in rows} == {2 * 3 + 3 * 4}
  lines = (folder / "both-s0-1_metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[-1])["step"] == 2  # of two shots
  space = spaces.load_space(config.space)
  source = real_images.open_real(dict(split="test"), space)
  images = [source[i]["image"] for i in range(len(source))]
  labels = np.array([source[i]["label"] for i in range(len(source))])
  found = []
  for row in rows:
    arm = f"{row['arm']}-s{row['seed']}"
    tuned = classifier.load(tmp_path, arm=arm)
    found.append(tuned.classify(images))
    right = (found[-1].argmax(-1) == labels).mean()
    assert right == pytest.approx(row["accuracy"]["test"])
  assert np.abs(found[0] - found[1]).max() > 1e-3
  np.testing.assert_allclose(found[:2], found[2:], atol=1e-3)


def test_updates_of_the_embedded_world_begin_at_its_zero_shot_classifier():
  """Of the authors' "a photo of a" its CLIP knows nothing."""
  config = main.load_config(f"{CONFIGS}/tune_encoder.py:table=lora,runlocal")
  fields = schema.read(
    tune_encoder.FIELDS, config.tune_encoder, "config.tune_encoder"
  )
  space = spaces.load_space(config.space)
  source = real_images.open_real(dict(split="validation"), space)
  rows = [source[i] for i in range(0, len(source), 2)]
  images = np.stack([row["image"] for row in rows])
  labels = np.array([row["label"] for row in rows])
  for arm in fields.arms:
    towers = tune_encoder._load_towers(config.encoder, fields, arm, space)
    updates = lora.init(
      towers.variables["params"], arm.lora.rank, jax.random.key(0)
    )
    logits = lora.logits_fn(
      towers, towers.variables, updates, images, arm.lora.scale
    )
    found = (logits.argmax(-1) == labels).mean()
    assert found > 0.25, arm.name  # 16 classes; 0.36 of all templates


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(up_to="head"), "'a' has lora: leave out up_to"),
    (dict(lora=None, data="real"), "'a' needs what it tunes"),
    (
      dict(lora=None, up_to="head", batch_norm="frozen"),
      "'a' has data='mix'",
    ),
    (dict(lora=dict(rank=0)), "rank=0"),
    (dict(lora=dict(ranks=2)), "did you mean 'rank'"),
  ],
)
def test_an_arm_has_a_part_or_updates(changes, message):
  block = make_config_block(
    arms=(dict(name="a", data="mix", lora={}) | changes,)
  )
  with pytest.raises(UserError, match=message):
    schema.read(tune_encoder.FIELDS, block, "config.tune_encoder")


def test_updates_need_a_number_of_shots():
  arms = (dict(name="a", data="synthetic", lora={}),)
  for shots in (None, "all"):
    block = make_config_block(arms=arms, shots=shots)
    with pytest.raises(UserError, match=r"steps of the arms \['a'\]"):
      schema.read(tune_encoder.FIELDS, block, "config.tune_encoder")
