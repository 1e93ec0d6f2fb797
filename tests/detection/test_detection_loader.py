"""Batches of images with boxes: few shapes, none lost, resumed exactly."""

import collections
import dataclasses
import functools
import pickle

import jax
import numpy as np
import pytest

from synthjax.data.pipeline.rows import Detection
from synthjax.detection import loader, resize, scenes
from synthjax.detection.loader import Images
from synthjax.runtime.errors import UserError


def draw(sizes, count, index):
  """Row `index` of a made-up source: an image that shows its number."""
  height, width = sizes[index].tolist()
  k = index % (count + 1)
  boxes = np.array([[1, 2, width - 3, height - 4]] * k, np.float32)
  return {
    "image": np.full((height, width, 3), index % 200 + 1, np.uint8),
    "boxes": boxes.reshape(-1, 4),
    "labels": np.arange(k, dtype=np.int32),
    "difficult": np.arange(k) % 2 == 0,
    "id": str(index),
    "size": (height, width),
  }


def make(sizes, count=3):
  sizes = np.array(sizes, np.int32)
  read = functools.partial(draw, sizes, count)
  return Detection(len(sizes), read, read, sizes, count)


# Landscapes, portraits and squares, small enough to be quick.
SIZES = [(30, 40), (40, 30), (32, 32), (27, 40)] * 5 + [(20, 60)]
SMALL = Images(
  short_sides=(16, 20, 24),
  max_size=48,
  num_buckets=4,
  eval_short_side=20,
  eval_num_buckets=3,
  eval_batch_size=4,
)


@pytest.fixture
def source():
  return make(SIZES)


def batches(source, count=40, batch_size=4, num_workers=0, **fields):
  return loader.train_batches(
    source,
    dataclasses.replace(SMALL, **fields),
    batch_size=batch_size,
    num_batches=count,
    seed=0,
    num_workers=num_workers,
  )


def assert_same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


# --- training ---------------------------------------------------------------


def test_a_batch_holds_what_its_rows_hold(source):
  dataset = batches(source)
  shapes = collections.Counter()
  flipped = 0
  for batch in dataset:
    n, height, width, _ = batch["image"].shape
    shapes[height, width] += 1
    assert n == 4 and height % 16 == 0 == width % 16
    assert batch["image"].dtype == np.uint8
    assert batch["size"].dtype == np.int32 == batch["labels"].dtype
    assert batch["boxes"].dtype == np.float32
    assert batch["boxes"].shape == (4, 3, 4) == (*batch["valid"].shape, 4)
    for i in range(n):
      h, w = batch["size"][i]
      number = batch["image"][i, 0, 0, 0] - 1
      assert (batch["image"][i, :h, :w] == number + 1).all()
      assert batch["image"][i, h:].max(initial=0) == 0
      assert batch["image"][i, :, w:].max(initial=0) == 0
      sizes = resize.all_resized([SIZES[number]], (16, 20, 24), 48)
      assert [h, w] in sizes.tolist()
      k = number % 4
      assert batch["valid"][i].tolist() == [j < k for j in range(3)]
      assert batch["labels"][i, :k].tolist() == list(range(k))
      assert (
        not batch["labels"][i, k:].any() and not batch["boxes"][i, k:].any()
      )
      y, x = h / SIZES[number][0], w / SIZES[number][1]
      straight = [x, 2 * y, w - 3 * x, h - 4 * y]
      mirrored = [3 * x, 2 * y, w - x, h - 4 * y]
      for box in batch["boxes"][i, :k]:
        is_flipped = abs(box - mirrored).max() < 1e-4
        flipped += is_flipped
        assert is_flipped or abs(box - straight).max() < 1e-4
  assert 2 <= len(shapes) <= 4
  drawn = sum(b["valid"].sum() for b in dataset)
  assert 0.35 < flipped / drawn < 0.65


def plan(num_batches, batch_size=4, seed=0, count=4):
  every = resize.all_resized(np.array(SIZES), (16, 20, 24), 48)
  return loader.plan_batches(
    np.array(SIZES),
    loader.choose_buckets(every, count),
    SMALL,
    batch_size=batch_size,
    num_batches=num_batches,
    seed=seed,
  )


def test_no_image_is_lost_or_comes_twice():
  """After any batch, an image has come as often as the epochs have gone by.

  But for what waits: fewer than a batch for each of four shapes, of which an
  image may wait once for each epoch.
  """
  planned = plan(1000)
  counts = np.bincount(planned.rows.ravel(), minlength=len(SIZES))
  dealt = 1000 * 4
  epochs = -(-(dealt + 4 * 3) // len(SIZES))  # that have begun, at most
  assert counts.max() <= epochs
  assert (epochs - counts).sum() <= 4 * 3 + len(SIZES)
  # Lengths and flips are drawn alike for each, whatever the shapes.
  for length in (16, 20, 24):
    assert abs((planned.short_sides == length).mean() - 1 / 3) < 0.03
  assert abs(planned.flips.mean() - 0.5) < 0.03


def test_with_one_shape_each_epoch_is_a_permutation():
  planned = plan(7, batch_size=9, count=1)
  epochs = planned.rows.reshape(3, 21)
  for epoch in epochs:
    assert sorted(epoch) == list(range(21))
  assert not (epochs[0] == epochs[1]).all()
  # 4 does not divide 21: the one that is left begins the next epoch.
  ragged = plan(15, count=1).rows.ravel()
  np.testing.assert_array_equal(ragged, planned.rows.ravel()[:60])


def test_a_batch_has_one_shape_and_fewer_batches_are_the_first():
  long, short = plan(100), plan(30)
  for a, b in zip(short, long, strict=True):
    np.testing.assert_array_equal(a, b[:30])
  every = resize.all_resized(np.array(SIZES), (16, 20, 24), 48)
  shapes = np.array(loader.choose_buckets(every, 4))
  sizes = resize.resized(np.array(SIZES)[long.rows], long.short_sides, 48)
  best = loader.assign(sizes.reshape(-1, 2), shapes).reshape(-1, 4)
  assert (best == long.buckets[:, None]).all()
  assert not np.array_equal(long.rows, plan(100, seed=1).rows)


def test_a_resumed_iterator_goes_on_where_it_stopped(source):
  whole = list(batches(source, 12))
  iterator = iter(batches(source, 12))
  for _ in range(5):
    next(iterator)
  state = iterator.get_state()
  again = iter(batches(source, 30))  # more of them start alike
  again.set_state(state)
  for want in whole[5:]:
    assert_same(next(iterator), want)
    assert_same(next(again), want)


def test_processes_share_each_batch(source, monkeypatch):
  whole = list(batches(source, 6))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  shares = []
  for index in range(2):
    monkeypatch.setattr(jax, "process_index", lambda index=index: index)
    shares.append(list(batches(source, 6)))
  for batch, *parts in zip(whole, *shares, strict=True):
    joined = {k: np.concatenate([p[k] for p in parts]) for k in batch}
    assert_same(batch, joined)
  with pytest.raises(UserError, match="batch_size=5 .* 2 processes; try 4"):
    batches(source, batch_size=5)


def test_batches_can_be_pickled_for_workers(source):
  dataset = batches(source, 3)
  assert_same(pickle.loads(pickle.dumps(source))[3], source[3])
  assert_same(
    next(iter(dataset)), next(iter(pickle.loads(pickle.dumps(dataset))))
  )


@pytest.mark.slow
def test_a_worker_process_reads_the_same_batches(source):
  for a, b in zip(
    batches(source, 6), batches(source, 6, num_workers=1), strict=True
  ):
    assert_same(a, b)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"short_sides": ()}, "short_sides="),
    ({"max_size": 20}, "none above max_size"),
    ({"eval_short_side": 50}, "none above max_size"),
    ({"short_sides": (0, 8)}, "in pixels"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"count": 0}, "num_batches=0"),
  ],
)
def test_fields_that_make_no_batch_are_refused(source, fields, words):
  with pytest.raises(UserError, match=words):
    batches(source, **fields)


# --- evaluation -------------------------------------------------------------


def test_every_image_is_evaluated_once(source):
  evaluated = list(loader.eval_batches(source, SMALL))
  index = np.concatenate([b["index"] for b in evaluated])
  assert sorted(index[index >= 0]) == list(range(len(SIZES)))
  shapes = [b["image"].shape for b in evaluated]
  # 20 images fit into 32 x 32, and the one of 20 x 60 is 16 x 48.
  assert shapes == [(4, 16, 48, 3)] + [(4, 32, 32, 3)] * 5
  for batch in evaluated:
    indices = batch["index"][batch["index"] >= 0]
    assert (np.diff(indices) > 0).all()  # in order within a shape
    for i, number in enumerate(batch["index"].tolist()):
      if number < 0:  # filled up
        assert not batch["image"][i].any() and not batch["valid"][i].any()
        assert tuple(batch["size"][i]) == batch["image"].shape[1:3]
        continue
      original = np.array(SIZES[number])
      assert (batch["original_size"][i] == original).all()
      assert batch["image"][i, 0, 0, 0] == number + 1
      valid = batch["valid"][i]
      back = resize.to_original(
        batch["boxes"][i][valid], batch["size"][i], original
      )
      np.testing.assert_allclose(back, source[number]["boxes"], atol=1e-4)


def test_processes_share_each_batch_of_evaluation(source, monkeypatch):
  whole = list(loader.eval_batches(source, SMALL))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  second = list(loader.eval_batches(source, SMALL))
  for batch, part in zip(whole, second, strict=True):
    assert_same({k: v[2:] for k, v in batch.items()}, part)


def test_detections_outside_of_an_image_are_clipped():
  boxes = np.array([[-5, 2, 30, 50]], np.float32)
  back = resize.to_original(boxes, [20, 30], [10, 60])
  assert back.tolist() == [[0, 1, 60, 10]]


def test_scenes_make_batches():
  source = scenes.open_scenes("validation", 12)
  images = Images(
    short_sides=(96, 112, 128),
    max_size=224,
    num_buckets=3,
    eval_short_side=112,
  )
  dataset = loader.train_batches(
    source, images, batch_size=2, num_batches=4, seed=0
  )
  for batch in dataset:
    n, height, width, _ = batch["image"].shape
    assert (
      n == 2 and height % 16 == 0 == width % 16 and max(height, width) <= 224
    )
    assert batch["boxes"].shape == (2, scenes.MAX_OBJECTS, 4)
    assert batch["valid"].any(1).all()
    limit = batch["size"][:, None, [1, 0, 1, 0]]
    assert ((batch["boxes"] >= 0) & (batch["boxes"] <= limit)).all()


# --- shapes that hold the images of a batch ----------------------------------


def test_padding_is_counted_by_hand():
  sizes = [(10, 20), (20, 10), (10, 10), (20, 20)]
  # The third fits both of the first two shapes, of which the first comes first.
  share = loader.padding_share(sizes, [(10, 20), (20, 10), (20, 30)])
  true, padded = 200 + 200 + 100 + 400, 200 + 200 + 200 + 600
  assert share == pytest.approx(1 - true / padded)


def test_a_joined_shape_is_the_one_that_costs_least():
  sizes = [(16, 64)] * 3 + [(16, 48)] + [(64, 16)]
  assert loader.choose_buckets(sizes, 3) == (
    (16, 48),
    (16, 64),
    (64, 16),
  )
  # To join the first two pads one image by 16 x 16.
  assert loader.choose_buckets(sizes, 2) == ((16, 64), (64, 16))
  assert loader.choose_buckets(sizes, 1) == ((64, 64),)
  assert loader.choose_buckets([(3, 17)], 5) == ((16, 32),)


def test_few_shapes_hold_voc_with_little_padding():
  """As measured: 6 shapes pad 17 %, where one shape pads 61 %."""
  sizes = [(375, 500)] * 60 + [(333, 500)] * 18
  sizes += [(500, 375)] * 17 + [(500, 333)] * 5
  every = resize.all_resized(np.array(sizes), Images().short_sides, 1333)
  assert len(every) == 1100
  buckets = [loader.choose_buckets(every, n) for n in (1, 6, 12)]
  assert [len(shapes) for shapes in buckets] == [1, 6, 12]
  one, six, twelve = (loader.padding_share(every, b) for b in buckets)
  assert one > 0.5 and six < 0.2 and twelve < 0.1
  tested = resize.resized(np.array(sizes), 800, 1333)
  shapes = loader.choose_buckets(tested, 4)
  assert len(shapes) == 4 and loader.padding_share(tested, shapes) < 0.02


def test_shapes_that_are_too_small_are_refused():
  with pytest.raises(UserError, match="16 x 48 .*none of the shapes 32 x 32"):
    loader.assign([(16, 20), (16, 48)], [(32, 32), (48, 32)])
  with pytest.raises(UserError, match="num_buckets=0"):
    loader.choose_buckets([(16, 20)], 0)
