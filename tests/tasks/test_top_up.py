"""The task top_up: uneven classes, a choice, and a test opened at the end."""

import json

import numpy as np
import pytest
import tiny_world

from synthjax.adapt import (
  classifier,
  feature_sets,
  heads,
  linear_head,
  topping_up,
)
from synthjax.config import schema
from synthjax.data.generated import plan
from synthjax.data.pipeline.rows import subset
from synthjax.data.real import real_images
from synthjax.encoders import load_encoder
from synthjax.labels import spaces
from synthjax.prompts import strategies
from synthjax.report.sections import top_up as section
from synthjax.runtime.errors import UserError
from synthjax.tasks import generate, score, select, top_up
from synthjax.weights import files

POOL = dict(split="real_pool", rare=6)
TOP_UP = dict(
  pool=POOL,
  validation=dict(split="validation"),
  test=dict(split="test"),
  weights=(0.5, 1),
  seeds=(0, 1),
  num_epochs=2,
  batch_size=16,
  lr=5.0,
)


ARMS = ["real images as they are", "oversampling", "mix 0.5", "mix 1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Leaves the scores of 8 images of class 1, and of none of the others."""
  workdir = tmp_path_factory.mktemp("top_up")
  tiny_world.write_images(workdir, per_class=8, labels=(1,))
  config = tiny_world.make_config(
    workdir, score={}, select={"share": 0.5}, top_up=TOP_UP
  )
  score.run(config, str(workdir))
  select.run(config, str(workdir))
  return workdir, config


@pytest.fixture(scope="module")
def learned(world):
  """Runs the task; returns which images were opened and learned, in order."""
  workdir, config = world
  events, open_real, tune = [], real_images.open_real, topping_up.tune
  top_up.check(config, str(workdir))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      real_images,
      "open_real",
      lambda block, space: (
        events.append(block["split"]) or open_real(block, space)
      ),
    )
    patch.setattr(
      topping_up,
      "tune",
      lambda arm, *args, **more: (
        events.append(arm.name) or tune(arm, *args, **more)
      ),
    )
    top_up.run(config, str(workdir))
  return events


def results_of(workdir):
  return json.loads((workdir / "top_up" / "results.json").read_text())


def test_the_test_images_are_opened_once_after_all_training(learned):
  assert [event for event in learned if event in ARMS] == ARMS * 2
  assert learned[-9:] == [*ARMS * 2, "test"]


def test_the_results_compare_arms_on_uneven_classes(world, learned):
  workdir, _ = world
  found = results_of(workdir)
  assert found["real"][1] == 6 < min(found["real"][0], found["real"][2])
  assert found["generated"] == [0, 4, 0]  # half of those that were drawn
  assert not found["validation"]["is_held_out"]
  compared = [*ARMS[:2], found["validation"]["mix"]]
  assert [row["arm"] for row in found["summary"]] == compared
  assert [(row["arm"], row["seed"]) for row in found["rows"]] == [
    (arm, seed) for arm in compared for seed in (0, 1)
  ]
  assert top_up.table(found).count("\n") == 1 + 4 + 3 + 1


def test_what_is_saved_is_what_was_measured(world, learned):
  workdir, config = world
  found, space = results_of(workdir), spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  (features, labels), _ = feature_sets.encode_real(
    dict(split="test"), space, encoder, workdir / "top_up"
  )
  params, _ = files.load_params(workdir / "top_up" / heads.HEADS)
  for row in found["rows"]:
    head = linear_head.Head(**params[heads.label(row["arm"], row["seed"])])
    right = np.asarray(head(features)).argmax(-1) == labels
    shares = [right[labels == label].mean() for label in range(3)]
    assert row["mean_per_class"] == pytest.approx(np.mean(shares))
    assert row["top1"] == pytest.approx(right.mean())
  assert found["zero_shot"]["mean_per_class"] != np.mean(shares)
  # The best on validation is what `classify` and others take.
  chosen = classifier.load(str(workdir))
  assert chosen.arm.name == found["validation"]["best"]


def test_mixed_losses_are_weighted_by_the_shares():
  """In mix 1, a class of 6 real and 4 generated images draws 0.4 of them."""
  seen = []

  def tune(sets, head, recipe):
    seen.extend(sets)
    return linear_head.Tuned(head, None, None)

  counts = [(0, 20), (1, 6), (2, 10)]
  labels = np.concatenate([[label] * n for label, n in counts])
  real = np.ones((36, 4), np.float32), labels
  generated = np.ones((4, 4), np.float32), np.ones(4, int)
  start = linear_head.Head(np.zeros((3, 4), np.float32), np.zeros(3))
  fields = schema.read(topping_up.TopUp, TOP_UP, "config.top_up")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(linear_head, "tune", tune)
    for arm in topping_up.arms_of((1,)):
      topping_up.tune(
        arm, real, generated, start, fields, num_steps=500, seed=0
      )

  def shares(rows):
    index = rows.index[rows.index >= 0]
    return np.bincount(rows.labels[index], minlength=3) / len(index)

  as_they_are, oversampled, mixed, drawn = seen
  np.testing.assert_allclose(
    shares(as_they_are), np.array([20, 6, 10]) / 36, atol=0.02
  )
  np.testing.assert_allclose(shares(oversampled), 1 / 3, atol=0.02)
  # Real rows: 1, 0.6 and 1 of 2.6; together each class is a third.
  np.testing.assert_allclose(
    shares(mixed), [1 / 2.6, 0.6 / 2.6, 1 / 2.6], atol=0.02
  )
  assert shares(drawn).tolist() == [0, 1, 0]
  assert mixed.weight == pytest.approx(2.6 / 3)
  assert drawn.weight == pytest.approx(0.4 / 3)
  assert (mixed.soft_weight, drawn.soft_weight) == (0.0, 0.5)


def test_the_report_shows_arms_and_classes(world, learned):
  workdir, _ = world
  results = {"top_up": results_of(workdir)}
  html = section.render(results)
  for text in (*ARMS, "fresh fruit", "Gains on test", "chose: mix"):
    assert text in html
  assert [tile.unit for tile in section.headline(results)][:2] == ["%", "%"]


# --- what stops it before anything is drawn -----------------------------------


def changed(config, **fields):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.top_up = TOP_UP | fields
  return config


def test_a_validation_without_rare_classes_is_refused(world, monkeypatch):
  workdir, config = world
  open_real = real_images.open_real

  def of_the_largest(block, space, *name):
    source = open_real(block, space, *name)
    rows = np.flatnonzero(np.array(source.labels) == 0)
    return subset(source, rows) if block["split"] == "validation" else source

  monkeypatch.setattr(real_images, "open_real", of_the_largest)
  words = "no image to choose by of any .*: fresh fruit, drink. Give"
  with pytest.raises(UserError, match=words):
    top_up.check(config, str(workdir))


def test_classes_too_small_to_hold_one_out_are_named(world):
  workdir, config = world
  pool = dict(split="real_pool", rare=2)
  config = changed(config, pool=pool, validation=None, held_out=0.001)
  words = (
    "too few images to hold one out: .* raise config.top_up.held_out=0.001"
  )
  with pytest.raises(UserError, match=words):
    top_up.check(config, str(workdir))


def test_images_must_be_drawn_for_the_pool(world):
  workdir, config = world
  config = changed(config)
  with config.unlocked():
    config.tasks = ("generate",)
    config.generate = dict(top_up=dict(pool=dict(split="real_pool"), share=0.5))
  with pytest.raises(UserError, match="one pool; found .* and .*rare"):
    top_up.check(config, str(workdir))


# --- drawing ------------------------------------------------------------------


def test_only_classes_that_lack_are_drawn():
  groups = {"basic": {label: np.array([label]) for label in range(3)}}

  class Prompts:
    def __getitem__(self, i):
      return strategies.Prompt(f"basic-{i}-0", i, "name", "text", "basic")

  prompts = Prompts()
  prompts.groups = groups
  blocks = plan.plan(prompts, seeds=(0, 1), images_per_class=[0, 3, 7])
  ids = [row.id for row in plan.rows_of(blocks)]
  assert len(ids) == 20 and ids[:3] == [f"basic-1-0-s0-{i}" for i in range(3)]
  few = [row.id for row in plan.few_of_each(blocks, 2)]
  assert few == [
    "basic-1-0-s0-0",
    "basic-1-0-s0-2",
    "basic-2-0-s0-0",
    "basic-2-0-s0-6",
  ]


@pytest.mark.parametrize(
  ("more", "words"),
  [
    ({}, "lacks images_per_class"),
    (
      dict(
        top_up=dict(pool=POOL, share=0.5),
        real_guidance=dict(pool=POOL, shots=(1,)),
      ),
      "top_up and real_guidance",
    ),
    (dict(top_up=dict(pool=POOL, share=1)), "share=1: needed .* between 0"),
  ],
)
def test_fields_of_generate_are_checked(more, words):
  block = dict(seeds=(0,), shard_size=8) | more
  with pytest.raises(UserError, match=words):
    schema.read(generate.Generate, block, "config.generate")
