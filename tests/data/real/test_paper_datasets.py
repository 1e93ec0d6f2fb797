"""The table of the paper's 17 data sets, and how their splits are opened."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from synthjax.data.real import real_images
from synthjax.data.real.paper_datasets import (
  BENCHMARKS,
  SPACES,
  Part,
  Splits,
)
from synthjax.data.real.real_images import SOURCES
from synthjax.data.real.tfds_copies import label_table
from synthjax.labels import spaces
from synthjax.labels.class_names import lookup
from synthjax.runtime.errors import UserError
from synthjax.runtime.specifications import plain

ALL = [(name, splits) for name in BENCHMARKS for splits in BENCHMARKS[name]]


def parts_of(splits):
  return [p for p in (splits.train, splits.validation, splits.test) if p]


def test_there_are_the_17_sets_of_the_paper():
  assert len(BENCHMARKS) == 17
  spaces_of = [next(iter(s.values())).space for s in BENCHMARKS.values()]
  assert len(set(spaces_of)) == 17
  assert set(spaces_of) <= set(spaces.built_in_spaces())


@pytest.mark.parametrize(("name", "splits"), ALL)
def test_a_row_of_the_table_names_sources(name, splits):
  """`test_publishers` opens each from its publisher's files."""
  for part in parts_of(BENCHMARKS[name][splits]):
    for block in filter(None, (part.files, part.tfds)):
      assert block["kind"] in SOURCES
      plain(block)
    assert bool(part.files) == bool(part.needs)
    assert part.files or part.tfds


@pytest.mark.parametrize(
  ("name", "splits", "sizes"),
  [
    ("caltech101", "coop", (4128, 1649, 2465)),
    ("eurosat", "coop", (13500, 5400, 8100)),
    ("pets", "official", (3680, 3669)),
    ("food", "official", (75750, 25250)),
    ("dtd", "coop", (2820, 1128, 1692)),
    ("caltech256", "first60", (15420, 15187)),
    ("birdsnap", "official", (47386, 2443)),
  ],
)
def test_the_paper_s_splits_come_first(name, splits, sizes):
  assert next(iter(BENCHMARKS[name])) == splits
  found = parts_of(BENCHMARKS[name][splits])
  assert tuple(part.size for part in found) == sizes


def test_sizes_add_up():
  """Totals of the data sets, which are known apart from their splits."""
  for name, splits, total in (
    ("eurosat", "coop", 27_000),
    ("eurosat", "tfds", 27_000),
    ("caltech256", "first60", 30_607),
    ("birdsnap", "official", 49_829),
    ("food", "coop", 101_000),
    ("food", "official", 101_000),
    ("cub", "official", 11_788),
    ("aircraft", "official", 10_000),
    ("dtd", "coop", 5_640),
    ("dtd", "official", 5_640),
    ("flowers", "coop", 8_189),
    ("flowers", "official", 8_189),
    ("cars", "official", 16_185),
    ("cars", "coop", 16_185),
    ("pets", "coop", 7_349),
    ("pets", "official", 7_349),
    ("cifar10", "held_out", 60_000),
    ("sun397", "coop", 39_700),
    ("sun397", "official", 39_700),
  ):
    found = sum(part.size for part in parts_of(BENCHMARKS[name][splits]))
    assert found == total, (name, splits)


@pytest.mark.parametrize(
  ("name", "splits"),
  [(n, s) for n, s in ALL if BENCHMARKS[n][s].test.tfds],
)
def test_tfds_has_these_data_sets_and_classes(name, splits, tmp_path):
  """Against the code of the installed TFDS; nothing is downloaded."""
  tfds = pytest.importorskip("tensorflow_datasets")
  found = BENCHMARKS[name][splits]
  space = spaces.load_space(found.space)
  for part in parts_of(found):
    block = part.tfds
    features = tfds.builder(block["name"], data_dir=tmp_path).info.features
    names = features["label"].names
    left_out = set(block.get("left_out", ()))
    assert "image" in features and left_out <= set(names)
    if block.get("by_name"):
      table = label_table(names, left_out, lookup(space), name)
    else:
      table = list(range(len(names)))
    labels = [label for label in table if label is not None]
    # Ours are TFDS's order, without what is left out.
    assert labels == list(range(len(space.classes)))
    free = {n for n, label in zip(names, table, strict=True) if label is None}
    assert free == left_out or name == "imagenet_r"


# --- opening ----------------------------------------------------------------


@pytest.fixture
def eurosat(tmp_path):
  """Writes a copy of EuroSAT in CoOp's layout, with 2 images of each class."""
  space = spaces.load_space("eurosat")
  theirs = list(reversed(space.classes))  # an order that is not ours
  rows = {
    split: [
      [f"{c.key}/{c.key}_{number}.jpg", label, c.name]
      for label, c in enumerate(theirs)
    ]
    for split, number in (("train", 1), ("val", 2), ("test", 3))
  }
  root = tmp_path / "eurosat"
  for path, *_ in sum(rows.values(), []):
    (root / "2750" / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64)).save(root / "2750" / path)
  (root / "split_zhou_EuroSAT.json").write_text(json.dumps(rows))
  return tmp_path


BLOCK = dict(kind="benchmark", name="eurosat", split="test")


def shrink(monkeypatch, size, **more):
  found = BENCHMARKS["eurosat"]["coop"]
  part = found.test._replace(size=size)
  splits = Splits("eurosat", part, found.train, **more)
  monkeypatch.setitem(BENCHMARKS, "eurosat", {"coop": splits})


@pytest.mark.parametrize(
  "space", ["eurosat", "eurosat_clip", "eurosat_released"]
)
def test_the_names_of_classes_may_be_any_of_the_three(
  eurosat, space, monkeypatch
):
  shrink(monkeypatch, 10)
  block = BLOCK | {"data_dir": str(eurosat)}
  space = spaces.load_space(space)
  source = real_images.open_real(block, space)
  assert source.labels.tolist() == list(reversed(range(10)))
  keys = [c.key for c in space.classes]
  for row in source:
    assert row["id"].startswith(keys[row["label"]])
  # As zeroshot.py asks for it, by the name of the space.
  same = real_images.open_real(block | {"name": space.name}, space)
  assert same.labels.tolist() == source.labels.tolist()


def test_every_label_space_with_real_images_has_a_data_set():
  without = {"in2k", "voc"}  # 2,000 classes that are drawn; boxes
  shipped = {path.stem for path in spaces.FOLDER.glob("*.yaml")} - without
  assert shipped == BENCHMARKS.keys() | SPACES.keys()
  for name in shipped:
    space = spaces.load_space(name)
    try:
      real_images.resolve(name, "test", space, data_dir="D")
    except UserError as error:  # it is known, and not here
      assert "is not there" in str(error)


def test_a_split_of_another_size_is_refused(eurosat):
  block = BLOCK | {"data_dir": str(eurosat)}
  with pytest.raises(UserError, match="has 10 rows, where 8100 are expected"):
    real_images.check_real(block, spaces.load_space("eurosat"))


def test_the_error_gives_the_known_reason(eurosat, monkeypatch, caplog):
  space, block = (
    spaces.load_space("eurosat"),
    BLOCK | {"data_dir": str(eurosat)},
  )
  shrink(monkeypatch, 12, note="Half of it is gone")
  with pytest.raises(
    UserError, match=r"12 are expected\. Half of it is gone\."
  ):
    real_images.open_real(block, space)
  shrink(monkeypatch, 12, note="Half of it is gone", may_lack=True)
  assert len(real_images.open_real(block, space)) == 10
  assert "10 rows, where 12 are expected. Half of it is gone." in caplog.text
  shrink(monkeypatch, 9, note="Half of it is gone", may_lack=True)
  with pytest.raises(UserError, match="9 are expected"):  # more than there are
    real_images.open_real(block, space)


@pytest.mark.parametrize(
  ("more", "space", "words"),
  [
    ({"name": "eurosatt"}, "eurosat", "did you mean 'eurosat'"),
    ({"splits": "cop"}, "eurosat", "did you mean 'coop'"),
    ({"split": "val"}, "eurosat", "needed one of train, validation, test"),
    ({}, "cifar100", "has 10 classes, but .*'cifar100' has 100.*'eurosat'"),
    ({"data_dir": "/no"}, "eurosat", "eurosat lacks 2750, split_zhou_EuroSAT"),
    ({"split_file": "x"}, "eurosat", "no field 'split_file'"),
    ({"name": "birdsnap", "split": "validation"}, "birdsnap", "test, train"),
  ],
)
def test_a_wrong_benchmark_says_what_to_change(more, space, words):
  with pytest.raises(UserError, match=words):
    real_images.check_real(BLOCK | more, spaces.load_space(space))


def test_a_benchmark_needs_a_name_and_a_split():
  with pytest.raises(UserError, match="lacks name(.|\n)*lacks split"):
    real_images.open_real({"kind": "benchmark"}, spaces.load_space("eurosat"))


def test_training_images_validate_where_no_others_do(tmp_path, monkeypatch):
  space = spaces.load_space("eurosat")
  for c in space.classes:
    folder = tmp_path / "train" / c.key
    folder.mkdir(parents=True)
    for i in range(5):
      Image.new("RGB", (1, 1)).save(folder / f"{i}.jpg")
  part = Part(50, dict(kind="folder", path="train"), ("train",))
  splits = {"folders": Splits("eurosat", part, part)}
  monkeypatch.setitem(BENCHMARKS, "eurosat", splits)
  block = dict(kind="benchmark", name="eurosat", data_dir=str(tmp_path))
  with pytest.raises(UserError, match="split of eurosat"):
    real_images.check_real(block | {"split": "validation"}, space)
  labels = {}
  for split in ("train", "validation", "test"):
    held_out = block | {"split": split, "held_out": 0.2}
    real_images.check_real(held_out, space)
    source = real_images.open_real(held_out, space)
    labels[split] = source.labels
    assert pickle.loads(pickle.dumps(source)).labels.tolist() == [
      *source.labels
    ]
  counts = {split: np.bincount(x).tolist() for split, x in labels.items()}
  assert counts == {"train": [4] * 10, "validation": [1] * 10, "test": [5] * 10}
  held_out = block | {"split": "train", "held_out": 0.2}
  real_images.check_real(held_out, space, shots=[4])
  with pytest.raises(UserError, match=f"{space.class_names[0]} has 4"):
    real_images.check_real(held_out, space, shots=[5])


def test_imagenet_is_read_from_folders_of_synsets(tmp_path, monkeypatch):
  """Two classes of one name keep their images apart."""
  space = spaces.load_space("imagenet")
  keys = [c.key for c in space.classes]
  for key in keys:
    folder = tmp_path / "imagenet" / "images" / "val" / key
    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_val_1.JPEG").touch()
  block = dict(
    kind="benchmark",
    name="imagenet",
    split="test",
    splits="folders",
    data_dir=str(tmp_path),
  )
  with pytest.raises(UserError, match="1000 rows, where 50000 are expected"):
    real_images.open_real(block, space)
  found = BENCHMARKS["imagenet"]["folders"]
  splits = Splits("imagenet", found.test._replace(size=1000))
  monkeypatch.setitem(BENCHMARKS, "imagenet", {"folders": splits})
  source = real_images.open_real(block, space)
  assert source.labels.tolist() == list(range(1000))
