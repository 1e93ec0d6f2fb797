"""Folders, shards and TFDS give rows of the same kind."""

import pickle

import numpy as np
import pytest
from PIL import Image

from synthjax.data.formats import png_folder
from synthjax.data.generated import shards
from synthjax.data.pipeline import image_files
from synthjax.data.real import archives, real_images
from synthjax.data.real.tfds_copies import open_tfds
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

CLASSES = {"cat": 7, "dog": 3}
RED = (200, 10, 20)


def save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path)


@pytest.fixture
def class_folders(tmp_path):
  for name in CLASSES:
    for i in range(2):
      save(tmp_path / name / f"{i}.png", Image.new("RGB", (4, 6), RED))
  (tmp_path / "cat" / "notes.txt").write_text("not an image")
  (tmp_path / "readme.txt").write_text("nor a class")
  return tmp_path


def test_a_folder_gives_rows_sorted_by_name(class_folders):
  source = png_folder.open_folder(class_folders, CLASSES)
  assert [row["id"] for row in source] == [
    "cat/0.png",
    "cat/1.png",
    "dog/0.png",
    "dog/1.png",
  ]
  assert [row["label"] for row in source] == [7, 7, 3, 3]
  assert source[0]["image"].shape == (6, 4, 3)
  assert source[0]["image"].dtype == np.uint8
  assert tuple(source[0]["image"][0, 0]) == RED
  assert len(pickle.loads(pickle.dumps(source))) == 4


def test_empty_missing_and_unknown_folders_are_all_listed(class_folders):
  (class_folders / "empty").mkdir()
  (class_folders / "other").mkdir()
  classes = CLASSES | {"empty": 1, "gone": 2}
  with pytest.raises(UserError) as error:
    png_folder.open_folder(class_folders, classes)
  message = str(error.value)
  assert "empty: holds no image" in message
  assert "gone: there is no such folder" in message
  assert "'other': no class is called so" in message
  assert "'cat'" not in message


def test_a_folder_that_is_not_there_is_named(tmp_path):
  with pytest.raises(UserError, match="no folder .*missing"):
    png_folder.open_folder(tmp_path / "missing", CLASSES)


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_file_that_is_no_image_is_named_when_it_is_read(
  class_folders, content
):
  path = class_folders / "dog" / "1.png"
  # None: an image that was cut short
  path.write_bytes(path.read_bytes()[:50] if content is None else content)
  source = png_folder.open_folder(class_folders, CLASSES)
  assert source[2]["label"] == 3
  with pytest.raises(UserError, match="dog/1.png cannot be read"):
    source[3]


@pytest.mark.parametrize(
  ("mode", "colour", "want"),
  [
    ("L", 100, (100, 100, 100)),
    ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ("1", 1, (255, 255, 255)),
    ("I;16", 256 * 100, (100, 100, 100)),
    ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
    ("LA", (0, 128), (127, 127, 127)),
  ],
)
def test_every_mode_becomes_rgb(mode, colour, want):
  image = image_files.to_rgb(Image.new(mode, (2, 2), colour))
  assert image.mode == "RGB"
  assert image.getpixel((0, 0)) == want


def test_a_palette_keeps_its_colours_and_its_transparency():
  image = Image.new("P", (2, 1))
  image.putpalette([*RED, 0, 0, 0])
  image.putdata([0, 1])
  assert image_files.to_rgb(image).getpixel((0, 0)) == RED
  image.info["transparency"] = 1
  assert image_files.to_rgb(image).getpixel((1, 0)) == (255, 255, 255)


def test_a_square_is_the_middle_of_the_image(tmp_path):
  wide = np.zeros((10, 30, 3), np.uint8)
  wide[:, 6:24] = RED  # the filter reads a little beside the square
  save(tmp_path / "cat" / "wide.png", Image.fromarray(wide))
  save(tmp_path / "dog" / "tall.png", Image.fromarray(wide.swapaxes(0, 1)))
  source = png_folder.open_folder(tmp_path, CLASSES, image_size=5)
  for row in source:
    np.testing.assert_array_equal(row["image"], np.full((5, 5, 3), RED))


def write_shards(folder):
  rows = [
    {
      "image": np.full((4, 4, 3), i, np.uint8),
      "label": i % 2,
      "prompt": "p",
      "seed": 0,
      "id": f"x{i}",
    }
    for i in range(3)
  ]
  shards.write_shard(folder, 0, 1, rows)
  shards.write_dataset_info(
    folder, [3], {0: "a", 1: "b"}, description="A test."
  )


def test_shards_are_a_source(tmp_path):
  write_shards(tmp_path)
  source = real_images.open_real(
    {"kind": "shards", "folder": tmp_path, "kept_ids": ["x2"]}, space=None
  )
  assert len(source) == 1 and source[0]["id"] == "x2"


def test_a_prepared_tfds_data_set_is_a_source(tmp_path):
  """Where TFDS looks for it: DATA_DIR/NAME/VERSION."""
  pytest.importorskip("tensorflow_datasets")
  write_shards(tmp_path / "synthjax" / "1.0.0")
  source = open_tfds("synthjax", "train[1:]", data_dir=tmp_path, image_size=2)
  assert len(source) == 2
  assert source[0]["image"].shape == (2, 2, 3)
  assert source[0]["image"][0, 0, 0] == 1
  assert source[0]["label"] == 1
  assert source[0]["id"] == "synthjax-train[1:]-0"
  with pytest.raises(UserError, match="'lable'; did you mean 'label'"):
    open_tfds("synthjax", "train", data_dir=tmp_path, label_key="lable")


def test_the_embedded_drawings_are_a_source():
  row = real_images.open_real({"split": "validation"}, space=None)[0]
  assert row["image"].shape == (32, 32, 3) and row["image"].dtype == np.uint8


def test_unknown_sources_and_fields_name_the_nearest():
  for block, words in (
    ({"kind": "foldr", "path": "x"}, "x.kind='foldr': .* mean 'folder'"),
    ({"kind": "folder", "pth": "x"}, "no field 'pth'; did you mean 'path'"),
    ({"kind": "folder"}, "x lacks path: needed text"),
    ({"kind": "folder", "path": "x", "image_size": 0}, "image_size=0: needed"),
    ({"kind": "tfds", "name": "cifar10"}, "x lacks split"),
    ({"kind": "tfds", "name": "x", "split": 3}, "split=3: needed text"),
    ({"split": "tset"}, "split='tset': needed one of train.* mean 'test'"),
  ):
    with pytest.raises(UserError, match=words):
      real_images.check_real(block, None, "x")


def test_a_data_set_of_one_s_own_is_one_module(tmp_path, monkeypatch):
  (tmp_path / "my_birds.py").write_text(
    "def load(count: int, *, space):\n"
    "  return [{'image': None, 'label': len(space), 'id': 'a'}] * count\n"
  )
  (tmp_path / "my_noise.py").write_text("def rows(): return [1, 2]")
  monkeypatch.syspath_prepend(tmp_path)
  block = {"kind": "my_birds:load", "count": 2}
  source = real_images.open_real(block, space="abc")
  assert [row["label"] for row in source] == [3, 3]
  assert real_images.open_real({"kind": "my_noise.rows"}, "abc") == [1, 2]
  with pytest.raises(UserError, match="count='2': needed a whole number"):
    real_images.check_real(block | {"count": "2"}, "abc")


# --- labels -----------------------------------------------------------------


def test_labels_are_known_without_decoding(class_folders):
  (class_folders / "dog" / "1.png").write_text("not an image")
  source = png_folder.open_folder(class_folders, CLASSES)
  assert source.labels.tolist() == [7, 7, 3, 3]


@pytest.fixture
def prepared(tmp_path):
  """Writes rows 0 to 5 of three labels as TFDS keeps them."""
  folder = tmp_path / "synthjax" / "1.0.0"
  rows = [
    {
      "image": np.full((4, 4, 3), i, np.uint8),
      "label": i % 3,
      "prompt": "p",
      "seed": 0,
      "id": f"x{i}",
    }
    for i in range(6)
  ]
  shards.write_shard(folder, 0, 1, rows)
  names = {0: "airplanes", 1: "background_google", 2: "Car_Side"}
  shards.write_dataset_info(folder, [6], names, description="A test.")
  return dict(name="synthjax", split="train", data_dir=tmp_path)


def test_labels_of_tfds_are_matched_by_name(prepared):
  pytest.importorskip("tensorflow_datasets")
  classes = {"car side": 0, "airplanes": 1, "Background Google": 2}
  source = open_tfds(**prepared, classes=classes)
  assert source.labels.tolist() == [1, 2, 0] * 2
  assert [row["label"] for row in source] == [1, 2, 0] * 2
  assert open_tfds(**prepared).labels.tolist() == [0, 1, 2] * 2


def test_a_label_of_tfds_can_be_left_out(prepared):
  """As the background of Caltech101."""
  pytest.importorskip("tensorflow_datasets")
  source = open_tfds(
    **prepared,
    classes={"car side": 1, "airplanes": 0},
    left_out=("background_google",),
  )
  assert source.labels.tolist() == [0, 1] * 2
  assert [row["image"][0, 0, 0] for row in source] == [0, 2, 3, 5]
  assert [row["id"][-2:] for row in source] == ["-0", "-2", "-3", "-5"]
  assert len(pickle.loads(pickle.dumps(source))) == 4


def test_labels_of_tfds_that_do_not_fit_are_named(prepared):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(UserError, match="'boat': this class is not there"):
    open_tfds(**prepared, classes={"airplanes": 0, "boat": 1})
  with pytest.raises(UserError, match="did you mean 'background_google'"):
    open_tfds(**prepared, left_out=("background",))
  source = open_tfds(**prepared, classes={"airplanes": 0})
  assert source[0]["label"] == 0
  with pytest.raises(UserError, match="label 1 of TFDS, which is none"):
    source[1]


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (
      lambda b, at: b | {"split": "test"},
      "has no split 'test', but train, and",
    ),
    (
      lambda b, at: b | {"name": "cifar10"},
      r"tfds.builder\('cifar10', data_dir='.*', file_format='array_record'\)",
    ),
    (
      lambda b, at: at.unlink() or b,
      "lacks 1 of 1 files of its 'train'.*or delete",
    ),
    (
      lambda b, at: _as_tfrecord(at) or b,
      "is prepared as tfrecord, which has no random access: prepare another "
      "copy by `.*/array_record', file_format='array_record'.*that data_dir",
    ),
  ],
)
def test_a_copy_that_cannot_be_read_says_how_to_prepare_it(
  prepared, change, words
):
  """Before a run, in one sentence, which needs no TensorFlow."""
  pytest.importorskip("tensorflow_datasets")
  (shard,) = prepared["data_dir"].glob("*/*/*.array_record*")
  block = change(dict(kind="tfds", **prepared), shard)
  with pytest.raises(UserError, match=words) as error:
    real_images.check_real(block, None)
  assert str(error.value).count("\n") == 0


def _as_tfrecord(shard):
  info = shard.parent / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))


def test_kaggle_s_list_has_the_classes_of_imagenet_s_validation(tmp_path):
  (tmp_path / "val").mkdir()
  for i in (1, 2):
    image = Image.new("RGB", (4, 4))
    image.save(tmp_path / f"val/ILSVRC2012_val_{i:08}.JPEG")
  table = tmp_path / "LOC_val_solution.csv"
  rows = "2,n01 85 1 499 2 n01 1 1 2 2 \n", "1,n02 1 2 3 4 \n"
  listed = "".join(f"ILSVRC2012_val_0000000{row}" for row in rows)
  table.write_text(f"ImageId,PredictionString\n{listed}")
  classes = [{"name": "tench", "key": "n01"}, {"name": "cock", "key": "n02"}]
  space = spaces.parse_space(classes, where="here")
  source = archives.imagenet(tmp_path, "validation", space=space)
  assert source.labels.tolist() == [1, 0]
  table.write_text(listed)
  with pytest.raises(UserError, match="without ImageId and PredictionString"):
    archives.imagenet(tmp_path, "validation", space=space)


def test_a_user_s_folders_are_found_by_key(class_folders):
  fields = [{"name": "pet", "key": "cat"}, {"name": "pet", "key": "dog"}]
  space = spaces.parse_space({"name": "x", "classes": fields}, where="x")
  source = real_images.open_real(
    {"kind": "folder", "path": class_folders}, space
  )
  assert source.labels.tolist() == [0, 0, 1, 1]
