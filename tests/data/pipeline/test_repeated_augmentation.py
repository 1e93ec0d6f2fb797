"""Repeated augmentation: the order, the copies, and resuming."""

import sys

import grain
import jax
import numpy as np
import pytest

from synthjax.data.pipeline import codecs
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.loader import repeated, repeated_order
from synthjax.runtime.errors import UserError

SOURCE = [{"x": i} for i in range(30)]


def draw(example, rng):
  return example | {"drawn": rng.random()}


def shift(example, rng):
  return example | {"shifted": rng.random()}


def batches(**changes):
  arguments = dict(batch_size=8, seed=5, repeats=3) | changes
  return pipeline.train_batches(SOURCE, [draw, shift], **arguments)


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def order_of(found):
  return np.concatenate([each["x"] for each in found])


def test_epochs_follow_each_other_in_the_order_of_the_index():
  """Of 30 images, an epoch has the 3 whole batches that it has without."""
  found = take(iter(batches()), 9)
  want = [repeated_order(30, epoch=e, seed=5, repeats=3)[:24] for e in range(3)]
  np.testing.assert_array_equal(order_of(found), np.concatenate(want))
  assert (want[0] != want[1]).any()


def test_copies_of_an_example_follow_each_other():
  order = repeated_order(1000, epoch=2, seed=1, repeats=3)[:768]
  np.testing.assert_array_equal(order[::3], order[1::3])
  np.testing.assert_array_equal(order[::3], order[2::3])
  assert len(set(order.tolist())) == 256  # a third of the length


def test_the_order_changes_with_the_epoch_alone():
  one, again, two = (
    repeated_order(10, epoch=epoch, seed=0, repeats=1) for epoch in (0, 0, 1)
  )
  assert len(one) == 10 and set(one.tolist()) == set(range(10))
  np.testing.assert_array_equal(one, again)
  assert (one != two).any()


def test_each_copy_is_augmented_in_its_own_way():
  found = take(iter(batches()), 6)
  assert order_of(found)[0] == order_of(found)[2]
  for name in ("drawn", "shifted"):
    drawn = np.concatenate([each[name] for each in found])
    assert len(set(drawn.tolist())) == 48
  assert (found[0]["drawn"] != found[0]["shifted"]).all()


@pytest.mark.parametrize("count", [1, 2])
def test_copies_are_decoded_once(monkeypatch, count):
  """Of 8 rows of a batch, 3 or 4 images: those at its ends have other copies.

  Pixels and draws are those of rows that are decoded each for itself.
  """
  decoded = []

  def decode(encoded):
    decoded.append(encoded)
    return np.full((2, 2, 3), encoded[0], np.uint8)

  monkeypatch.setattr(codecs, "decode_image", decode)
  monkeypatch.setattr(jax, "process_count", lambda: count)
  source = [{"encoded": bytes([i])} for i in range(30)]
  transform = lambda row, rng: draw({"image": codecs.pixels(row)}, rng)
  ds = pipeline.train_batches(
    source, [transform], batch_size=8 * count, seed=5, repeats=3
  ).ds
  found = [ds[i] for i in range(3)]
  assert len(decoded) <= 3 * 4
  length = 30 // (8 * count) * 8 * count
  rows = repeated_order(30, epoch=0, seed=5, repeats=3)[:length]
  firsts = [slice(start, start + 8) for start in range(0, length, 8 * count)]
  for batch, first in zip(found, firsts, strict=False):
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], rows[first])
    assert len(set(batch["drawn"].tolist())) == 8


def test_a_stopped_iterator_goes_on_exactly():
  iterator = iter(batches())
  take(iterator, 4)  # into the second epoch
  state = iterator.get_state()
  rest = take(iterator, 4)
  again = iter(batches())
  again.set_state(state)
  jax.tree.map(np.testing.assert_array_equal, take(again, 4), rest)


def test_processes_share_the_batches_of_one_process(monkeypatch):
  """Each has a run of the rows, with the draws that they have alone."""
  alone = take(iter(batches()), 6)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  shares = []
  for rank in range(2):
    monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
    shares.append(take(iter(batches()), 6))
  for whole, *parts in zip(alone, *shares, strict=True):
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)


@pytest.mark.slow
def test_reading_processes_change_nothing():
  here, there = (take(iter(batches(num_workers=count)), 4) for count in (0, 2))
  jax.tree.map(np.testing.assert_array_equal, here, there)


def test_without_repeats_the_pipeline_is_unchanged():
  """Its order and its draws, so that runs begun before go on alike."""
  ds = grain.MapDataset.source(SOURCE).seed(5)[0::1].shuffle().repeat()
  ds = ds.random_map(draw).random_map(shift)
  want = take(iter(ds.to_iter_dataset().batch(8, drop_remainder=True)), 5)
  found = take(iter(batches(repeats=1)), 5)
  jax.tree.map(np.testing.assert_array_equal, found, want)


def test_the_rows_have_no_end_and_whole_epochs():
  rows = repeated(SOURCE, seed=0, repeats=3, batch_size=8)
  assert len(rows) > sys.maxsize // 2 and len(rows) % 24 == 0
  far = repeated_order(30, epoch=10**6, seed=0, repeats=3)
  assert rows[10**6 * 24 + 7]["x"] == far[7]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (dict(batch_size=31), "30 images fill no batch of 31.*at most 30"),
    (dict(repeats=0), "repeats=0.*1 shows each"),
  ],
)
def test_impossible_repeats_are_refused(changes, words):
  with pytest.raises(UserError, match=words):
    batches(**changes)
