"""Uneven classes: what is drawn for a step, the choice and the measures."""

import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.adapt import topping_up
from synthjax.adapt.linear_head import Head
from synthjax.config import schema
from synthjax.runtime.errors import UserError

NAMES = [topping_up.AS_THEY_ARE, topping_up.OVERSAMPLING, "mix 0.5", "mix 2"]


def recipe(**fields):
  needed = dict(pool=dict(split="real_pool"), test=dict(split="test"))
  block = needed | dict(weights=(0.5, 2), seeds=(0, 1)) | fields
  return schema.read(topping_up.TopUp, block, "config.top_up")


def test_a_share_counts_generated_images_by_their_weight():
  share = lambda weight: topping_up.generated_shares(
    np.array([90, 10]), np.array([0, 80]), weight
  )
  assert share(0.0).tolist() == [0, 0]  # oversampling
  np.testing.assert_allclose(share(1.0), [0, 80 / 90])  # each image alike
  np.testing.assert_allclose(share(0.25), [0, 20 / 30])


def test_rows_are_drawn_by_the_shares_of_their_classes():
  labels = np.array([0] * 8 + [2] * 2)
  index = topping_up.drawn_index(
    labels, np.array([0.5, 0, 1.0]), batch_size=100, num_steps=200, seed=0
  )
  assert index.shape == (200, 100) and index.dtype == np.int32
  counts = np.bincount(index.ravel(), minlength=10) / index.size
  # A third of the draws are of class 0, and its 8 rows are alike.
  np.testing.assert_allclose(counts[:8], 1 / 24, rtol=0.1)
  np.testing.assert_allclose(counts[8:], 1 / 3, rtol=0.05)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"weights": (1, 0.5)}, "rising numbers above 0"),
    ({"weights": (0, 0.5)}, "rising numbers above 0"),
    ({"weights": ()}, "rising numbers above 0"),
    ({"held_out": 0.6}, "above 0, at most 0.5"),
  ],
)
def test_bad_fields_are_refused(fields, words):
  with pytest.raises(UserError, match=words):
    recipe(**fields)


# --- the choice and the measures, of heads that are made up ------------------


def head(answers):
  """Returns the head that answers a one-hot feature i with answers[i]."""
  weight = np.zeros((3, len(answers)), np.float32)
  weight[answers, np.arange(len(answers))] = 1
  return Head(jnp.array(weight), jnp.zeros(3))


LABELS = np.array([0, 0, 0, 0, 2, 2])  # there is no image of class 1
IMAGES = np.eye(6, dtype=np.float32), LABELS
START = head([0, 0, 0, 0, 0, 0])


def learn(monkeypatch, right, **more):
  """Learns heads that classify `right` images of class 2, by arm and seed."""
  asked = []

  def tune(arm, real, generated, zero_shot, recipe, *, num_steps, seed):
    asked.append((arm.name, seed, len(real[1]), num_steps))
    count = right[arm.name][seed]
    return head([0] * (6 - count) + [2] * count)

  monkeypatch.setattr(topping_up, "tune", tune)
  learned = topping_up.learn(
    recipe(batch_size=5, num_epochs=3, **more),
    IMAGES,
    (IMAGES[0][:2], np.array([2, 2])),
    *[IMAGES] * ("held_out" not in more),
    *[None] * ("held_out" in more),
    START,
  )
  return learned, asked


def test_validation_chooses_one_mix_for_all_seeds(monkeypatch):
  right = dict(zip(NAMES, [(0, 0), (0, 0), (2, 0), (2, 2)], strict=True))
  learned, asked = learn(monkeypatch, right)
  assert (learned.mix, learned.best) == ("mix 2", "mix 2")
  assert [*learned.heads] == [*NAMES[:2], "mix 2"]
  assert learned.tried["mix 0.5"] == [1.0, 0.5]  # of the classes that are there
  # 8 images are 2 steps of an epoch; each arm is learned once with each seed.
  assert asked == [(name, seed, 6, 6) for seed in (0, 1) for name in NAMES]


def test_a_gain_that_may_be_chance_does_not_make_a_mix_the_best(monkeypatch):
  right = dict(zip(NAMES, [(0, 0), (1, 1), (1, 2), (0, 0)], strict=True))
  learned, _ = learn(monkeypatch, right)
  # One of two images of class 2 gains half of the time.
  assert (learned.mix, learned.best) == ("mix 0.5", "oversampling")


def test_of_equal_arms_the_one_with_fewest_generated_images_is_best(
  monkeypatch,
):
  learned, _ = learn(monkeypatch, dict.fromkeys(NAMES, (1, 1)))
  assert (learned.mix, learned.best) == ("mix 0.5", NAMES[0])


def test_what_is_chosen_learns_from_what_was_held_out(monkeypatch):
  learned, asked = learn(
    monkeypatch, dict.fromkeys(NAMES, (1, 1)), held_out=0.5
  )
  assert asked[:8] == [(name, seed, 3, 6) for seed in (0, 1) for name in NAMES]
  again = [(name, seed, 6, 6) for name in NAMES[:3] for seed in (0, 1)]
  assert asked[8:] == again
  assert [*learned.heads["mix 0.5"]] == [0, 1]


def test_an_interval_over_images_is_that_of_their_classes():
  labels = np.array([0, 0, 1, 1, 1, 1, 2])
  right = np.array(
    [[1, 1, 1, 1, 0, 0, np.nan], [1, 1, 1, 1, 0, np.nan, np.nan]]
  )
  wrong = np.where(np.isnan(right), np.nan, 0)
  found = topping_up.gain_over_images(right, wrong, labels)
  # Class 0 gains 1 without a spread, class 1 has two of four; 2 is not seen.
  assert found["mean"] == 0.75
  stderr = np.sqrt(0 + (1 / 3) / 4) / 2
  assert found["stderr"] == pytest.approx(stderr)
  assert found["low"] == pytest.approx(0.75 - 1.96 * stderr)
  # Nobody knows the spread of a single image.
  single = topping_up.gain_over_images(right[:, 1:], wrong[:, 1:], labels[1:])
  assert single["stderr"] == pytest.approx(np.sqrt(1 + (1 / 3) / 4) / 2)


def test_gains_are_means_over_classes_in_pairs_of_one_seed(monkeypatch):
  right = dict(zip(NAMES, [(0, 0), (0, 1), (1, 2), (0, 0)], strict=True))
  learned, _ = learn(monkeypatch, right)
  found = topping_up.measure(learned, START, IMAGES)
  assert found["zero_shot"] == {
    "mean_per_class": 0.5,
    "top1": pytest.approx(4 / 6),
  }
  rows = {(row["arm"], row["seed"]): row for row in found["rows"]}
  assert rows["mix 0.5", 1]["mean_per_class"] == 1
  assert rows["oversampling", 1]["top1"] == pytest.approx(5 / 6)
  gain = found["gains"][0]
  assert (gain["arm"], gain["reference"]) == ("mix 0.5", "oversampling")
  # Both seeds gain half of class 2, and nothing of class 0: no spread at all.
  assert gain["mean"] == gain["low"] == gain["high"] == 0.25
  # Of class 2, one image gains with one seed and the other with the other.
  assert gain["over_images"] == dict(mean=0.25, stderr=0, low=0.25, high=0.25)
  of_class = found["per_class"]
  assert of_class["test"] == [4, 0, 2]
  assert of_class["accuracy"]["oversampling"] == [1.0, None, 0.25]
  assert [g and g["mean"] for g in of_class["gain"]] == [0, None, 0.5]
