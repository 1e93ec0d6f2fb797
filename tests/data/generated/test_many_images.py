"""Tables, scores and selections of more images than are held at a time."""

import io
import operator
import tracemalloc
import zipfile
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from synthjax.data.generated import (
  drawn_images,
  filters,
  scores,
  shards,
  tables,
)
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError

KINDS = {"id": "string", "kept": "bool", "reason": "category"}


def write_table(path, count, rows_at_once=tables.ROWS):
  """Writes rows whose values follow from their numbers."""
  batches = (
    {
      "id": [f"enhanced-7-{i}-s0-0" for i in rows],
      "kept": np.array(rows) % 3 == 0,
      "reason": [f"reason {i // 7}" for i in rows],
    }
    for start in range(0, count, rows_at_once)
    for rows in [range(start, min(start + rows_at_once, count))]
  )
  tables.write(path, KINDS, batches)
  return path


@pytest.mark.parametrize(
  "rows", [[], [0], [4, 5, 19], [9, 10, 11, 12, 29], range(30)]
)
def test_some_rows_are_those_of_the_whole_table(tmp_path, rows):
  path = write_table(tmp_path / "a.parquet", 30, rows_at_once=5)
  whole = tables.read(path, list(KINDS))
  some = tables.read(path, list(KINDS), np.array(rows, int))
  for name in KINDS:
    assert some[name].tolist() == whole[name][list(rows)].tolist()


def test_batches_are_the_rows_in_their_order(tmp_path):
  path = write_table(tmp_path / "a.parquet", 12, rows_at_once=5)
  whole = tables.read(path, ["id", "reason"])
  batches = [*tables.read_batches(path, ["id", "reason"])]
  assert [len(batch["id"]) for batch in batches] == [5, 5, 2]
  for name in whole:
    found = np.concatenate([batch[name] for batch in batches])
    assert found.tolist() == whole[name].tolist()
  assert tables.shape_of(path) == (12, {"id", "kept", "reason"})


def test_a_selection_of_other_images_is_refused(tmp_path):
  path = write_table(tmp_path / "selection.parquet", 12, rows_at_once=5)
  ids = tables.read(path, ["id"])["id"].tolist()
  kept = drawn_images.match_selection(path, iter(ids))
  assert np.flatnonzero(kept).tolist() == [0, 3, 6, 9]
  for others, words in (
    (ids[:-1], f"lists {ids[-1]} where the images have nothing"),
    ([*ids, "more"], "lists nothing where the images have more"),
    ([*ids[:7], "x", *ids[8:]], f"lists {ids[7]} where the images have x"),
    (ids[::-1], f"lists {ids[0]} where the images have {ids[-1]}"),
    ([], f"lists {ids[0]} where the images have nothing"),
  ):
    with pytest.raises(UserError, match=f"{words}.*Run `select` again"):
      drawn_images.match_selection(path, others)


def test_ids_of_all_images_are_never_held(tmp_path):
  """Two times 65,536 ids are, 12 MB; those of all would be 50 MB."""
  count = 300_000
  path = write_table(tmp_path / "selection.parquet", count)
  make_ids = lambda: (f"enhanced-7-{i}-s0-0" for i in range(count))
  next(tables.read_batches(path, ["id"]))  # imports
  tracemalloc.start()
  kept = drawn_images.match_selection(path, make_ids())
  on_disk = scores.IdsOnDisk()
  for first in range(0, count, 1000):
    on_disk.extend([f"enhanced-7-{i}-s0-0" for i in range(first, first + 1000)])
  assert all(map(operator.eq, on_disk, make_ids())) and len(on_disk) == count
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert kept.sum() == count / 3
  assert peak < 25e6


@pytest.mark.parametrize("indexed", [True, False])
def test_ids_and_some_rows_of_shards_with_an_index_and_without(
  tmp_path, indexed
):
  rows = [
    {
      "image": np.zeros((1, 1, 3), np.uint8),
      "label": i % 3,
      "prompt": f"p{i}",
      "seed": 4,
      "id": f"basic-{i % 3}-{i}-s4-0",
    }
    for i in range(7)
  ]
  shards.write_shard(tmp_path, 0, 1, rows)
  if indexed:
    shards.write_index(tmp_path, [SimpleNamespace(**row) for row in rows])
  ids = [row["id"] for row in rows]
  assert [*shards.read_ids(tmp_path, 7)] == ids
  names = "id", "label", "strategy", "seed", "prompt"
  some = shards.read_index(tmp_path, 7, names, np.array([1, 5]))
  assert some["id"].tolist() == [ids[1], ids[5]]
  assert some["label"].tolist() == [1, 2]
  assert some["strategy"].tolist() == ["basic"] * 2
  assert some["seed"].tolist() == [4, 4]
  assert some["prompt"].tolist() == ["p1", "p5"]
  drawn = drawn_images.open_generated(tmp_path).take(np.array([6, 2]))
  assert drawn.map_ids(
    lambda image_id: int(image_id.split("-")[2])
  ).tolist() == [6, 2]


def write_scores(folder, num_parts):
  """Writes parts of two images each; returns their ids."""
  ids = [f"basic-0-0-s0-{i}" for i in range(2 * num_parts)]
  artifacts.begin(folder, {})
  rows = {}
  for part in range(num_parts):
    name = scores.part_name(part, num_parts)
    of_part = scores.Scores(
      np.array(ids[2 * part :][:2]),
      np.zeros(2, np.int32),
      np.ones((2, 3), np.float16),
      np.ones((2, 1), np.float16),
      np.ones(2, np.float32),
    )
    scores.write_part(folder, name, of_part, made_of="")
    rows[name] = 2
  artifacts.finish(folder, {}, rows)
  return ids


def test_ids_on_disk_are_those_of_the_parts(tmp_path):
  ids = write_scores(tmp_path, 12)
  read = scores.read(tmp_path, ("ids", "labels"), ids_on_disk=True)
  assert [*read.ids] == [*read.ids] == ids == scores.read(tmp_path).ids.tolist()
  assert len(read.ids) == len(read.labels) == 24
  assert read.features is None


def test_a_selection_by_ids_on_disk_is_the_same(tmp_path):
  ids = [f"basic-{i % 2}-{i}-s0-0" for i in range(40)]
  labels, p_own = np.arange(40) % 2, np.linspace(0, 1, 40, dtype=np.float32)
  on_disk = scores.IdsOnDisk()
  on_disk.extend(ids)
  for name, given in (("array", np.array(ids)), ("disk", on_disk)):
    found = scores.Scores(given, labels, None, None, p_own)
    chosen = filters.select(found, class_names="ab", max_per_class=7, seed=3)
    (tmp_path / name).mkdir()
    filters.write(tmp_path / name, found, chosen)
  one, other = (tmp_path / n / "selection.parquet" for n in ("array", "disk"))
  assert one.read_bytes() == other.read_bytes()
  kept = drawn_images.match_selection(one, ids)
  assert kept.sum() == 14


@pytest.mark.parametrize("use", ["read", "drop_changed"])
def test_a_manifest_is_read_once_however_many_parts_there_are(tmp_path, use):
  write_scores(tmp_path, 12)
  names = dict.fromkeys((scores.part_name(i, 12) for i in range(12)), "")
  patch = lambda name: mock.patch.object(
    artifacts, name, wraps=getattr(artifacts, name)
  )
  with patch("load") as load, patch("listed_in") as listed_in:
    if use == "read":
      scores.read(tmp_path, ("labels",))
    else:
      scores.drop_changed(tmp_path, names)
  assert load.call_count + listed_in.call_count == 1


def test_parts_that_another_process_makes_again_meanwhile_stay(
  tmp_path, monkeypatch
):
  """Where there are no locks, it may remove the manifest and write parts."""
  write_scores(tmp_path, 2)
  name = scores.part_name(0, 2)
  before = artifacts.listed_in(tmp_path)
  (tmp_path / "manifest.json").unlink()
  old = scores.read_part(tmp_path / name)
  scores.write_part(tmp_path, name, old._replace(p_own=old.p_own / 2), "new")
  monkeypatch.setattr(
    artifacts, "listed_in", mock.Mock(side_effect=[before, {}, {}])
  )
  scores.drop_changed(tmp_path, {name: "new", scores.part_name(1, 2): ""})
  assert (tmp_path / name).exists()


def test_a_member_without_npy_counts_for_the_limit(tmp_path):
  """NumPy reads it in place of the one of the same name."""
  path = tmp_path / "a.npz"
  np.savez(path, ids=np.array(["a"]))
  large = io.BytesIO()
  np.save(large, np.zeros(1 << 27, np.uint8))
  with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("ids", large.getvalue())
  with pytest.raises(UserError, match="unpacks to .* are allowed"):
    scores.read_arrays(path, ["ids"])
