"""Shards come back as they went in, for us, for TFDS and for Grain."""

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from synthjax.data.generated import shards
from synthjax.runtime.errors import UserError

CLASSES = {0: "crane", 1: "maillot", 2: "crane"}


def row(i):
  rng = np.random.default_rng(i)
  return {
    "image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
    "label": i % 3,
    "prompt": f"a drawing of a crâne, no. {i}",
    "seed": 2**40 + i,
    "id": f"le-{i % 3}-{i}-s0-0",
  }


def write(folder, rows=(3, 0, 4)):
  """Writes shards of these numbers of rows, and what TFDS wants to know."""
  begin = 0
  for i, n in enumerate(rows):
    examples = [row(k) for k in range(begin, begin + n)]
    assert shards.write_shard(folder, i, len(rows), iter(examples)) == n
    begin += n
  return shards.write_dataset_info(
    folder, rows, CLASSES, description="A test.", image_size=8
  )


def assert_same(got, want):
  assert set(got) == set(want)
  np.testing.assert_array_equal(got["image"], want["image"])
  assert got["image"].dtype == np.uint8
  for name in ("label", "prompt", "seed", "id"):
    assert got[name] == want[name]


def test_rows_come_back_in_order(tmp_path):
  write(tmp_path)
  source = shards.open_shards(tmp_path)
  assert len(source) == 7
  for i, got in enumerate(source):
    assert_same(got, row(i))
  assert_same(source[-1], row(6))
  assert_same(source[np.int64(2)], row(2))
  with pytest.raises(IndexError):
    source[7]


WATCHED = """
import builtins, sys
import numpy as np
from synthjax.data.generated import shards
from synthjax.data.pipeline import codecs

swapped = []

class Watched(type(builtins)):
  def __setattr__(self, name, value):
    swapped.append(name)
    super().__setattr__(name, value)

builtins.__class__ = Watched
image = np.zeros((8, 8, 3), np.uint8)
rows = [
  dict(label=0, prompt="", seed=0, id=name,
       encoded=codecs.encode(image, image_format=name))
  for name in codecs.FORMATS
]
shards.write_shard(sys.argv[1], 0, 1, rows)
print([row["id"] for row in shards.open_shards(sys.argv[1])], swapped)
"""


def test_no_library_takes_the_place_of_import_while_threads_work(tmp_path):
  """TFDS does while it is imported: what other threads import then fails."""
  result = subprocess.run(
    [sys.executable, "-c", WATCHED, str(tmp_path)],
    capture_output=True,
    text=True,
  )
  assert result.stdout.strip() == "['png', 'jpeg', 'webp'] []", result.stderr


def test_a_selection_keeps_the_order_of_the_shards(tmp_path):
  write(tmp_path)
  kept = [row(i)["id"] for i in (6, 1, 3)]
  source = shards.open_shards(tmp_path, kept)
  assert [example["id"] for example in source] == [
    row(i)["id"] for i in (1, 3, 6)
  ]
  assert len(shards.open_shards(tmp_path, [])) == 0


def test_ids_of_other_images_are_refused(tmp_path):
  write(tmp_path)
  with pytest.raises(UserError, match=r"1 of the 2 ids .* 'le-9'"):
    shards.open_shards(tmp_path, [row(1)["id"], "le-9"])


def test_a_source_can_be_sent_to_another_process(tmp_path):
  write(tmp_path)
  source = shards.open_shards(tmp_path, [row(4)["id"]])
  assert_same(pickle.loads(pickle.dumps(source))[0], row(4))


def test_tfds_opens_the_folder_and_reads_the_same(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  write(tmp_path)
  builder = tfds.builder_from_directory(str(tmp_path))
  assert builder.info.splits["train"].num_examples == 7
  label = builder.info.features["label"]
  assert label.names == ["crane (0)", "maillot", "crane (2)"]
  assert builder.info.features["image"].shape == (8, 8, 3)
  source = builder.as_data_source(split="train")
  assert len(source) == 7
  for i, got in enumerate(source):
    texts = {name: got[name].decode() for name in ("prompt", "id")}
    assert_same(got | texts, row(i))
  # A slice of it, as TFDS counts rows by what dataset_info.json says.
  part = builder.as_data_source(split="train[4:]")
  assert [int(example["seed"]) for example in part] == [
    row(i)["seed"] for i in (4, 5, 6)
  ]


def test_ids_with_gaps_stay_plain_integers_for_tfds(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  shards.write_shard(tmp_path, 0, 1, [row(0) | {"label": 907}])
  files = shards.write_dataset_info(
    tmp_path, [1], {5: "a", 907: "b"}, description="A test."
  )
  assert set(files) == {"dataset_info.json", "features.json"}
  builder = tfds.builder_from_directory(str(tmp_path))
  (example,) = builder.as_data_source(split="train")
  assert int(example["label"]) == 907


def test_the_same_rows_give_the_same_bytes(tmp_path):
  """In another process too, where a map of protobuf has another order."""
  write(tmp_path / "a")
  script = f"""
import sys
sys.path[:0] = {sys.path!r}
from data.generated.test_shards import write
write({str(tmp_path / "b")!r})
"""
  subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

  def hashes(folder):
    return {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in folder.iterdir()
    }

  assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
  assert len(hashes(tmp_path / "a")) == 6


def test_an_interrupted_shard_leaves_nothing(tmp_path):
  def examples():
    yield row(0)
    raise RuntimeError("no more")

  with pytest.raises(RuntimeError, match="no more"):
    shards.write_shard(tmp_path, 0, 1, examples())
  assert not list(tmp_path.iterdir())


# --- what is missing or damaged ---------------------------------------------


def test_a_folder_without_shards_is_named(tmp_path):
  for folder in (tmp_path, tmp_path / "missing"):
    with pytest.raises(UserError, match="no image shards"):
      shards.open_shards(folder)


def test_missing_shards_are_counted(tmp_path):
  write(tmp_path)
  (tmp_path / shards.shard_name(1, 3)).unlink()
  with pytest.raises(UserError, match=r"lacks 1 of 3 shards.*00001-of-00003"):
    shards.open_shards(tmp_path)


@pytest.mark.faults
def test_what_a_killed_run_left_unfinished_is_no_shard(tmp_path):
  name = shards.shard_name(0, 1, name="things")
  shards.write_shard(tmp_path, 0, 1, map(row, range(4)), name="things")
  (tmp_path / f".tmp-0123abcd-{name}").write_bytes(b"half of it")
  assert len(shards.open_shards(tmp_path)) == 4


def test_shards_of_two_data_sets_are_not_mixed(tmp_path):
  write(tmp_path)
  write(tmp_path, rows=(2, 2))
  with pytest.raises(UserError, match="mixes"):
    shards.open_shards(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("keep", [0, 100, 65536, -1])
def test_a_shard_that_was_cut_short_is_named(tmp_path, keep):
  write(tmp_path)
  path = tmp_path / shards.shard_name(2, 3)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(UserError) as error:
    shards.open_shards(tmp_path)
  assert str(path) in str(error.value) and "cut short" in str(error.value)
  assert "run the task that wrote it again" in str(error.value)


@pytest.mark.faults
def test_a_shard_with_other_rows_than_expected_is_named(tmp_path):
  write(tmp_path)
  path = tmp_path / shards.shard_name(2, 3)
  shards.check_rows(path, 4)
  with pytest.raises(UserError, match="4 rows where 5 belong"):
    shards.check_rows(path, 5)


@pytest.mark.faults
def test_a_flipped_byte_is_noticed_when_its_row_is_read(tmp_path):
  write(tmp_path)
  path = tmp_path / shards.shard_name(2, 3)
  content = bytearray(path.read_bytes())
  where = content.find(b"no. 4")
  content[where] ^= 1
  path.write_bytes(content)
  source = shards.open_shards(tmp_path)
  assert_same(source[3], row(3))
  with pytest.raises(UserError, match="00002-of-00003 is damaged"):
    source[4]
