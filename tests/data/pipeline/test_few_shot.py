"""Tests of the few-shot draw and of what training sees of an image."""

import json
import pickle
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from synthjax.data.formats import export_rows
from synthjax.data.generated import drawn_images, shards, tables
from synthjax.data.pipeline import few_shot, host_augment
from synthjax.data.pipeline.rows import labels_of, subset
from synthjax.data.real import real_images
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

LABELS = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 0, 2, 1] * 3)  # 12 of each


def draw(shots=4, seed=0, labels=LABELS):
  return few_shot.draw(labels, num_classes=3, shots=shots, seed=seed)


def test_every_class_has_its_shots_and_no_row_twice():
  rows = draw(shots=5)
  assert Counter(LABELS[rows]) == {0: 5, 1: 5, 2: 5}
  assert len(set(rows.tolist())) == 15


def test_a_seed_decides_the_draw():
  assert draw().tolist() == draw().tolist()
  assert draw(seed=0).tolist() != draw(seed=1).tolist()


def test_fewer_shots_are_the_first_of_more():
  few, many = draw(shots=2).reshape(3, 2), draw(shots=8).reshape(3, 8)
  np.testing.assert_array_equal(few, many[:, :2])


def test_the_shots_of_a_class_do_not_depend_on_other_classes():
  merged = np.where(LABELS == 2, 1, LABELS)
  two = few_shot.draw(merged, num_classes=2, shots=4, seed=0)
  np.testing.assert_array_equal(two[:4], draw(shots=4)[:4])


def test_no_number_of_shots_takes_the_whole_pool():
  np.testing.assert_array_equal(draw(shots=None), np.arange(len(LABELS)))


def test_every_class_with_too_few_images_is_named():
  labels = np.array([0] * 9 + [1] * 3 + [2] * 5)
  with pytest.raises(UserError, match="class 1 has 3, class 2 has 5.* 3 shots"):
    draw(labels=labels, shots=8)


@pytest.mark.parametrize("labels", [[0, 1, 3], [-1, 0, 1]])
def test_labels_of_another_space_are_refused(labels):
  with pytest.raises(UserError, match="label space has 3 classes"):
    draw(labels=labels, shots=1)


# --- two pools --------------------------------------------------------------

POOL = [2, 0, 1] * 20
VALIDATION = [1, 2, 0] * 6


def test_a_fifth_of_each_class_is_held_out_where_nothing_validates():
  """CoOp's rule: of 100 and 12 images, 20 and 2."""
  labels = np.repeat([1, 0], [100, 12])
  rows = few_shot.hold_out(labels, share=0.2)
  assert np.bincount(labels[rows["validation"]]).tolist() == [2, 20]
  both = np.concatenate([rows["train"], rows["validation"]])
  assert sorted(both) == [*range(112)]
  assert [*rows["train"]] == sorted(rows["train"])
  again = few_shot.hold_out(labels, share=0.2)
  assert (again["validation"] == rows["validation"]).all()


@pytest.mark.parametrize("sampler", few_shot.SAMPLERS)
@pytest.mark.parametrize(("shots", "held"), [(1, 1), (2, 2), (4, 4), (16, 4)])
def test_validation_has_at_most_four_of_each_class(sampler, shots, held):
  train, validation = few_shot.draw_splits(
    sampler, POOL, VALIDATION, num_classes=3, shots=shots, seed=1
  )
  assert Counter(np.array(POOL)[train]) == dict.fromkeys(range(3), shots)
  assert Counter(np.array(VALIDATION)[validation]) == dict.fromkeys(
    range(3), held
  )
  assert len(set(train.tolist())) == 3 * shots


def test_coop_draws_label_by_label_as_they_first_occur():
  train, validation = few_shot.draw_coop(POOL, num_classes=3, shots=2, seed=1)
  assert validation is None  # as with ImageNet
  assert np.array(POOL)[train].tolist() == [2, 2, 0, 0, 1, 1]
  rng = random.Random(1)
  want = sum((rng.sample(range(i, 60, 3), 2) for i in range(3)), [])
  assert train.tolist() == want


def test_the_draw_of_training_does_not_depend_on_validation():
  alone, _ = few_shot.draw_coop(POOL, num_classes=3, shots=4, seed=2)
  both, _ = few_shot.draw_coop(POOL, VALIDATION, num_classes=3, shots=4, seed=2)
  np.testing.assert_array_equal(alone, both)


def test_coop_takes_all_of_a_class_with_too_few():
  labels = [0] * 5 + [1] * 2
  few, _ = few_shot.draw_coop(labels, num_classes=2, shots=4, seed=1)
  assert Counter(np.array(labels)[few]) == {0: 4, 1: 2}


def test_the_nested_sampler_is_the_draw_itself():
  train, _ = few_shot.draw_splits(
    "nested", POOL, num_classes=3, shots=4, seed=5
  )
  want = few_shot.draw(POOL, num_classes=3, shots=4, seed=5)
  np.testing.assert_array_equal(train, want)


@pytest.mark.parametrize("sampler", few_shot.SAMPLERS)
def test_a_sampler_refuses_what_it_cannot_draw(sampler):
  with pytest.raises(UserError, match="at least 1"):
    few_shot.draw_splits(sampler, POOL, num_classes=3, shots=0, seed=1)
  with pytest.raises(UserError, match="label space has 2 classes"):
    few_shot.draw_splits(sampler, POOL, num_classes=2, shots=1, seed=1)
  with pytest.raises(UserError, match="did you mean 'coop'"):
    few_shot.draw_splits("cop", POOL, num_classes=3, shots=1, seed=1)


def test_no_shot_of_the_embedded_pool_is_a_test_image():
  space = spaces.load_space("emoji16")
  pool = real_images.open_real({"split": "real_pool"}, space)
  rows = few_shot.draw(labels_of(pool), num_classes=16, shots=16, seed=0)
  shots = subset(pool, rows)
  assert Counter(shots[i]["label"] for i in range(len(shots))) == dict.fromkeys(
    range(16), 16
  )
  drawn = {(shots[i]["style"], shots[i]["concept"]) for i in range(len(shots))}
  for split in ("validation", "test"):
    held = real_images.open_real({"split": split}, space)
    styles = {held[i]["style"] for i in range(len(held))}
    assert not styles & {style for style, _ in drawn}


def test_a_subset_can_be_sent_to_worker_processes():
  source = subset([{"label": i} for i in range(5)], [3, 1])
  source = pickle.loads(pickle.dumps(source))
  assert [source[i]["label"] for i in range(len(source))] == [3, 1]
  with pytest.raises(IndexError):
    source[2]


def test_embedded_images_need_a_split():
  space = spaces.load_space("emoji10")
  with pytest.raises(UserError, match="no field 'style'(.|\n)*lacks split"):
    real_images.open_real({"style": "noto"}, space)


# --- generated images -------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
  """Writes 5 images of "basic" and 8 of "enhanced" in three shards."""
  ids = [f"basic-0-{i}-s0-0" for i in range(5)]
  ids += [f"enhanced-{i % 2}-{i}-s0-0" for i in range(8)]
  rows = [
    {
      "image": np.full((4, 4, 3), i, np.uint8),
      "label": int(id_.split("-")[1]),
      "prompt": f"p{i // 4}",
      "seed": 0,
      "id": id_,
    }
    for i, id_ in enumerate(ids)
  ]
  for i, part in enumerate((rows[:5], rows[5:10], rows[10:])):
    shards.write_shard(tmp_path, i, 3, part)
  return tmp_path


def ids_of(source):
  return [source[i]["id"] for i in range(len(source))]


def test_generated_images_are_found_by_strategy(folder):
  assert len(drawn_images.open_generated(folder)) == 13
  enhanced = drawn_images.open_generated(folder, strategy="enhanced")
  assert len(enhanced) == 8
  assert all(i.startswith("enhanced-") for i in ids_of(enhanced))
  with pytest.raises(UserError, match="'template'.*basic, enhanced"):
    drawn_images.open_generated(folder, strategy="template")


def test_the_index_says_what_the_rows_say_and_spares_reading_them(
  folder, monkeypatch
):
  names = ("id", "label", "strategy", "seed", "prompt")
  by_rows = shards.read_index(folder, 13, names)
  rows = [SimpleNamespace(**row) for row in shards.open_shards(folder)]
  assert shards.write_index(folder, rows) == {"images.parquet": 13}

  def refuse(*_):
    raise AssertionError("An image was read.")

  monkeypatch.setattr(shards, "_read", refuse)
  by_file = shards.read_index(folder, 13, names)
  for name in names:
    assert by_file[name].tolist() == by_rows[name].tolist()
  assert by_file["label"].tolist() == [row.label for row in rows]
  taken = drawn_images.take(
    drawn_images.open_generated(folder, strategy="enhanced"), num_classes=1
  )
  assert len(taken) == 4
  assert taken.prompts().tolist() == [0, 0, 1, 1]
  assert len(shards.open_shards(folder, [rows[0].id, rows[7].id])) == 2


def test_a_shuffled_export_reads_no_image_for_its_order(folder, monkeypatch):
  rows = [SimpleNamespace(**row) for row in shards.open_shards(folder)]
  shards.write_index(folder, rows)
  of_strategy = dict(strategy="enhanced", decode=False)
  source = drawn_images.open_generated(folder, **of_strategy)
  plain = [source[i] for i in range(len(source))]
  want = ids_of(export_rows.rows(plain, encoding={}, shuffle=3))
  assert want != ids_of(plain)
  assert ids_of(export_rows.rows(source, encoding={}, shuffle=3)) == want

  def refuse(*_):
    raise AssertionError("An image was read.")

  monkeypatch.setattr(shards, "_read", refuse)
  source = drawn_images.open_generated(folder, **of_strategy)
  assert len(export_rows.rows(source, encoding={}, shuffle=3)) == 8


def test_an_index_without_prompts_leaves_them_to_the_rows(folder):
  """As versions before December 2026 wrote it."""
  columns = shards.read_index(folder, 13)
  kinds = {"id": "string", "label": "int32"}
  tables.write(folder / shards.INDEX, kinds, [columns])
  found = shards.read_index(folder, 13, ("prompt",))["prompt"]
  assert found.tolist() == [f"p{i // 4}" for i in range(13)]


def test_an_index_of_other_shards_is_refused(folder):
  rows = [SimpleNamespace(**row) for row in shards.open_shards(folder)]
  shards.write_index(folder, rows[:-1])
  with pytest.raises(UserError, match="lists 12 images.*hold 13"):
    drawn_images.open_generated(folder)


def test_only_what_was_selected_is_taken(folder, tmp_path):
  kept = {"basic-0-1-s0-0", "enhanced-0-2-s0-0", "enhanced-1-7-s0-0"}
  selection = tmp_path / "selection.jsonl"
  selection.write_text(
    "".join(
      json.dumps({"id": i, "strategy": i.split("-")[0], "kept": i in kept})
      + "\n"
      for i in ids_of(drawn_images.open_generated(folder))
    )
  )
  found = drawn_images.open_generated(folder, selection=selection)
  assert set(ids_of(found)) == kept
  found = drawn_images.open_generated(
    folder, selection=selection, strategy="enhanced"
  )
  assert ids_of(found) == ["enhanced-0-2-s0-0", "enhanced-1-7-s0-0"]


# --- views ------------------------------------------------------------------


def a_row(h=12, w=20, label=1):
  image = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
  return {"image": image, "label": label, "id": "a", "prompt": "b"}


@pytest.mark.parametrize("name", host_augment.VIEWS)
def test_every_view_is_a_whole_image_and_its_label(name):
  rng, row = np.random.default_rng(0), a_row()
  for transform in host_augment.transforms(name, image_size=8, num_classes=2):
    row = transform(row, rng)
  assert row.keys() == {"image", "label"}
  assert row["image"].shape == (8, 8, 3) and row["image"].dtype == np.uint8
  assert row["label"] == 1 and row["label"].dtype == np.int32


def test_an_image_of_the_right_size_is_not_touched_without_augmentation():
  rng, row = np.random.default_rng(0), a_row(8, 8)
  before = row["image"].copy()
  for transform in host_augment.transforms("none", image_size=8, num_classes=2):
    row = transform(row, rng)
  np.testing.assert_array_equal(row["image"], before)


def test_a_shift_moves_and_repeats_the_edge():
  row = {"image": np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)}
  padded = np.pad(row["image"], ((2, 2), (2, 2), (0, 0)), mode="edge")
  windows = [padded[y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
  rng, found = np.random.default_rng(0), set()
  for _ in range(60):
    moved = host_augment.shift(row, rng)["image"]
    found.add(
      next(i for i, w in enumerate(windows) if np.array_equal(w, moved))
    )
  assert len(found) > 15  # of 25 places


def test_crops_have_the_shares_and_shapes_they_should():
  """The pixels are their own coordinates, which show where a crop was cut."""
  y, x = np.mgrid[:200, :200]
  image = np.stack([y, x, x], -1).astype(np.uint8)
  rng, shares = np.random.default_rng(0), []
  for _ in range(200):
    crop = host_augment.random_resized_crop(
      {"image": image}, rng, image_size=32
    )
    high, wide = (np.ptp(crop["image"][..., i].astype(float)) for i in (0, 1))
    assert 0.7 < wide / high < 1.4
    shares.append(high * wide / 200**2)
  assert min(shares) < 0.15 and max(shares) > 0.8


def test_a_label_of_no_class_is_refused():
  with pytest.raises(UserError, match="label 2.*2 classes"):
    host_augment.image_and_label(a_row(label=2), None, num_classes=2)


def test_an_unknown_augmentation_is_refused():
  with pytest.raises(UserError, match="did you mean 'photo'"):
    host_augment.transforms("phot", image_size=8, num_classes=2)


def test_evaluation_sees_every_row_once():
  source = [a_row(12, 20, i % 2) for i in range(5)]
  parts = list(host_augment.in_order(source, image_size=8, batch_size=2))
  assert [len(images) for images, _ in parts] == [2, 2, 1]
  labels = np.concatenate([labels for _, labels in parts])
  np.testing.assert_array_equal(labels, [0, 1, 0, 1, 0])
