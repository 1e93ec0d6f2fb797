"""Tables, scores and selections of more images than are held at a time."""

import tracemalloc
from unittest import mock

import numpy as np
import pytest

from synthjax.data.generated import drawn_images, scores, tables
from synthjax.runtime import artifacts

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


def test_a_selection_of_other_images_has_none_that_are_kept(tmp_path):
  path = write_table(tmp_path / "selection.parquet", 12, rows_at_once=5)
  ids = tables.read(path, ["id"])["id"].tolist()
  kept = drawn_images.read_kept(path, ids)
  assert np.flatnonzero(kept).tolist() == [0, 3, 6, 9]
  others = ids[:-1], [*ids, "more"], ids[::-1], [*ids[:7], "x", *ids[8:]], []
  for other in others:
    assert drawn_images.read_kept(path, other) is None


def test_ids_of_all_images_are_never_held(tmp_path):
  """Two times 65,536 ids are, 12 MB; those of all would be 50 MB."""
  count = 300_000
  path = write_table(tmp_path / "selection.parquet", count)
  ids = (f"enhanced-7-{i}-s0-0" for i in range(count))
  drawn_images.read_kept(path, ())  # imports
  tracemalloc.start()
  kept = drawn_images.read_kept(path, ids)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert kept.sum() == count / 3
  assert peak < 25e6


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


def test_stored_ids_are_those_of_the_parts(tmp_path):
  ids = write_scores(tmp_path, 12)
  stored = scores.StoredIds(tmp_path)
  assert [*stored] == [*stored] == ids == scores.read(tmp_path).ids.tolist()
  assert len(stored) == 24


@pytest.mark.parametrize("use", ["read", "drop_changed"])
def test_a_manifest_is_read_once_however_many_parts_there_are(tmp_path, use):
  write_scores(tmp_path, 12)
  names = dict.fromkeys((scores.part_name(i, 12) for i in range(12)), "")
  with (
    mock.patch.object(artifacts, "load", wraps=artifacts.load) as load,
    mock.patch.object(artifacts, "listed", wraps=artifacts.listed) as listed,
  ):
    if use == "read":
      scores.read(tmp_path, ("labels",))
    else:
      scores.drop_changed(tmp_path, names)
  assert load.call_count + listed.call_count == 1
